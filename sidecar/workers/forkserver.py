"""The process that forks workers.

fork(2) copies one thread. A process that runs trio has others, and locks that they hold, so its copy cannot continue.
This server is forked before trio runs, keeps to one thread, and only forks (like multiprocessing's "forkserver", which
however imports everything again, and passes no descriptors).

One request, one answer, over a pair of SOCK_SEQPACKET sockets: START with the descriptors of the worker is answered by
its pid and a pidfd (pidfd_open(2)), BURY with the pid of an ended worker by its status as of wait(2); a failed call by
its negated errno.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol

import trio

from sidecar.errors import WorkersError
from sidecar.prctl import die_with_parent

_REQUEST: Final = struct.Struct("=Bi")
_ANSWER: Final = struct.Struct("=i")
_START, _REAP = 1, 2
_MOST_DESCRIPTORS: Final = 8
"""Messages, lock, and a listener per address family."""
_PATIENCE_S: Final = 5.0
"""Seconds: a fork takes some milliseconds; a server that has not answered after this time will not."""
_UNHEEDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Sent by a terminal or systemd to every process; only the main process acts on them."""

Work = Callable[[list[int]], None]
"""The work of a worker with its descriptors. When it returns or raises, the worker ends."""


class HasDescriptor(Protocol):
    """A socket of any class."""

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker process. ``descriptor`` is a pidfd: readable once the worker has ended; the receiver closes it."""

    pid: int
    descriptor: int


class ForkServer:
    """The main process's side. :func:`fork_server` makes it."""

    def __init__(self, pid: int, requests: socket.socket) -> None:
        self.pid = pid
        self._requests = requests
        self._one_at_a_time = trio.Lock()

    async def start(self, descriptors: Sequence[HasDescriptor]) -> Forked:
        """Fork a worker with copies of these descriptors. Raises OSError (EAGAIN: no more processes), WorkersError."""
        numbers = array.array("i", [each.fileno() for each in descriptors])
        pid, received = await self._request(_START, 0, numbers)
        return Forked(pid, received[0])

    async def reap(self, pid: int) -> int:
        """The exit status of an ended worker: its exit code, or minus the number of a signal.

        Raises OSError, WorkersError.
        """
        status, _ = await self._request(_REAP, pid, array.array("i"))
        return os.waitstatus_to_exitcode(status)

    async def _request(self, kind: int, number: int, descriptors: array.array[int]) -> tuple[int, array.array[int]]:
        received = array.array("i")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        async with self._one_at_a_time:
            # An answer left unread would be taken for the next one's.
            with trio.CancelScope(deadline=trio.current_time() + _PATIENCE_S, shield=True):
                try:
                    # trio's own socket would be a second owner of the descriptor.
                    await trio.lowlevel.wait_writable(self._requests)
                    self._requests.sendmsg([_REQUEST.pack(kind, number)], ancillary)
                    await trio.lowlevel.wait_readable(self._requests)
                    data, extra, _, _ = self._requests.recvmsg(
                        _ANSWER.size, socket.CMSG_SPACE(received.itemsize), socket.MSG_CMSG_CLOEXEC
                    )
                except (BrokenPipeError, ConnectionResetError):
                    data, extra = b"", []
                if data:
                    for _level, _type, what in extra:
                        received.frombytes(what)
                    [answer] = _ANSWER.unpack(data)
                    if answer < 0:
                        raise OSError(-answer, os.strerror(-answer))
                    return answer, received
        raise WorkersError(
            f"The process that starts workers (pid {self.pid}) has ended or does not answer, so no worker can be "
            "started any more. Was it killed, perhaps for want of memory? Start the sidecar again."
        )


@contextmanager
def fork_server(work: Work) -> Iterator[ForkServer]:
    """Fork the server now, and end it, with any remaining worker, at the end of the block.

    This process must have one thread, and trio must not run yet.
    """
    if threading.active_count() != 1:
        raise RuntimeError("fork_server() must come before any other thread")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Existing memory stays shared until written to, which garbage collection would do.
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(theirs, parent, work)
    theirs.close()
    ours.setblocking(False)
    try:
        yield ForkServer(pid, ours)
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become_server(requests: socket.socket, parent: int, work: Work) -> NoReturn:
    """In the child: serve until the main process has ended."""
    try:
        _settle_in("podlane-forks", parent)
        # Close all other descriptors of the main process (such as pipes whose reader waits for end of file).
        os.closerange(3, requests.fileno())
        os.closerange(requests.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        while _serve_one(requests, work):
            pass
    except BaseException:  # noqa: BLE001 (there is no caller to report it to)
        traceback.print_exc()
    finally:
        os._exit(0)


def _serve_one(requests: socket.socket, work: Work) -> bool:
    """Answer one request; False at end of file."""
    descriptors = array.array("i")
    data, extra, _, _ = requests.recvmsg(
        _REQUEST.size, socket.CMSG_SPACE(descriptors.itemsize * _MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        return False
    for _level, _type, what in extra:
        descriptors.frombytes(what)
    kind, number = _REQUEST.unpack(data)
    passed: list[int] = []
    try:
        if kind == _REAP:
            answer = os.waitpid(number, 0)[1]
        else:
            answer = os.getpid()
            pid = os.fork()
            if pid == 0:
                _become_worker(requests, answer, work, list(descriptors))
            answer = pid
            passed.append(os.pidfd_open(pid))
    except OSError as error:
        answer = -(error.errno or 1)
    try:
        socket.send_fds(requests, [_ANSWER.pack(answer)], passed)
    except (BrokenPipeError, ConnectionResetError):
        return False
    finally:
        for descriptor in (*descriptors, *passed):
            os.close(descriptor)
    return True


def _become_worker(requests: socket.socket, parent: int, work: Work, descriptors: list[int]) -> NoReturn:
    """In the grandchild: do the work, and exit."""
    status = 1
    try:
        _settle_in("podlane-worker", parent)
        requests.close()
        work(descriptors)
        status = 0
    finally:
        os._exit(status)


def _settle_in(name: str, parent: int) -> None:
    die_with_parent(parent, signal.SIGKILL)
    for number in _UNHEEDED:
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)  # shown by ps and top; at most 15 characters (proc(5))
