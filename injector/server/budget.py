"""What the reviews may use of memory and of the processor, so that large ones never keep small ones from their answers.

Long work is done by a process of its own (:mod:`injector.server.worker`), one after another, small before large. The
event loop goes on meanwhile: a thread would take turns with it, a millisecond each, and hold the lock of the
interpreter wherever C parses. The process starts when there is something for it to do.
"""

from __future__ import annotations

import heapq
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeVar, cast

import trio

from daemon.http import RequestError
from daemon.log import Logger
from injector.server.worker import LENGTH, MOST_BYTES, MOST_SECONDS

_T = TypeVar("_T")

SHORT_BODY: Final = 32 * 1024
"""Bytes of a body that never waits for larger ones."""
MAX_SHORT: Final = 2**20
"""Bytes of the short bodies decoded at once; as Python objects a body can take 30 times its size."""
_BYTES_A_SECOND: Final = 2**20
"""By which later work may come before larger one: that has its turn in the end, however much small work there is."""
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

log = Logger()


class DecodingBudget:
    """Bounds, over all webhooks, the bytes of the short bodies decoded at once, and the long work. :meth:`work` must
    be running."""

    def __init__(self) -> None:
        self._short = _Pool(MAX_SHORT)
        self._jobs: list[tuple[float, int, _Job]] = []
        self._numbers = count()
        self._some = trio.Event()

    @asynccontextmanager
    async def decoding(self, size: int) -> AsyncIterator[None]:
        """Decode and use a short body inside the block. Waits while others use the budget."""
        await self._short.take(size)
        try:
            yield
        finally:
            self._short.give_back(size)

    async def run(self, work: Callable[[], _T], size: int) -> _T:
        """Do long work, small ``size`` before large; ``work`` and what it gives or raises can be pickled.

        Raises :class:`RequestError` if it takes too much. When cancelled, work that has begun is abandoned: it goes on,
        within its bounds, and others wait for it.
        """
        job = _Job(work)
        entry = (trio.current_time() + size / _BYTES_A_SECOND, next(self._numbers), job)
        heapq.heappush(self._jobs, entry)
        self._some.set()
        try:
            await job.done.wait()
        except trio.Cancelled:
            if entry in self._jobs:
                self._jobs.remove(entry)
                heapq.heapify(self._jobs)
            raise
        if job.error is not None:
            raise job.error
        return cast("_T", job.value)

    async def work(self) -> None:
        """Have it done, until cancelled."""
        worker = _Worker()
        try:
            while True:
                while not self._jobs:
                    self._some = trio.Event()
                    await self._some.wait()
                job = heapq.heappop(self._jobs)[2]
                try:
                    job.value, job.error = await worker.do(job.work)
                except Exception as error:  # noqa: BLE001 (whoever waits for it reports it)
                    job.error = error
                job.done.set()
        finally:
            worker.end()


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], object]
    done: trio.Event = field(default_factory=trio.Event)
    value: object = None
    error: Exception | None = None


class _Worker:
    """The process; another one if it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: trio.SocketStream

    async def do(self, work: Callable[[], object]) -> tuple[object, Exception | None]:
        """What it gives, and what it raises. Raises :class:`RequestError` when it takes too much."""
        fresh = self._process is None or self._process.poll() is not None
        if fresh:
            self._start()
        try:
            await self._line.send_all(pickle.dumps(work))
            (length,) = LENGTH.unpack(await self._exactly(LENGTH.size))
            value, error = pickle.loads(await self._exactly(length))  # of our own process
        except _GONE:
            raise self._ended() from None
        if not isinstance(error, MemoryError):
            return value, error
        self.end()
        if fresh:
            raise _too_much(f"{MOST_BYTES >> 20} MiB of memory")
        return await self.do(work)  # it was short of what earlier work had left scattered

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", "injector.server.worker"], stdin=theirs.fileno())
        self._line = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def _exactly(self, size: int) -> bytes:
        said = bytearray()
        while len(said) < size:
            piece = await self._line.receive_some(size - len(said))
            if not piece:
                raise trio.BrokenResourceError
            said += piece
        return bytes(said)

    def _ended(self) -> RequestError:
        """Why it did, as the answer to whom it worked for."""
        status = self.end()
        log.warning("the process for long reviews ended, and is started again", status=status)
        seconds = status == -signal.SIGXCPU
        return _too_much(f"{MOST_SECONDS} s of the processor" if seconds else f"{MOST_BYTES >> 20} MiB of memory")

    def end(self) -> int | None:
        """End it, and give its exit status; None: there is none."""
        if self._process is None:
            return None
        self._line.socket.close()  # at which it ends by itself, unless it works
        self._process.kill()
        return self._process.wait()


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
