"""Deadlines of many connections, cheaply.

Every kind of deadline here has one constant duration, so deadlines expire in the order in which they were set: a queue
per kind does, no heap. A ``dict`` is that queue (it keeps insertion order, and cancelling is one look-up).

Nothing is done per event: the earliest deadline is looked at only when the alarm goes off, and the alarm is set back
only when a queue was empty. A deadline that was cancelled meanwhile costs one needless wake-up, once per duration and
queue, not one per connection. The clock is ``perf_counter``, a quarter of the price of ``trio.current_time``. (Measured
and rejected: a trio cancel scope with the next deadline around each wait of the relay loop; it takes 11 us, twice as
much as the wait itself.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, takewhile
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

AT_ONCE: Final = 64
"""Items of a queue whose time may come before bytes move on. Each may be dialled: some milliseconds."""


class Waiting(Protocol):
    """What can have a deadline. Items are told apart by identity."""

    def crashed(self, error: Exception) -> None:
        """The expiry callback raised: clean up. Must not raise."""


Item = TypeVar("Item", bound=Waiting)


class TimerQueue(Generic[Item]):
    """Items that all wait equally long: ``duration`` seconds, then ``expired(item)``."""

    __slots__ = ("_deadlines", "_expired", "_timers", "duration")

    def __init__(self, timers: Timers, duration: float, expired: Callable[[Item], None]) -> None:
        self.duration = duration
        self._timers = timers
        self._expired = expired
        self._deadlines: dict[Item, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, item: Item) -> None:
        """Start ``item``'s wait (again, from now, when it is waiting already)."""
        deadlines = self._deadlines
        deadlines.pop(item, None)
        deadline = self._timers.now() + self.duration
        if not deadlines:
            self._timers.alarm_at(deadline)
        deadlines[item] = deadline

    def discard(self, item: Item) -> None:
        """Forget ``item``, whether it waits or not."""
        self._deadlines.pop(item, None)

    def expire(self, now: float) -> float:
        """Call back for the items whose time has come, :data:`AT_ONCE` at most; returns the next deadline.

        That is infinity when there is none, and past when there are more items whose time has come.
        """
        deadlines = self._deadlines
        # One walk: to begin anew for each item would pass over all that are deleted, again and again.
        due = [item for item, _ in takewhile(lambda entry: entry[1] <= now, islice(deadlines.items(), AT_ONCE))]
        for item in due:
            if deadlines.get(item, math.inf) > now:
                continue  # what was called for an earlier one has cancelled it, or begun its wait anew
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
        """Make sure that the alarm goes off at ``deadline`` at the latest."""
        if deadline < self._next:
            self._next = deadline
            if self._alarm is not None:
                self._alarm.deadline = self._in_trio_time(deadline)

    def expire(self, now: float) -> None:
        """Run all deadlines up to ``now`` and note the next one."""
        self._next = math.inf
        for queue in self._queues:
            # A callback may set deadlines in any queue, so the minimum is taken with alarm_at's own.
            self._next = min(queue.expire(now), self._next)

    async def run(self) -> None:
        """Wait for deadlines and run them, for ever."""
        while True:
            with trio.CancelScope(deadline=self._in_trio_time(self._next)) as self._alarm:
                await trio.sleep_forever()
            self.expire(self.now())

    def _in_trio_time(self, deadline: float) -> float:
        return trio.current_time() + deadline - self.now()
