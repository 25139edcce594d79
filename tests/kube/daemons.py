"""Servers that a test starts and ends itself: their output in a file, their readiness an event, their end by pid."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = b"READY=1"
"""What a server writes to the socket that $NOTIFY_SOCKET names once it serves (sd_notify(3))."""
_DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")
ARGUMENTS_BEFORE: Final = len(_DIES_WITH_US)
"""In the arguments of a started process, before its own."""
_END_PATIENCE: Final = 10.0
"""Seconds for a server to end by itself."""


@dataclass(eq=False)
class Daemon:
    """A started server. It dies with the process that started it, whatever happens to that."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def end(self, patience: float = _END_PATIENCE) -> int:
        """Ask it to end, and see to it; gives its exit code."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience)
        self.kill()
        return self.process.returncode


def launch(
    name: str, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, **options: object
) -> Daemon:
    """Start a server; ``options`` are those of subprocess.Popen."""
    log = folder / f"{name}.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*_DIES_WITH_US, *argv],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={**os.environ, **(env or {})}, **options,  # type: ignore[call-overload]
        )  # fmt: skip
    return Daemon(name, process, log)


def start_notifying(name: str, argv: Sequence[str], folder: Path, *, patience: float) -> Daemon:
    """Start a server that tells systemd when it is ready, and wait for that; fails with its log if it never does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(b"")  # the kernel chooses a name in the abstract namespace (unix(7))
        address = notified.getsockname()
        daemon = launch(name, argv, folder, {"NOTIFY_SOCKET": "@" + address[1:].decode()})
        ended = os.pidfd_open(daemon.process.pid)
        try:
            deadline = time.monotonic() + patience
            while (left := deadline - time.monotonic()) > 0:
                events, _, _ = select.select([notified.fileno(), ended], [], [], left)
                if notified.fileno() in events and READY in notified.recv(4096).splitlines():
                    return daemon
                if ended in events:
                    break
        finally:
            os.close(ended)
    code = daemon.end()
    raise AssertionError(f"{name} did not get ready (exit code {code}):\n{daemon.output[-4000:]}")


def end_all(daemons: Sequence[Daemon]) -> None:
    """End servers, the last started first, as they depend on those before."""
    for daemon in reversed(daemons):
        daemon.end()


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports
