"""The clients of the demo: unmodified programs that upload or download endlessly.

An upload is fed by ``dd`` through a pipe. It ends by ending dd: the program sees end of file and finishes properly, and
dd has counted the bytes. It writes in pieces that are atomic for a pipe (PIPE_BUF, pipe(7)), so that its count is
exact, and can be compared with the bytes received. A download ends when its server ends it, which has counted.

Requests on one kept-alive connection are one curl, with a FIFO for the body of each. curl opens a file when its turn
comes, and blocks until it has a writer (fifo(7)). So the first request lasts as long as its dd writes, then the next
begins, on the same connection; curl reports how many it has opened.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from podlane.demo.peer import RAW
from podlane.demo.programs import DemoProgram
from podlane.demo.scenario import RAW_PORT, Client, DemoLane
from podlane.demo.servers import PYTHON_MODULE, Servers
from podlane.errors import DemoError
from podlane.netns import Host
from podlane.netns.tools import require_tool

_PIECE: Final = "bs=4k"
_COUNT: Final = re.compile(r"^(\d+) bytes", re.MULTILINE)
_FEEDER_PATIENCE: Final = 5.0
_SAID: Final = r"\n%{num_connects}\n"
"""Behind the body of each answer: how many connections curl had to open for the request."""

Received = tuple[int | None, str | None]
"""The bytes received by the peer, if known, and the error, if any."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """The result of a transfer: bytes sent, bytes counted by the peer, and the error, if any."""

    lane: str
    sent: int
    received: int | None
    problem: str | None = None

    @property
    def complete(self) -> bool:
        return self.problem is None and self.sent == self.received


def command(lane: DemoLane, server: str, certificate: Path) -> list[str]:
    """The program of a class, with its arguments; ``server`` is the address that it connects to."""
    if lane.client is Client.CAT:
        return [require_tool("bash"), "-c", f"exec cat > /dev/tcp/{server}/{RAW_PORT}"]
    if lane.client is Client.QUIC:
        assert lane.resolve is not None
        name, port = lane.resolve
        return [*PYTHON_MODULE, "podlane.demo.quic", "send", server, str(port), name, str(certificate)]
    if lane.kind.uploads:
        return [require_tool("curl"), *_curl_options(lane, server, certificate, upload="-")]
    output = ["--output", "/dev/null", "--write-out", "%{size_download}"]
    return [require_tool("curl"), *_curl_options(lane, server, certificate), *output]


def conversation_command(
    lanes: Sequence[DemoLane], bodies: Iterable[Path], address: str, certificate: Path
) -> list[str]:
    """curl, told to make a request per lane with the bodies that these files give."""
    argv: list[str] = []
    for lane, body in zip(lanes, bodies, strict=True):
        argv += ["--next"] if argv else [require_tool("curl")]
        argv += _curl_options(lane, address, certificate, upload=str(body))
        # Without Expect: the body begins at once.
        argv += ["--http1.1", "--header", "Expect:", "--write-out", _SAID]
    return argv


def _curl_options(lane: DemoLane, server: str, certificate: Path, *, upload: str | None = None) -> list[str]:
    """What curl is told for one transfer; ``upload`` names the file to send."""
    options = ["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(certificate)]
    if upload is not None:
        options += ["--upload-file", upload]
    if lane.resolve is not None:
        name, port = lane.resolve
        options += ["--resolve", f"{name}:{port}:{server}"]
    return options + [argument.format(server=server) for argument in lane.arguments]


class Feeder:
    """``dd``, which writes zeros without end into a pipe, or into the file named by ``into``, and counts them.

    Of a lane with a pace it is :mod:`podlane.demo.pace`.
    """

    def __init__(self, lane: DemoLane, host: Host, folder: Path, into: Path | None = None) -> None:
        self._lane, self._log = lane.name, folder / f"{lane.name}.dd.log"
        argv = [require_tool("dd"), "if=/dev/zero", _PIECE, *([] if into is None else [f"of={into}"])]
        if lane.pace:
            assert into is None
            argv = [*PYTHON_MODULE, "podlane.demo.pace", str(lane.pace)]
        stdout = subprocess.PIPE if into is None else subprocess.DEVNULL
        program = DemoProgram("dd", host, argv, self._log, subprocess.DEVNULL, stdout=stdout)
        self._process = program.process

    @property
    def output(self) -> IO[bytes]:
        """Our end of the pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def end(self) -> None:
        """No more bytes; what is in the pipe stays there for its reader."""
        self._process.send_signal(signal.SIGINT)

    def count(self) -> int:
        """How many bytes it has written, after :meth:`end`. Raises :class:`DemoError`."""
        try:
            self._process.wait(_FEEDER_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self._lane}: dd does not end.") from None
        counts = _COUNT.findall(self._log.read_text())
        return int(counts[-1]) if counts else 0


@dataclass
class Running:
    """A transfer that is going on: from the Pod where it has a ``feeder``, else one that ``servers`` give."""

    lane: DemoLane
    program: DemoProgram
    servers: Servers
    received: Callable[[float], Received]
    """What has been received once the program has ended, for which it waits up to so many seconds."""
    feeder: Feeder | None = None
    is_ending: bool = False

    def check(self) -> None:
        """Raise :class:`DemoError` when the program ended by itself: its connection broke."""
        if not self.is_ending:
            self.program.check(self.lane.name)

    def end(self) -> None:
        """Let the transfer finish; what is on its way still arrives."""
        if self.feeder is not None:
            self.feeder.end()
        elif not self.is_ending:
            self.servers.end_download(self.lane.name)
        self.is_ending = True

    def result(self, patience: float) -> Transfer:
        """Wait up to ``patience`` seconds for the end of what :meth:`end` has ended."""
        if self.feeder is not None:
            return Transfer(self.lane.name, self.feeder.count(), *self.received(patience))
        received, problem = self.received(patience)
        sent = self.servers.counted(self.lane.name, patience)
        if problem is None and sent is None:
            problem = "its server did not end it"
        return Transfer(self.lane.name, sent or 0, received, problem)


def start_upload(lane: DemoLane, host: Host, servers: Servers, argv: Sequence[str], folder: Path) -> Running:
    """An upload by a program of its own."""
    feeder = Feeder(lane, host, folder)
    program = _program(lane, host, argv, folder, feeder.output)
    # Ours would keep dd's pipe open after the program is gone.
    feeder.output.close()

    def received(patience: float) -> Received:
        said, problem = program.output(patience)
        if problem is not None or lane.client is not Client.CAT:
            return None if problem else _received(said), problem
        return servers.counted(RAW, patience), None

    return Running(lane, program, servers, received, feeder)


def start_download(lane: DemoLane, host: Host, servers: Servers, argv: Sequence[str], folder: Path) -> Running:
    """A download from ``servers``."""
    program = _program(lane, host, argv, folder, subprocess.DEVNULL)

    def received(patience: float) -> Received:
        said, problem = program.output(patience)
        return int(said) if problem is None else None, problem

    return Running(lane, program, servers, received)


def _program(lane: DemoLane, host: Host, argv: Sequence[str], folder: Path, stdin: IO[bytes] | int) -> DemoProgram:
    return DemoProgram(lane.client.value, host, argv, folder / f"{lane.name}.log", stdin)


class Conversation:
    """The curl that makes the requests of all ``lanes``, in their order."""

    def __init__(
        self, lanes: Sequence[DemoLane], host: Host, servers: Servers, address: str, certificate: Path, folder: Path
    ) -> None:
        """Start it; raises :class:`DemoError` when curl cannot be started."""
        self._lanes = tuple(lanes)
        self._host, self._servers, self._folder = host, servers, folder
        self._fifos = {lane.name: folder / f"{lane.name}.fifo" for lane in lanes}
        for path in self._fifos.values():
            os.mkfifo(path, 0o600)
        argv = conversation_command(lanes, self._fifos.values(), address, certificate)
        self._program = DemoProgram("curl", host, argv, folder / "conversation.log", subprocess.DEVNULL)
        self._said: tuple[bytes, str | None] | None = None

    def start_upload(self, lane: DemoLane) -> Running:
        """Let the request of a lane begin, as soon as those before it have ended."""
        feeder = Feeder(lane, self._host, self._folder, self._fifos[lane.name])
        return Running(lane, self._program, self._servers, lambda patience: self._received(lane, patience), feeder)

    def _received(self, lane: DemoLane, patience: float) -> Received:
        if self._said is None:
            self._said = self._program.output(patience)
        said, problem = self._said
        lines = said.splitlines()
        index = 2 * self._lanes.index(lane)
        if problem is None and len(lines) != 2 * len(self._lanes):
            problem = f"curl said something else than {len(self._lanes)} answers: {said!r}"
        if problem is not None:
            return None, problem
        opened = int(lines[index + 1])
        if opened != (index == 0):
            return None, f"curl opened {opened} connections for it, instead of using the one that was there"
        return _received(lines[index]), None


def _received(answer: bytes) -> int | None:
    """What the server says that it got; None when it says something else."""
    try:
        return int(json.loads(answer)["received"])
    except (ValueError, KeyError, TypeError):
        return None
