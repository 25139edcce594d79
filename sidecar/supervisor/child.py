"""A proxy, seen by its supervisor."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, Final

from sidecar.supervisor.heartbeat import KINDS, Heartbeat, new_page
from sidecar.supervisor.ipc import IpcChannel

_OPTION: Final = "--supervisor-fd"


class ProxyProcess:
    """A process that was started here, and the ways to it."""

    def __init__(self, pid: int, channel: IpcChannel, heartbeat: Heartbeat) -> None:
        self.pid = pid
        self.channel = channel
        self.listened = True
        self.armed = False
        """It has said what to do without it: its signals are followed, and something may be installed."""
        self.ready_at: float | None = None
        self.silent = False
        self.hung = False
        self.began = monotonic()
        self._heartbeat = heartbeat

    @classmethod
    def spawn(cls, argv: Sequence[str], told: Mapping[str, Any]) -> ProxyProcess:
        """Start a proxy, which hears first what it is ``told``.

        It has a process group of its own: what a terminal sends reaches it through us, once. Raises OSError when there
        is no such program, or no room for a process or for descriptors.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as opened, theirs:
            opened.callback(ours.close)
            channel = IpcChannel(ours)
            page = new_page()
            try:
                heartbeat = Heartbeat(page)
                opened.callback(heartbeat.close)
                channel.send("welcome", told, [page])
            finally:
                os.close(page)
            os.set_inheritable(theirs.fileno(), True)
            pid = os.posix_spawn(
                argv[0],
                [*argv, f"{_OPTION}={theirs.fileno()}"],
                os.environ,
                setpgroup=0,
                setsigdef=(signal.SIGCHLD, signal.SIGPIPE),
            )
            opened.pop_all()
        return cls(pid, channel, heartbeat)

    def heartbeats(self) -> list[float]:
        """When it gave each kind of sign of life, in seconds of the monotonic clock; 0: never."""
        return [self._heartbeat.last(kind) / 1e9 for kind in range(KINDS)]

    def cpu_wait(self) -> float:
        """Seconds that its main thread, which gives the signs, was ready to run and waited for a CPU, in all.

        Its own alone: others that wait are no excuse for a loop that stands still. 0 where the kernel does not tell.
        The second number of schedstat (Documentation/scheduler/sched-stats.rst).
        """
        with suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def pending(self) -> bool:
        """Whether it has said something that nobody has heard."""
        return self.listened and bool(select.select([self.channel], [], [], 0)[0])

    def send(self, number: int) -> None:
        """Send it a signal. It has not been buried yet, so its number is its own."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """It has ended."""
        self.listened = False
        self.channel.close()
        self._heartbeat.close()
