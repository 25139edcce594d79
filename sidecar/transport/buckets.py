"""Who may receive now: guarantees, and borrowing up to a ceil within a total. Pure; the clock is the caller's.

The rules are those of HTB (htb_charge_class() in net/sched/sch_htb.c), so that a class that is held here is held as on
the wire: one that has tokens of its own rate may always go, and uses them up; one that has none borrows from the total,
in the order of priorities and in proportion to the rates, while its ceil allows it. Everything is charged to the ceil
and to the total. A bucket may be overdrawn by what was granted last and fills up again before the next, so that means
are exact.

Rates count what HTB counts: with the headers of full packets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from sidecar.receive_limits import LaneLimits, ReceiveLimits
from sidecar.transport.ledger import LedgerRow
from tc_core.policy import DEFAULT_CLASS

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
_FRESH_S: Final = 0.0005
"""Buckets that were filled this short a time ago are not worth looking at again."""


class Bucket:
    """Tokens in bytes, which come at a rate."""

    __slots__ = ("_depth", "_rate", "tokens")

    tokens: float

    def __init__(self, rate: int, tokens: float = math.inf) -> None:
        """Full, if there are not fewer ``tokens``."""
        self._rate = rate
        self._depth = max(LEAST, rate * DEPTH_S)
        self.tokens = min(tokens, self._depth)

    def fill(self, seconds: float) -> None:
        """What has come in this time."""
        self.tokens = min(self._depth, self.tokens + self._rate * seconds)


Who = TypeVar("Who")


class Lane(Generic[Who]):
    """A class: its buckets, and who waits for them."""

    __slots__ = ("borrowed", "ceil", "large_turn", "limits", "others", "rate", "small_turn", "waiting")

    rate: Bucket
    ceil: Bucket

    def __init__(self, limits: LaneLimits, before: Lane[Who] | None) -> None:
        """``before``: the lane that had this name, whose tokens stay; however often limits change, none are given."""
        self.limits = limits
        self.rate = Bucket(limits.rate, before.rate.tokens) if before else Bucket(limits.rate)
        self.ceil = Bucket(limits.ceil, before.ceil.tokens) if before else Bucket(limits.ceil)
        self.small_turn = _turn(limits.rate)
        self.large_turn = _turn(limits.ceil)
        self.borrowed = 0.0  # in seconds at its rate: who has had least is next
        self.others = 0  # bytes of other processes that are charged already
        self.waiting: deque[Who] = deque()


class Buckets(Generic[Who]):
    """All classes of a policy. Who waits is taken out by :meth:`turns`."""

    _total: Bucket
    _lanes: dict[str, Lane[Who]]

    def __init__(
        self, limits: ReceiveLimits, ledger: LedgerRow, now: float, before: Buckets[Who] | None = None
    ) -> None:
        """``now`` is a time in seconds; ``before`` is what was in force until then, which nobody waits for any more."""
        if before is not None:
            before._fill(now)
        self._total = Bucket(limits.total, before._total.tokens) if before else Bucket(limits.total)
        old = before._lanes if before else {}
        self._lanes = {each.name: Lane[Who](each, old.get(each.name)) for each in limits.lanes}
        self._by_priority = sorted(self._lanes.values(), key=lambda lane: lane.limits.priority)
        self._default = self._lanes[DEFAULT_CLASS]
        self._ledger = ledger
        self._filled = now
        self._borrowed: dict[int, float] = {}  # by priority: what whoever borrowed last had borrowed before
        for lane in self._by_priority:
            lane.others = ledger.others(lane.limits.class_id)

    @property
    def class_ids(self) -> frozenset[int]:
        """Those of all classes."""
        return frozenset(lane.limits.class_id for lane in self._by_priority)

    @property
    def waits(self) -> bool:
        """Whether anybody does."""
        return any(lane.waiting for lane in self._by_priority)

    def everybody(self) -> Iterable[Who]:
        """All who wait; nobody does afterwards."""
        for lane in self._by_priority:
            while lane.waiting:
                yield lane.waiting.popleft()

    def lane(self, name: str | None) -> Lane[Who]:
        """The class of this name, the default one when it has no limits of its own."""
        return self._lanes.get(name or DEFAULT_CLASS, self._default)

    def allowance(self, lane: Lane[Who], now: float, *, contended: bool) -> int:
        """Bytes that somebody who does not wait may receive now; 0: wait. ``contended``: somebody waits somewhere."""
        if lane.waiting:
            return 0
        self._fill(now)
        if lane.ceil.tokens <= 0:
            return 0
        if lane.rate.tokens > 0:
            return lane.small_turn
        return lane.large_turn if self._total.tokens > 0 and not contended else 0

    def wait(self, lane: Lane[Who], who: Who) -> None:
        """Put somebody at the end of the queue."""
        if not lane.waiting:
            # What it did not borrow while it had no use for it, it does not get back.
            lane.borrowed = max(lane.borrowed, self._borrowed.get(lane.limits.priority, 0.0))
        lane.waiting.append(who)

    def turns(self, now: float) -> Iterator[tuple[Who, int]]:
        """Those who wait and may receive now, with how many bytes: guarantees first, then whoever borrows.

        What they receive has to be charged before the next is asked for.
        """
        self._fill(now)
        for lane in self._by_priority:
            while lane.waiting and lane.rate.tokens > 0 and lane.ceil.tokens > 0:
                yield lane.waiting.popleft(), lane.small_turn
        while self._total.tokens > 0:
            borrowers = [lane for lane in self._by_priority if lane.waiting and lane.ceil.tokens > 0]
            if not borrowers:
                return
            lane = min(borrowers, key=lambda lane: (lane.limits.priority, lane.borrowed))
            self._borrowed[lane.limits.priority] = lane.borrowed
            yield lane.waiting.popleft(), lane.large_turn

    def charge(self, lane: Lane[Who], size: int) -> None:
        """So many bytes of payload were received."""
        framed = size * _FRAME // _PAYLOAD
        self._ledger.add(lane.limits.class_id, framed)
        self._charge(lane, framed)

    def _charge(self, lane: Lane[Who], size: int) -> None:
        if lane.rate.tokens > 0:
            lane.rate.tokens -= size
        else:
            lane.borrowed += size / max(1, lane.limits.rate)
        lane.ceil.tokens -= size
        self._total.tokens -= size

    def _fill(self, now: float) -> None:
        seconds = now - self._filled
        if seconds < _FRESH_S:
            return
        self._filled = now
        self._total.fill(seconds)
        for lane in self._by_priority:
            lane.rate.fill(seconds)
            lane.ceil.fill(seconds)
        if not self._ledger.alone:
            self._charge_others()

    def _charge_others(self) -> None:
        """What other processes have received since is gone from these buckets, too: each has all of them."""
        for lane in self._by_priority:
            others = self._ledger.others(lane.limits.class_id)
            if others != lane.others:
                self._charge(lane, max(0, others - lane.others))
                lane.others = others


def _turn(rate: int) -> int:
    return min(MOST, max(LEAST, int(rate * TURN_S)))
