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

from sidecar.supervisor.heartbeat import KINDS, Beats, new_page
from sidecar.supervisor.ipc import Wire

_OPTION: Final = "--supervisor-fd"


class Child:
    """A process that was started here, and the ways to it."""

    def __init__(self, pid: int, wire: Wire, page: int) -> None:
        self.pid = pid
        self.wire = wire
        self.listened = True
        self.armed = False
        """It has said what to do without it: its signals are followed, and something may be installed."""
        self.ready_at: float | None = None
        self.silent = False
        self.hung = False
        self.leaves = False
        """It ends, and what is installed stays for another, which comes after it."""
        self.due: float | None = None
        """By when it has to have ended."""
        self.buried = False
        """It has ended, and its number may be another's."""
        self.standby: Child | None = None
        """A copy of it that waits for its end."""
        self.began = monotonic()
        self._beats = Beats(page)
        self._page: int | None = page

    @classmethod
    def spawn(cls, argv: Sequence[str]) -> Child:
        """Start a proxy. It has a process group of its own: what a terminal sends reaches it through us, once.

        Raises OSError when there is no such program, or no room for a process.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as opened, theirs:
            opened.callback(ours.close)
            page = new_page()
            opened.callback(os.close, page)
            os.set_inheritable(theirs.fileno(), True)
            pid = os.posix_spawn(
                argv[0],
                [*argv, f"{_OPTION}={theirs.fileno()}"],
                os.environ,
                setpgroup=0,
                setsigdef=(signal.SIGCHLD, signal.SIGPIPE),
            )
            opened.pop_all()
        return cls(pid, Wire(ours), page)

    @property
    def watched(self) -> bool:
        """Whether it is there to be looked at."""
        return not self.hung

    def welcome(self, fields: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """The first message; ``descriptors``: what it inherits."""
        self.began = monotonic()
        assert self._page is not None, "welcomed once"
        try:
            self.wire.send("welcome", fields, [self._page, *descriptors])
        except OSError:  # too many descriptors are on their way: it is to take that for our end, and end itself
            self.wire.socket.shutdown(socket.SHUT_RDWR)
        finally:
            self._forget_page()

    def signs(self) -> list[float]:
        """When it gave each kind of sign of life, in seconds of the monotonic clock; 0: never."""
        return [self._beats.last(kind) / 1e9 for kind in range(KINDS)]

    def queued(self) -> float:
        """Seconds that its main thread, which gives the signs, was ready to run and waited for a CPU, in all.

        Its own alone: others that wait are no excuse for a loop that stands still. 0 where the kernel does not tell.
        The second number of schedstat (Documentation/scheduler/sched-stats.rst).
        """
        with suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def pending(self) -> bool:
        """Whether it has said something that nobody has heard."""
        return self.listened and bool(select.select([self.wire], [], [], 0)[0])

    def send(self, number: int) -> None:
        """Send it a signal. It has not been buried yet, so its number is its own."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.send(signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and bury it, unless that was done."""
        if self.buried:
            return
        with suppress(ProcessLookupError, ChildProcessError):
            self.kill()
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        """It has ended."""
        self.listened = False
        self.wire.close()
        self._beats.close()
        self._forget_page()

    def _forget_page(self) -> None:
        if self._page is not None:
            os.close(self._page)
            self._page = None

    # --- its standby ----------------------------------------------------------------------------------------------

    def offers(self, pid: int, descriptor: int) -> None:
        """It has a standby, behind this socket. Without room for the page with its signs of life it gets none."""
        self.dismiss_standby()
        end = socket.socket(fileno=descriptor)
        try:
            self.standby = Child(pid, Wire(end), new_page())
        except OSError:
            end.close()

    def release_standby(self, code: int) -> Child | None:
        """It has ended: who can take its place. The copy of one that failed before it was ready may fail as well."""
        if self.ready_at is None and (code != -signal.SIGKILL or self.hung):
            self.dismiss_standby()
        standby, self.standby = self.standby, None
        return standby

    def dismiss_standby(self) -> None:
        """Have its standby end."""
        if self.standby is not None:
            self.standby.dismiss()
            self.standby = None

    def dismiss(self) -> None:
        """Have a standby end: by itself, since nobody can speak to it any more; at once if it is ours to end."""
        self.close()
        if self.is_ours():
            self.end()

    def is_ours(self) -> bool:
        """Whether it lives and is this process's child, as an orphan comes to be: only then is its number its own."""
        try:
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False
