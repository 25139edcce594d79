"""The process for long work: ``python -m injector.server.worker``, with a Unix socket as standard input.

From there come sockets, one for each work (SCM_RIGHTS, unix(7)): on it comes a function that is called without
arguments, and ``(value, error)`` goes back, one of them None. All are pickled, which only the injector itself may
write. Each work has a process of its own, a fork of this one: so each begins with the same memory, whatever others have
left behind, and its end costs nothing. The kernel bounds what it may take: SIGXCPU ends it, as does memory that is
lacking where Python is not asked (setrlimit(2)); and it is ended when nobody waits for it any more.
"""

from __future__ import annotations

import gc
import os
import pickle
import re
import resource
import select
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from injector.errors import WorkEndedError

# What the work needs, imported before its memory is bounded.
from injector.pod import admission as _admission  # noqa: F401
from injector.pod import happenings as _happenings  # noqa: F401
from injector.pod import policies as _policies  # noqa: F401
from injector.pod import templates as _templates  # noqa: F401
from injector.server import review as _review  # noqa: F401
from traffic_policy.cluster import outlook as _outlook  # noqa: F401

MOST_SECONDS: Final = 5
"""Of the processor, for a work. What the limits of policies allow takes less than one."""
MOST_BYTES: Final = 24 * 2**20
"""Of memory, for a work. As Python objects a Pod takes ten times its size, and etcd stores 1.5 MiB."""


def main() -> None:
    """Have work done until the injector ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the injector ends in order
    gc.collect()
    gc.freeze()
    gc.disable()  # no work lasts until garbage matters, and looking for it takes time and writes to shared pages
    with socket.socket(fileno=0) as line:
        while received := socket.recv_fds(line, 1, 1)[1]:
            with socket.socket(fileno=received[0]) as job:
                status = _have_done(job)
                if status:
                    _tell(job, WorkEndedError(status))


def _have_done(job: socket.socket) -> int:
    """The exit status of a process that does it; it is killed if the other end of ``job`` is closed."""
    pid = os.fork()
    if not pid:
        _do(job)
    child, poll = os.pidfd_open(pid), select.poll()
    poll.register(child, select.POLLIN)
    poll.register(job, 0)  # of which is told that it was hung up (poll(2))
    if child not in dict(poll.poll()):
        os.kill(pid, signal.SIGKILL)
    os.close(child)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _do(job: socket.socket) -> NoReturn:
    failed = 1
    try:
        _limit(resource.RLIMIT_DATA, _data_bytes() + MOST_BYTES)
        _limit(resource.RLIMIT_CPU, MOST_SECONDS)
        with job.makefile("rwb") as stream:
            try:
                answer = pickle.dumps((pickle.load(stream)(), None))
            except Exception as error:  # noqa: BLE001 (it is the injector's)
                error.__traceback__ = error.__cause__ = error.__context__ = None
                answer = pickle.dumps((None, error))
            stream.write(answer)
        failed = 0
    finally:
        os._exit(failed)


def _tell(job: socket.socket, error: WorkEndedError) -> None:
    with suppress(OSError):  # nobody may wait for it: that is why it ended
        job.sendall(pickle.dumps((None, error)))


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "every process has it (proc(5))"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
