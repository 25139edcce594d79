"""Who may receive now: guarantees, and borrowing up to a ceil within a total. Pure; the clock is the caller's.

The rules are those of HTB (htb_charge_class() in net/sched/sch_htb.c), so that a class that is held here is held as on
the wire: one that has tokens of its own rate may always go, and uses them up; one that has none borrows from the total,
in the order of priorities and in proportion to the rates, while its ceil allows it. Everything is charged to the ceil
and to the total. A bucket may be overdrawn by what was granted last and fills up again before the next, so that means
are exact.

Rates count what HTB counts: with the headers of full packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from datapath.download_limits import ClassLimits, ReceiveLimits
from datapath.shared_counters import CounterRow
from traffic_policy.policy import DEFAULT_CLASS

TURN_S: Final = 0.004
"""What a connection may receive in its turn, as time at its class's rate; also how often those who wait are looked at:
250 times per second, each some 50 us of work."""
DEPTH_S: Final = 0.05
"""What a bucket holds, as time at its rate. A process that gets no processor for longer than that loses bandwidth."""
LEAST: Final = 2 * 1448
"""Bytes in a turn at least, and in a bucket: two packets."""
MOST: Final = 1 << 20
"""Bytes in a turn at most: what a pipe holds."""
_PAYLOAD, _FRAME = 1448, 1514
"""Bytes of payload in a full packet, and of the packet with the headers of Ethernet, IPv4 and TCP with timestamps."""
_TOTAL: Final = 0
"""Where the bucket of the total is: 0 is no class's id."""


class Bucket:
    """Tokens that come at a rate, kept as the time at which there were none (generic cell rate algorithm, ITU-T I.371).

    So nothing has to be filled, and processes can share a bucket by that one number. A rate may change at any time.
    """

    __slots__ = ("_at", "_depth", "_rate", "_times")

    def __init__(self, times: memoryview[float], at: int, rate: int) -> None:
        self._times = times
        self._at = at
        self._rate = max(1, rate)
        self._depth = max(LEAST / self._rate, DEPTH_S)  # in seconds

    def has_tokens(self, now: float) -> bool:
        """Whether there are any."""
        return bool(self._times[self._at] < now)

    def charge(self, size: int, now: float) -> None:
        """Use up so many, also more than there are."""
        self._times[self._at] = max(self._times[self._at], now - self._depth) + size / self._rate


Waiter = TypeVar("Waiter")


class ClassBuckets(Generic[Waiter]):
    """A class: its buckets, and who waits for them."""

    __slots__ = ("borrowed", "ceil", "large_turn", "limits", "rate", "small_turn", "waiting")

    def __init__(self, limits: ClassLimits, times: memoryview[float]) -> None:
        self.limits = limits
        self.rate = Bucket(times, 2 * limits.class_id, limits.rate)
        self.ceil = Bucket(times, 2 * limits.class_id + 1, limits.ceil)
        self.small_turn = _turn(limits.rate)
        self.large_turn = _turn(limits.ceil)
        self.borrowed = 0.0  # in seconds at its rate: who has had least is next
        self.waiting: deque[Waiter] = deque()


class Buckets(Generic[Waiter]):
    """All classes of a policy. Who waits is taken out by :meth:`turns`.

    Times are in seconds, on the clock of the ledger. Guarantees, ceils and the total are those of all processes that
    share it; in which order they borrow, each sees for itself.
    """

    def __init__(self, limits: ReceiveLimits, received_counters: CounterRow) -> None:
        self._total = Bucket(received_counters.times, _TOTAL, limits.total)
        self._lanes = {each.name: ClassBuckets[Waiter](each, received_counters.times) for each in limits.lanes}
        self._by_priority = sorted(self._lanes.values(), key=lambda lane: lane.limits.priority)
        self._default = self._lanes[DEFAULT_CLASS]
        self._received_counters = received_counters
        self._borrowed: dict[int, float] = {}  # by priority: what whoever borrowed last had borrowed before

    @property
    def class_ids(self) -> frozenset[int]:
        """Those of all classes."""
        return frozenset(lane.limits.class_id for lane in self._by_priority)

    @property
    def waits(self) -> bool:
        """Whether anybody does."""
        return any(lane.waiting for lane in self._by_priority)

    def everybody(self) -> Iterable[Waiter]:
        """All who wait; nobody does afterwards."""
        for lane in self._by_priority:
            while lane.waiting:
                yield lane.waiting.popleft()

    def lane(self, name: str | None) -> ClassBuckets[Waiter]:
        """The class of this name, the default one when it has no limits of its own."""
        return self._lanes.get(name or DEFAULT_CLASS, self._default)

    def allowance(self, lane: ClassBuckets[Waiter], now: float, *, contended: bool) -> int:
        """Bytes that somebody who does not wait may receive now; 0: wait. ``contended``: somebody waits somewhere."""
        if lane.waiting:
            return 0
        if not lane.ceil.has_tokens(now):
            return 0
        if lane.rate.has_tokens(now):
            return lane.small_turn
        return lane.large_turn if self._total.has_tokens(now) and not contended else 0

    def wait(self, lane: ClassBuckets[Waiter], who: Waiter) -> None:
        """Put somebody at the end of the queue."""
        if not lane.waiting:
            # What it did not borrow while it had no use for it, it does not get back.
            lane.borrowed = max(lane.borrowed, self._borrowed.get(lane.limits.priority, 0.0))
        lane.waiting.append(who)

    def turns(self, now: float) -> Iterator[tuple[Waiter, int]]:
        """Those who wait and may receive now, with how many bytes: guarantees first, then whoever borrows.

        What they receive has to be charged before the next is asked for.
        """
        for lane in self._by_priority:
            while lane.waiting and lane.rate.has_tokens(now) and lane.ceil.has_tokens(now):
                yield lane.waiting.popleft(), lane.small_turn
        while self._total.has_tokens(now):
            borrowers = [lane for lane in self._by_priority if lane.waiting and lane.ceil.has_tokens(now)]
            if not borrowers:
                return
            lane = min(borrowers, key=lambda lane: (lane.limits.priority, lane.borrowed))
            self._borrowed[lane.limits.priority] = lane.borrowed
            yield lane.waiting.popleft(), lane.large_turn

    def charge(self, lane: ClassBuckets[Waiter], size: int, now: float) -> None:
        """So many bytes of payload were received."""
        framed = size * _FRAME // _PAYLOAD
        self._received_counters.add(lane.limits.class_id, framed)
        if lane.rate.has_tokens(now):
            lane.rate.charge(framed, now)
        else:
            lane.borrowed += framed / max(1, lane.limits.rate)
        lane.ceil.charge(framed, now)
        self._total.charge(framed, now)


def _turn(rate: int) -> int:
    return min(MOST, max(LEAST, int(rate * TURN_S)))
