"""The clients of the demo: unmodified programs that upload or download without end.

An upload is fed by ``dd`` through a pipe. Ending it means ending dd: the program finds the end of its input and
finishes properly, and dd has counted the bytes. It writes them in pieces that a pipe takes whole or not at all
(PIPE_BUF, pipe(7)), so that its count is exact, and can be held against what arrived. A download ends when its server
ends it, which has counted; so has the program.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

from podlane.demo.peer import RAW
from podlane.demo.programs import guarded, last_words, tool
from podlane.demo.quic import quic_sender_command
from podlane.demo.scenario import RAW_PORT, Client, Lane
from podlane.demo.servers import Servers
from podlane.errors import DemoError
from podlane.netns import Host

_PIECE: Final = "bs=4k"
_COUNT: Final = re.compile(r"^(\d+) bytes", re.MULTILINE)
_FEEDER_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a transfer ended: bytes sent, bytes that the other end counted, and what went wrong, if anything."""

    lane: str
    sent: int
    received: int | None
    problem: str | None = None

    @property
    def complete(self) -> bool:
        return self.problem is None and self.sent == self.received


class Running(Protocol):
    """A transfer that is going on."""

    @property
    def lane(self) -> Lane:
        """The lane that it is in."""

    def check(self) -> None:
        """Raise :class:`DemoError` when the program ended by itself: its connection broke."""

    def end(self) -> None:
        """Let the transfer finish; what is on its way still arrives."""

    def result(self, patience: float) -> Transfer:
        """Wait up to ``patience`` seconds for the end of what :meth:`end` has ended."""

    def kill(self) -> None:
        """End what the lab does not end."""


def command(lane: Lane, server: str, certificate: Path) -> list[str]:
    """The program of a lane, with its arguments; ``server`` is the address that it connects to."""
    if lane.client is Client.CAT:
        return [tool("bash"), "-c", f"exec cat > /dev/tcp/{server}/{RAW_PORT}"]
    if lane.client is Client.QUIC:
        return quic_sender_command(lane, server, certificate)
    if lane.kind.uploads:
        return [tool("curl"), *curl_options(lane, server, certificate, upload="-")]
    output = ["--output", "/dev/null", "--write-out", "%{size_download}"]
    return [tool("curl"), *curl_options(lane, server, certificate), *output]


def curl_options(lane: Lane, server: str, certificate: Path, *, upload: str | None = None) -> list[str]:
    """What curl is told for one transfer; ``upload`` names the file to send."""
    options = ["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(certificate)]
    if upload is not None:
        options += ["--upload-file", upload]
    if lane.resolve is not None:
        name, port = lane.resolve
        options += ["--resolve", f"{name}:{port}:{server}"]
    return options + [argument.format(server=server) for argument in lane.arguments]


def program_environment() -> dict[str, str]:
    """For the demo's programs. LC_ALL: some of their words are read."""
    return {**os.environ, "LC_ALL": "C"}


class Feeder:
    """``dd``, which writes zeros without end into a pipe, or into the file named by ``into``, and counts them."""

    def __init__(self, into: Path | None = None) -> None:
        target = [] if into is None else [f"of={into}"]
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            guarded([tool("dd"), "if=/dev/zero", _PIECE, *target]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if into is None else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=program_environment(),
            start_new_session=True,
        )

    @property
    def output(self) -> IO[bytes]:
        """Our end of the pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def end(self) -> None:
        """No more bytes; what is in the pipe stays there for its reader."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def count(self, lane: str) -> int:
        """How many bytes it has written, after :meth:`end`. Raises :class:`DemoError`."""
        try:
            _, words = self._process.communicate(timeout=_FEEDER_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{lane}: dd does not end.") from None
        counts = _COUNT.findall(words.decode(errors="replace"))
        return int(counts[-1]) if counts else 0

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


class Program:
    """The program of a transfer: started in a host, its words in a log, its output kept."""

    def __init__(self, name: str, host: Host, argv: Sequence[str], log: Path, stdin: IO[bytes] | int) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as stream:
            self._process: subprocess.Popen[Any] = host.popen(
                guarded(argv),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=program_environment(),
                start_new_session=True,
            )

    def check(self, lane: str) -> None:
        """Raise :class:`DemoError` when it has ended."""
        if self._process.poll() is not None:
            raise DemoError(
                f"{lane}: {self.name} ended with {self._process.returncode} "
                f"in the middle of its transfer.{last_words(self._log)}"
            )

    def output(self, patience: float) -> tuple[bytes, str | None]:
        """Wait for its end; what it printed, and what went wrong, if anything."""
        try:
            said, _ = self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return b"", f"{self.name} did not finish within {patience:g} s"
        if self._process.returncode:
            return said, f"{self.name} ended with {self._process.returncode}{last_words(self._log)}"
        return said, None


class Uploader:
    """One running upload from the Pod; the servers count the raw one."""

    def __init__(self, lane: Lane, pod: Host, servers: Servers, address: str, certificate: Path, folder: Path) -> None:
        """Start it; raises :class:`DemoError` when the program cannot be started."""
        self.lane = lane
        self._servers = servers
        self._ending = False
        self._feeder = Feeder()
        try:
            argv = command(lane, address, certificate)
            log = folder / f"{lane.name}.log"
            self._program = Program(lane.client.value, pod, argv, log, self._feeder.output)
        except BaseException:  # interrupted, too: nobody else knows of the feeder
            self.kill()
            raise
        # Ours would keep dd's pipe open after the program is gone.
        self._feeder.output.close()

    def check(self) -> None:
        if not self._ending:
            self._program.check(self.lane.name)

    def end(self) -> None:
        self._ending = True
        self._feeder.end()

    def result(self, patience: float) -> Transfer:
        sent = self._feeder.count(self.lane.name)
        said, problem = self._program.output(patience)
        if problem is not None:
            return Transfer(self.lane.name, sent, None, problem)
        if self.lane.client is Client.CAT:
            return Transfer(self.lane.name, sent, self._servers.counted(RAW, patience))
        return Transfer(self.lane.name, sent, received(said))

    def kill(self) -> None:
        self._feeder.kill()


class Downloader:
    """One running download: a program on ``client``, served by ``servers`` at ``address``."""

    def __init__(
        self, lane: Lane, client: Host, servers: Servers, address: str, certificate: Path, folder: Path
    ) -> None:
        """Start it; raises :class:`DemoError` when the program cannot be started."""
        self.lane = lane
        self._servers = servers
        self._ending = False
        argv = command(lane, address, certificate)
        self._program = Program(lane.client.value, client, argv, folder / f"{lane.name}.log", subprocess.DEVNULL)

    def check(self) -> None:
        if not self._ending:
            self._program.check(self.lane.name)

    def end(self) -> None:
        if not self._ending:
            self._ending = True
            self._servers.end_download(self.lane.name)

    def result(self, patience: float) -> Transfer:
        said, problem = self._program.output(patience)
        sent = self._servers.counted(self.lane.name, patience)
        if problem is None and sent is None:
            problem = "its server did not end it"
        return Transfer(self.lane.name, sent or 0, int(said) if problem is None else None, problem)

    def kill(self) -> None:
        """Nothing but the program runs, and the lab ends that."""


def received(answer: bytes) -> int | None:
    """What the server says that it got; None when it says something else."""
    try:
        return int(json.loads(answer)["received"])
    except (ValueError, KeyError, TypeError):
        return None
