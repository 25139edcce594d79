"""The proxy's standby: a copy of it from before it did anything, which is there at once when it is gone.

Importing is nearly all of a proxy's start. So a proxy that has imported everything, and touched nothing yet, forks. The
copy shares its memory (fork(2): a page is copied when one of the two writes to it) and waits for a supervisor's first
words, as any proxy does that was started; when they come it forks a standby of its own, and is the proxy.

It is the proxy's child and has to outlive it: orphans come to the supervisor (prctl(2), PR_SET_CHILD_SUBREAPER), so it
is the supervisor's child when it is needed. When nobody is left who could speak to it, it ends.

A copy is as old as its original: what is new on disk only another start takes up, which is what an upgrade does.
"""

from __future__ import annotations

import gc
import os
import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from daemon.log import Logger
from sidecar.guard import Guard

_NAME: Final = "podlane-standby"
"""What ps and top show; at most 15 characters (proc(5))."""
_COMM: Final = Path("/proc/self/comm")

log = Logger()


def begin(descriptor: int, *, standby: bool, kept: Iterable[int] = ()) -> Guard:
    """Hear the first words of the supervisor behind ``descriptor``; with a ``standby``, which later returns from here.

    ``kept`` are the descriptors that a standby keeps, beside the standard ones. This process must have one thread, and
    trio must not run yet.
    """
    while standby:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()  # what is there now is shared for as long as nobody looks through it for garbage
        try:
            pid = os.fork()
        except OSError as error:
            log.warning("there is no standby, so another start takes longer", error=error.strerror)
            ours.close()
            theirs.close()
            break
        if pid:
            theirs.close()
            guard = Guard.of(descriptor)
            with ours:
                guard.offer(pid, ours)
            return guard
        ours.close()
        descriptor = theirs.detach()
        _wait(descriptor, kept)
    return Guard.of(descriptor)


def _wait(descriptor: int, kept: Iterable[int]) -> None:
    """Be the standby until the supervisor speaks; ends this process when that has gone."""
    with suppress(OSError):
        os.setpgid(0, 0)  # what is sent to the proxy's group is not meant for this one
    # Whatever else is open is the proxy's: whoever waits for its end must see it.
    # (Not by their range, which without close_range(2) is a call for each number: a container may allow 10^9.)
    for each in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, descriptor, *kept}:
        with suppress(OSError):  # the one of the list itself
            os.close(each)
    with _named(_NAME):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if not end.recv(1, socket.MSG_PEEK):
            os._exit(0)


@contextmanager
def _named(name: str) -> Iterator[None]:
    earlier = None
    with suppress(OSError):
        earlier = _COMM.read_text().rstrip("\n")
        _COMM.write_text(name)
    yield
    if earlier is not None:
        with suppress(OSError):
            _COMM.write_text(earlier)
