"""What the reviews may use of memory and of the processor, so that large ones never keep small ones from their answers.

Python runs one thread at a time, so that further threads would not make anything faster: long decisions run one after
another in one thread, the smallest first. A thread cannot be killed: what a decision may take is bounded by the limits
of policies (:mod:`traffic_policy.pod.composition`), and the room of its body is kept until it has really ended.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, TypeVar

import trio

_T = TypeVar("_T")

SHORT_BODY: Final = 32 * 1024
"""Bytes of a body that never waits for larger ones."""
MAX_LARGE: Final = 3 * 2**20
"""Bytes of the larger bodies decoded at once; others wait. As Python objects a body can take 30 times its size, and the
chart's memory limit for the injector is 256 MiB."""
MAX_SHORT: Final = 2**20
"""The same for the short ones, which are decoded for some milliseconds each."""


class DecodingBudget:
    """Limits the bytes of the bodies decoded at once, and the long decisions, over all webhooks."""

    def __init__(self) -> None:
        self._short, self._large = _Pool(MAX_SHORT), _Pool(MAX_LARGE)
        self._busy = False
        self._queue = _Queue()

    @asynccontextmanager
    async def decoding(self, size: int) -> AsyncIterator[Room]:
        """Decode and use a body inside the block. Waits while others use the budget; a single body always fits."""
        room = await (self._short if size <= SHORT_BODY else self._large).take(size)
        try:
            yield room
        finally:
            room.leave()

    async def run(self, work: Callable[[], _T], size: int, room: Room) -> _T:
        """Do long work in a thread, the smallest ``size`` first. When cancelled, work that has begun is abandoned: it
        goes on, and others still wait for it."""
        turn = _Turn(self, size, room)
        return await trio.to_thread.run_sync(work, limiter=turn, abandon_on_cancel=True)  # type: ignore[arg-type]

    async def begin(self, size: int) -> None:
        """Wait for the thread. :meth:`end` gives it to the next."""
        if self._busy:
            await self._queue.wait(size, if_late=self.end)  # the thread is passed on, and never free meanwhile
        self._busy = True

    def end(self) -> None:
        self._busy = self._queue.wake()


class _Queue:
    """Tasks that wait, the smallest first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._numbers = count()

    @property
    def smallest(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    async def wait(self, size: int, if_late: Callable[[], object]) -> None:
        """Until :meth:`wake`; ``if_late`` is called if the task was woken, but also cancelled."""
        entry = (size, next(self._numbers), trio.Event())
        heapq.heappush(self._waiting, entry)
        try:
            await entry[2].wait()
        except trio.Cancelled:
            if entry[2].is_set():
                if_late()
            else:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            raise

    def wake(self) -> bool:
        """Wake the smallest; return whether there was any."""
        if not self._waiting:
            return False
        heapq.heappop(self._waiting)[2].set()
        return True


class _Pool:
    """Bytes that tasks take; those who need the least get them first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._queue = _Queue()

    async def take(self, size: int) -> Room:
        while not self._fits(size):
            await self._queue.wait(size, if_late=self._wake)
        self._used += size
        self._wake()
        return Room(lambda: self._give_back(size))

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._most

    def _give_back(self, size: int) -> None:
        self._used -= size
        self._wake()

    def _wake(self) -> None:
        smallest = self._queue.smallest
        if smallest is not None and self._fits(smallest):
            self._queue.wake()


class Room:
    """The room of one decoded body; given back when the last of its users leaves."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._users = 1

    def enter(self) -> None:
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._give_back()


class _Turn:
    """One piece of work, as a limiter for :func:`trio.to_thread.run_sync`, which releases it when the thread has ended,
    also if nobody waits for it any more."""

    def __init__(self, budget: DecodingBudget, size: int, room: Room) -> None:
        self._budget, self._size, self._room = budget, size, room

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        await self._budget.begin(self._size)
        self._room.enter()

    def release_on_behalf_of(self, _borrower: object) -> None:
        self._room.leave()
        self._budget.end()
