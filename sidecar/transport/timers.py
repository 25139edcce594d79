"""Deadlines of many connections, at little cost.

Every kind of deadline has one constant duration, so deadlines expire in the order in which they were set: a queue per
kind suffices, without a heap. A ``dict`` is that queue (it keeps insertion order, and cancelling is one look-up).

No work is done per event: the earliest deadline is checked only when the alarm fires, and the alarm is moved forward
only when a queue was empty. A cancelled deadline costs one needless wake-up, once per duration and queue, not per
connection. The clock is ``perf_counter``, which is cheaper than ``trio.current_time``. (Rejected: a trio cancel scope
with the next deadline around each wait of the relay loop, which costs more than the wait itself.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, takewhile
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

AT_ONCE: Final = 64
"""Maximum of expired items per run before bytes move again. Each may be dialled: some milliseconds."""


class Waiting(Protocol):
    """An object with a deadline. Items are compared by identity."""

    def crashed(self, error: Exception) -> None:
        """The expiry callback raised: clean up. Must not raise."""


Item = TypeVar("Item", bound=Waiting)


class TimerQueue(Generic[Item]):
    """Items with the same timeout: after ``duration`` seconds, ``expired(item)`` is called."""

    __slots__ = ("_deadlines", "_expired", "_timers", "duration")

    def __init__(self, timers: Timers, duration: float, expired: Callable[[Item], None]) -> None:
        self.duration = duration
        self._timers = timers
        self._expired = expired
        self._deadlines: dict[Item, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, item: Item) -> None:
        """Start the timeout of ``item``, or restart it."""
        deadlines = self._deadlines
        deadlines.pop(item, None)
        deadline = self._timers.now() + self.duration
        if not deadlines:
            self._timers.alarm_at(deadline)
        deadlines[item] = deadline

    def discard(self, item: Item) -> None:
        """Remove ``item``, whether it waits or not."""
        self._deadlines.pop(item, None)

    def expire(self, now: float) -> float:
        """Call back for expired items, :data:`AT_ONCE` at most; return the next deadline.

        It is infinity if there is none, and in the past if more items have expired.
        """
        deadlines = self._deadlines
        # One iteration: restarting it for each item would skip all deleted entries again and again.
        due = [item for item, _ in takewhile(lambda entry: entry[1] <= now, islice(deadlines.items(), AT_ONCE))]
        for item in due:
            if deadlines.get(item, math.inf) > now:
                continue  # the callback of an earlier item has cancelled or restarted this one
            del deadlines[item]
            try:
                self._expired(item)
            except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
                item.crashed(error)
        return next(iter(deadlines.values()), math.inf)


class Timers:
    """All timer queues of a loop, and the one trio task that waits for the earliest deadline."""

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        """``now`` is a clock in seconds; it need not be trio's."""
        self.now = now
        self._queues: list[TimerQueue[Any]] = []
        self._next = math.inf
        self._alarm: trio.CancelScope | None = None

    def queue(self, duration: float, expired: Callable[[Item], None]) -> TimerQueue[Item]:
        """A new queue of deadlines ``duration`` seconds ahead."""
        queue = TimerQueue(self, duration, expired)
        self._queues.append(queue)
        return queue

    def alarm_at(self, deadline: float) -> None:
        """Ensure that the alarm fires at ``deadline`` at the latest."""
        if deadline < self._next:
            self._next = deadline
            if self._alarm is not None:
                self._alarm.deadline = self._in_trio_time(deadline)

    def expire(self, now: float) -> None:
        """Run all deadlines up to ``now``, and set the next alarm."""
        self._next = math.inf
        for queue in self._queues:
            # A callback may set deadlines in any queue, so take the minimum with the one set by alarm_at.
            self._next = min(queue.expire(now), self._next)

    async def run(self) -> None:
        """Wait for deadlines and run them, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._in_trio_time(self._next)) as self._alarm:
                await trio.sleep_forever()
            self.expire(self.now())

    def _in_trio_time(self, deadline: float) -> float:
        return trio.current_time() + deadline - self.now()
