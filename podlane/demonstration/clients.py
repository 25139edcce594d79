"""The clients of the demo: unmodified programs in the Pod that upload without end.

Each is fed by ``dd`` through a pipe. Ending an upload means ending dd: the program finds the end of its input and
finishes properly, and dd has counted the bytes. It writes them in pieces that a pipe takes whole or not at all
(PIPE_BUF, pipe(7)), so that its count is exact, and can be held against what arrived.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podlane.demonstration.programs import guarded, last_words, tool
from podlane.demonstration.scenario import RAW_PORT, Client, Lane
from podlane.errors import DemoError
from podlane.lab import Host

_PIECE: Final = "bs=4k"
_COUNT: Final = re.compile(r"^(\d+) bytes", re.MULTILINE)
_FEEDER_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Upload:
    """How an upload ended: bytes sent, bytes that the server's end counted, and what went wrong, if anything."""

    lane: str
    sent: int
    received: int | None
    problem: str | None = None

    @property
    def complete(self) -> bool:
        return self.problem is None and self.sent == self.received


def command(lane: Lane, server: str, certificate: Path) -> list[str]:
    """The program of a lane, with its arguments."""
    if lane.client is Client.CAT:
        return [tool("bash"), "-c", f"exec cat > /dev/tcp/{server}/{RAW_PORT}"]
    argv = [tool("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", "--upload-file", "-"]
    argv += ["--cacert", str(certificate)]
    if lane.resolve is not None:
        name, port = lane.resolve
        argv += ["--resolve", f"{name}:{port}:{server}"]
    return argv + [argument.format(server=server) for argument in lane.arguments]


class Uploader:
    """One running upload."""

    def __init__(self, lane: Lane, pod: Host, server: str, certificate: Path, folder: Path) -> None:
        """Start it; raises :class:`DemoError` when the program cannot be started."""
        self.lane = lane
        self.ending = False
        self._log = folder / f"{lane.name}.log"
        # LC_ALL: dd's words are read below.
        environment = {**os.environ, "LC_ALL": "C"}
        with self._log.open("ab") as log:
            self._feeder: subprocess.Popen[bytes] = subprocess.Popen(
                guarded([tool("dd"), "if=/dev/zero", _PIECE]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            assert self._feeder.stdout is not None
            try:
                self._program: subprocess.Popen[Any] = pod.popen(
                    guarded(command(lane, server, certificate)),
                    stdin=self._feeder.stdout,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except BaseException:
                self.kill()
                raise
            # Ours would keep dd's pipe open after the program is gone.
            self._feeder.stdout.close()

    def check(self) -> None:
        """Raise :class:`DemoError` when the program ended by itself: its connection broke."""
        if not self.ending and self._program.poll() is not None:
            raise DemoError(
                f"{self.lane.name}: {self.lane.client.value} ended with {self._program.returncode} "
                f"in the middle of its upload.{last_words(self._log)}"
            )

    def end(self) -> None:
        """Let the upload finish: no more input; what is on its way still arrives."""
        self.ending = True
        if self._feeder.poll() is None:
            self._feeder.send_signal(signal.SIGINT)

    def result(self, patience: float) -> Upload:
        """Wait up to ``patience`` seconds for the program's end. The raw upload's count is the server's to add."""
        sent = self._sent()
        name = self.lane.client.value
        try:
            said, _ = self._program.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return Upload(self.lane.name, sent, None, f"{name} did not finish within {patience:g} s")
        if self._program.returncode:
            words = f"{name} ended with {self._program.returncode}{last_words(self._log)}"
            return Upload(self.lane.name, sent, None, words)
        received = None if self.lane.client is Client.CAT else _received(said)
        return Upload(self.lane.name, sent, received)

    def kill(self) -> None:
        """End the feeder at once; the lab ends the program."""
        if self._feeder.poll() is None:
            self._feeder.kill()
        self._feeder.wait()
        for stream in (self._feeder.stdout, self._feeder.stderr):
            if stream is not None:
                stream.close()

    def _sent(self) -> int:
        try:
            _, words = self._feeder.communicate(timeout=_FEEDER_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.lane.name}: dd does not end.") from None
        counts = _COUNT.findall(words.decode(errors="replace"))
        return int(counts[-1]) if counts else 0


def _received(answer: bytes) -> int | None:
    try:
        return int(json.loads(answer)["received"])
    except (ValueError, KeyError, TypeError):
        return None
