"""Limits the receive rate of relayed connections by reading no faster, where the kernel cannot limit it.

TCP flow control slows the sender: unread bytes fill the receive window, and the sender waits. So nothing is lost or
retransmitted. A direction that may not read waits in its class (:mod:`sidecar.transport.token_bucket`) until its turn;
while any direction waits, a deadline every 4 ms checks which may continue. Otherwise pacing is idle.

The kernel sizes the window. It grows with the bytes read, so it stays small for a slow reader.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from datapath.download_limits import ReceiveLimits
from datapath.shared_counters import CounterRow
from sidecar.transport.timers import Timers
from sidecar.transport.token_bucket import TURN_S, Buckets, ClassBuckets


class Paced(Protocol):
    """A direction held to limits."""

    def on_turn(self) -> None:
        """Continue reading, up to the allowance."""

    def crashed(self, error: Exception) -> None:
        """``on_turn`` raised: clean up. Must not raise."""


class Pacer:
    """The limits in force, for all connections of a loop."""

    def __init__(self, timers: Timers, received_counters: CounterRow) -> None:
        self._now = timers.now
        self._turns = timers.queue(TURN_S, Pacer._look)
        self._received_counters = received_counters
        self._buckets: Buckets[Paced] | None = None
        self._released: deque[Paced] = deque()  # waited for limits that are no longer in force
        self._looks = False  # a deadline is set because some direction waits
        self._chosen: Paced | None = None  # the direction in its turn
        self._granted = 0  # bytes granted to it

    def follow(self, limits: ReceiveLimits | None) -> None:
        """Replace the limits; None: no limits."""
        before = self._buckets
        if before is not None:
            self._released.extend(before.everybody())
        self._buckets = None if limits is None else Buckets(limits, self._received_counters)
        now = self._buckets.class_ids if self._buckets is not None else frozenset()
        for class_id in (before.class_ids if before is not None else frozenset()) - now:
            self._received_counters.clear(class_id)

    def lane(self, name: str | None) -> ClassBuckets[Paced] | None:
        """The class that limits connections of this class; None: there is no limit."""
        return None if self._buckets is None else self._buckets.lane(name)

    def allowance(self, lane: ClassBuckets[Paced], who: Paced) -> int:
        """Bytes that ``who`` may receive now; 0: it has to wait."""
        if self._chosen is who:
            self._chosen = None
            return self._granted
        assert self._buckets is not None  # follows from limits being in force
        return self._buckets.allowance(lane, self._now(), contended=self._looks)

    def received(self, lane: ClassBuckets[Paced], size: int) -> None:
        """Charge bytes of payload."""
        assert self._buckets is not None
        self._buckets.charge(lane, size, self._now())

    def received_early(self, name: str | None, size: int) -> None:
        """Charge bytes read before the class was known; they may overdraw its allowance."""
        lane = self.lane(name)
        if lane is not None:
            self.received(lane, size)

    def wait(self, lane: ClassBuckets[Paced], who: Paced) -> None:
        """Call ``who.on_turn`` when it may continue. If it is closed meanwhile, the call still happens, once."""
        assert self._buckets is not None
        self._buckets.wait(lane, who)
        if not self._looks:
            self._looks = True
            self._turns.add(self)

    @property
    def holds(self) -> bool:
        """Whether there are limits."""
        return self._buckets is not None

    def crashed(self, error: Exception) -> None:
        """Pacing itself failed: log a bug of this program."""
        raise error

    def _look(self) -> None:
        """Give turns to the directions that may continue. They may wait again at once."""
        for _ in range(len(self._released)):
            self._resume(self._released.popleft(), 0)
        if self._buckets is not None:
            for who, size in self._buckets.turns(self._now()):
                self._resume(who, size)
        self._looks = self._buckets is not None and self._buckets.waits
        if self._looks:
            self._turns.add(self)

    def _resume(self, who: Paced, size: int) -> None:
        self._chosen, self._granted = (who, size) if size else (None, 0)
        try:
            who.on_turn()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
            who.crashed(error)
        self._chosen = None
