"""Decides which connection may receive: guarantees, and borrowing up to a ceil within a total. Pure; the caller has the
clock.

The rules are those of HTB (htb_charge_class() in net/sched/sch_htb.c), so that received traffic is limited like sent
traffic: a class with tokens of its own rate may always receive, and uses them up; one without borrows from the total,
in the order of priorities and in proportion to the rates, while its ceil allows it. Everything is charged to the ceil
and to the total. A bucket may be overdrawn by the last grant and refills before the next, so that means are exact.

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
"""Bytes granted per turn, as time at the class's rate; also the interval at which waiting connections are checked."""
DEPTH_S: Final = 0.05
"""Size of a bucket, as time at its rate. A process that gets no CPU for longer than that loses bandwidth."""
LEAST: Final = 2 * 1448
"""Minimum bytes of a turn, and of a bucket: two packets."""
MOST: Final = 1 << 20
"""Maximum bytes of a turn: the size of a pipe."""
_PAYLOAD, _FRAME = 1448, 1514
"""Bytes of payload in a full packet, and of the packet with the headers of Ethernet, IPv4 and TCP with timestamps."""
_TOTAL: Final = 0
"""Key of the bucket of the total: 0 is not a class id."""


class Bucket:
    """A token bucket, kept as the time at which it was empty (generic cell rate algorithm, ITU-T I.371).

    So nothing has to be refilled, and processes can share a bucket as one number. A rate may change at any time.
    """

    __slots__ = ("_at", "_depth", "_rate", "_times")

    def __init__(self, times: memoryview[float], at: int, rate: int) -> None:
        self._times = times
        self._at = at
        self._rate = max(1, rate)
        self._depth = max(LEAST / self._rate, DEPTH_S)  # in seconds

    def has_tokens(self, now: float) -> bool:
        """Whether the bucket has tokens."""
        return bool(self._times[self._at] < now)

    def charge(self, size: int, now: float) -> None:
        """Use this number of tokens; may overdraw."""
        self._times[self._at] = max(self._times[self._at], now - self._depth) + size / self._rate


Waiter = TypeVar("Waiter")


class ClassBuckets(Generic[Waiter]):
    """A class: its buckets, and the connections that wait for them."""

    __slots__ = ("borrowed", "ceil", "large_turn", "limits", "rate", "small_turn", "waiting")

    def __init__(self, limits: ClassLimits, times: memoryview[float]) -> None:
        self.limits = limits
        self.rate = Bucket(times, 2 * limits.class_id, limits.rate)
        self.ceil = Bucket(times, 2 * limits.class_id + 1, limits.ceil)
        self.small_turn = _turn(limits.rate)
        self.large_turn = _turn(limits.ceil)
        self.borrowed = 0.0  # in seconds at its rate: the class that has borrowed least is next
        self.waiting: deque[Waiter] = deque()


class Buckets(Generic[Waiter]):
    """All classes of a policy. :meth:`turns` removes waiting connections.

    Times are in seconds, on the clock of the ledger. Guarantees, ceils and the total are shared by all processes; the
    order of borrowing is local to each.
    """

    def __init__(self, limits: ReceiveLimits, received_counters: CounterRow) -> None:
        self._total = Bucket(received_counters.times, _TOTAL, limits.total)
        self._lanes = {each.name: ClassBuckets[Waiter](each, received_counters.times) for each in limits.lanes}
        self._by_priority = sorted(self._lanes.values(), key=lambda lane: lane.limits.priority)
        self._default = self._lanes[DEFAULT_CLASS]
        self._received_counters = received_counters
        self._borrowed: dict[int, float] = {}  # by priority: the debt of the last borrower before it borrowed

    @property
    def class_ids(self) -> frozenset[int]:
        """The ids of all classes."""
        return frozenset(lane.limits.class_id for lane in self._by_priority)

    @property
    def waits(self) -> bool:
        """Whether any connection waits."""
        return any(lane.waiting for lane in self._by_priority)

    def everybody(self) -> Iterable[Waiter]:
        """Remove and return all waiting connections."""
        for lane in self._by_priority:
            while lane.waiting:
                yield lane.waiting.popleft()

    def lane(self, name: str | None) -> ClassBuckets[Waiter]:
        """The class of this name; the default class if it has no limits of its own."""
        return self._lanes.get(name or DEFAULT_CLASS, self._default)

    def allowance(self, lane: ClassBuckets[Waiter], now: float, *, contended: bool) -> int:
        """Bytes that a connection that is not waiting may receive now; 0: wait. ``contended``: some connection waits in
        any process."""
        if lane.waiting:
            return 0
        if not lane.ceil.has_tokens(now):
            return 0
        if lane.rate.has_tokens(now):
            return lane.small_turn
        return lane.large_turn if self._total.has_tokens(now) and not contended else 0

    def wait(self, lane: ClassBuckets[Waiter], who: Waiter) -> None:
        """Append a connection to the queue of its class."""
        if not lane.waiting:
            # Borrowing that a class had no use for is not accumulated.
            lane.borrowed = max(lane.borrowed, self._borrowed.get(lane.limits.priority, 0.0))
        lane.waiting.append(who)

    def turns(self, now: float) -> Iterator[tuple[Waiter, int]]:
        """The waiting connections that may receive now, with the number of bytes: guarantees first, then borrowers.

        The bytes received must be charged before the next item is taken.
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
        """Charge this number of payload bytes."""
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
