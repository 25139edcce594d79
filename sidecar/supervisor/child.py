"""The proxy process, as its supervisor manages it."""

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
    """A child process, with its socket and its heartbeats."""

    def __init__(self, pid: int, channel: IpcChannel, heartbeat: Heartbeat) -> None:
        self.pid = pid
        self.channel = channel
        self.listened = True
        self.armed = False
        """It has handed over its fallback: it handles signals, and something may be installed."""
        self.ready_at: float | None = None
        self.silent = False
        self.hung = False
        self.began = monotonic()
        self._heartbeat = heartbeat

    @classmethod
    def spawn(cls, argv: Sequence[str], told: Mapping[str, Any], held: Sequence[int] = ()) -> ProxyProcess:
        """Start a proxy and send it the ``told`` message first, with the descriptors ``held``.

        It has a process group of its own, so that signals of a terminal reach it once, through the supervisor. Raises
        OSError if the program does not exist, or there is no room for a process or for descriptors.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as opened, theirs:
            opened.callback(ours.close)
            channel = IpcChannel(ours)
            page = new_page()
            try:
                heartbeat = Heartbeat(page)
                opened.callback(heartbeat.close)
                channel.send("welcome", told, [page, *held])
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
        """When each kind of heartbeat was last given, in seconds of the monotonic clock; 0: never."""
        return [self._heartbeat.last(kind) / 1e9 for kind in range(KINDS)]

    def in_force(self) -> bool:
        """Whether it says that everything is in force."""
        return self._heartbeat.ready

    def cpu_wait(self) -> float:
        """Total seconds that its main thread, which gives the heartbeats, was runnable and waited for a CPU.

        Only this thread counts: others that wait do not excuse an event loop that hangs. 0 if the kernel has no such
        counter. The second number of schedstat (Documentation/scheduler/sched-stats.rst).
        """
        with suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def pending(self) -> bool:
        """Whether it has sent a message that has not been received."""
        return self.listened and bool(select.select([self.channel], [], [], 0)[0])

    def send(self, number: int) -> None:
        """Send it a signal. It has not been reaped yet, so its pid is not reused."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """Release its resources after its end."""
        self.listened = False
        self.channel.close()
        self._heartbeat.close()
