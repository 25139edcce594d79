"""What the reviews may use of memory and of the processor, so that large ones never keep small ones from their answers.

Long work is done by a process of its own (:mod:`injector.server.worker`), one after another: each client's in turn,
and of one client's small before large. The event loop goes on meanwhile: a thread would take turns with it, a
millisecond each, and hold the lock of the interpreter wherever C parses. The process starts when there is something for
it to do.
"""

from __future__ import annotations

import heapq
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Final, TypeVar, cast

import trio

from daemon.http import RequestError
from daemon.log import Logger
from daemon.turn_order import TurnClient, TurnOrder
from injector.errors import WorkEndedError
from injector.server.worker import MOST_BYTES, MOST_SECONDS

_T = TypeVar("_T")

SHORT_BODY: Final = 32 * 1024
"""Bytes of a body that never waits for larger ones."""
MAX_SHORT: Final = 2**20
"""Bytes of the short bodies decoded at once; as Python objects a body can take 30 times its size."""
_BYTES_A_SECOND: Final = 2**20
"""By which later work may come before larger one of the same client: that has its turn in the end, however much small
work there is."""
_NICE: Final = 10
"""A tenth of a processor where everybody wants one: with 19 it would be a hundredth, and long reviews be starved."""
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

log = Logger()


class DecodingBudget:
    """Bounds, over all webhooks, the bytes of the short bodies decoded at once, and the long work. :meth:`work` must
    be running."""

    def __init__(self) -> None:
        self._short = _Pool(MAX_SHORT)
        self._order: TurnOrder[_Job] = TurnOrder()
        self._some = trio.Event()

    @asynccontextmanager
    async def decoding(self, size: int) -> AsyncIterator[None]:
        """Decode and use a short body inside the block. Waits while others use the budget."""
        await self._short.take(size)
        try:
            yield
        finally:
            self._short.give_back(size)

    async def run(self, work: Callable[[], _T], size: int, sharer: str) -> _T:
        """Do long work for a client (:class:`daemon.http.HttpRequest`); ``work`` and what it gives or raises can be
        pickled. ``size`` is in bytes.

        Raises :class:`RequestError` if it takes too much. When cancelled, work that has begun is ended.
        """
        job = _Job(work, self._order.client(sharer))
        self._order.add(job.client, job, trio.current_time() + size / _BYTES_A_SECOND)
        self._some.set()
        try:
            await job.done.wait()
        except trio.Cancelled:
            if not self._order.remove(job.client, job):
                job.scope.cancel()
            raise
        if job.error is None:
            return cast("_T", job.value)
        error, job.error = job.error, None
        try:
            raise error
        finally:
            del error  # else it refers to itself by its traceback, and the review stays until garbage is collected

    async def work(self) -> None:
        """Have it done, until cancelled."""
        worker = _Worker()
        try:
            while True:
                while not self._order:
                    self._some = trio.Event()
                    await self._some.wait()
                await self._do(self._order.next(), worker)
        finally:
            worker.end()

    async def _do(self, job: _Job, worker: _Worker) -> None:
        began = trio.current_time()
        try:
            with job.scope:
                job.value, job.error = await worker.do(job.work)
        except Exception as error:  # noqa: BLE001 (whoever waits for it reports it)
            job.error = error
        seconds = trio.current_time() - began
        self._order.charge(job.client, seconds)
        self._order.settle(job.client, seconds, useful=job.error is None and not job.scope.cancelled_caught)
        job.done.set()


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], object]
    client: TurnClient
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    value: object = None
    error: Exception | None = None


class _Worker:
    """The process; another one if it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket

    async def do(self, work: Callable[[], object]) -> tuple[object, Exception | None]:
        """What it gives, and what it raises; :class:`RequestError` when it takes too much."""
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            with theirs:
                self._hand_over(theirs)
            try:
                for piece in _pickled(work):
                    await stream.send_all(piece)
                said = b"".join([bytes(piece) async for piece in stream])
            except _GONE:
                said = b""
        value, error = pickle.loads(said) if said else (None, WorkEndedError(-signal.SIGKILL))  # of our own process
        if isinstance(error, MemoryError):
            return None, _too_much(f"{MOST_BYTES >> 20} MiB of memory")
        if isinstance(error, WorkEndedError):
            log.warning("the process of a long review ended before its answer", status=error.status)
            seconds = error.status == -signal.SIGXCPU
            return None, _too_much(
                f"{MOST_SECONDS} s of the processor" if seconds else f"{MOST_BYTES >> 20} MiB of memory"
            )
        return value, error

    def _hand_over(self, job: socket.socket) -> None:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._start()
        # Nothing waits there: the one before has been received, or its end is what was waited for.
        socket.send_fds(self._line, [b"j"], [job.fileno()])

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", "injector.server.worker"], stdin=theirs.fileno())
        nice = os.getpriority(os.PRIO_PROCESS, 0) + _NICE
        os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)  # at once: what it imports takes a second

    def end(self) -> None:
        """End it, if there is one."""
        if self._process is not None:
            self._line.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def _pickled(work: Callable[[], object]) -> list[bytes]:
    """In pieces, of which a review's body is one: it is not copied."""
    pieces: list[bytes] = []
    pickle.Pickler(SimpleNamespace(write=pieces.append)).dump(work)
    return pieces


def _too_much(what: str) -> RequestError:
    return RequestError(
        413, f"This review takes more than {what}. Shorten the annotations of the Pod, its policy or its other fields."
    )


class _Pool:
    """Bytes that tasks take; those who need the least get them first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._numbers = count()

    async def take(self, size: int) -> None:
        while not self._fits(size):
            await self._wait(size)
        self._used += size
        self._wake()

    def give_back(self, size: int) -> None:
        self._used -= size
        self._wake()

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._most

    async def _wait(self, size: int) -> None:
        entry = (size, next(self._numbers), trio.Event())
        heapq.heappush(self._waiting, entry)
        try:
            await entry[2].wait()
        except trio.Cancelled:
            if entry[2].is_set():
                self._wake()  # the next one's turn
            else:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            raise

    def _wake(self) -> None:
        if self._waiting and self._fits(self._waiting[0][0]):
            heapq.heappop(self._waiting)[2].set()
