"""Several uploads one after another on one kept connection: one curl, and a FIFO for the body of each request.

curl opens a file when its turn comes, and waits there until somebody writes (fifo(7)). So the first request lasts as
long as its dd writes, then the next begins, on the same connection; curl says how many it has opened.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from podlane.demo.clients import Feeder, Program, Transfer, curl_options, received
from podlane.demo.programs import tool
from podlane.demo.scenario import Lane
from podlane.netns import Host

_SAID: Final = r"\n%{num_connects}\n"
"""Behind the body of each answer: how many connections curl had to open for the request."""


class Conversation:
    """The curl that makes the requests of all ``lanes``, in their order."""

    def __init__(self, lanes: Sequence[Lane], pod: Host, address: str, certificate: Path, folder: Path) -> None:
        """Start it; raises :class:`~podlane.errors.DemoError` when curl cannot be started."""
        self.lanes = tuple(lanes)
        self.fifos = {lane.name: folder / f"{lane.name}.fifo" for lane in lanes}
        for path in self.fifos.values():
            os.mkfifo(path, 0o600)
        argv = conversation_command(lanes, self.fifos.values(), address, certificate)
        self.program = Program("curl", pod, argv, folder / "conversation.log", subprocess.DEVNULL)
        self._said: tuple[bytes, str | None] | None = None

    def answer(self, lane: Lane, patience: float) -> tuple[int | None, str | None]:
        """What the server got of a lane's upload, once curl has ended, and what went wrong, if anything."""
        if self._said is None:
            self._said = self.program.output(patience)
        said, problem = self._said
        lines = said.splitlines()
        index = 2 * self.lanes.index(lane)
        if problem is None and len(lines) != 2 * len(self.lanes):
            problem = f"curl said something else than {len(self.lanes)} answers: {said!r}"
        if problem is not None:
            return None, problem
        opened = int(lines[index + 1])
        if opened != (index == 0):
            return None, f"curl opened {opened} connections for it, instead of using the one that was there"
        return received(lines[index]), None


class Request:
    """One upload of a conversation."""

    def __init__(self, lane: Lane, conversation: Conversation) -> None:
        self.lane = lane
        self._conversation = conversation
        self._feeder = Feeder(conversation.fifos[lane.name])
        self._ending = False

    def check(self) -> None:
        if not self._ending:
            self._conversation.program.check(self.lane.name)

    def end(self) -> None:
        self._ending = True
        self._feeder.end()

    def result(self, patience: float) -> Transfer:
        sent = self._feeder.count(self.lane.name)
        received, problem = self._conversation.answer(self.lane, patience)
        return Transfer(self.lane.name, sent, received, problem)

    def kill(self) -> None:
        self._feeder.kill()


def conversation_command(lanes: Sequence[Lane], bodies: Iterable[Path], address: str, certificate: Path) -> list[str]:
    """curl, told to make a request per lane with the bodies that these files give."""
    argv = [tool("curl")]
    for lane, body in zip(lanes, bodies, strict=True):
        argv += ["--next"] if len(argv) > 1 else []
        argv += curl_options(lane, address, certificate, upload=str(body))
        # Without Expect: the body begins at once.
        argv += ["--http1.1", "--header", "Expect:", "--write-out", _SAID]
    return argv
