"""Directions that read no faster than their class may receive; the rest is as in :mod:`sidecar.transport.relay`.

For the direction whose source is the network. Which class that is, the owner is asked each time, so that a connection
that gets another one is held by that from its next read on.
"""

from __future__ import annotations

from sidecar.transport.buckets import Lane
from sidecar.transport.following import FollowingDirection
from sidecar.transport.pacing import Paced, Pacer
from sidecar.transport.pipes import PIPE_SIZE
from sidecar.transport.relay import BUFFER_SIZE, Direction, TimedDirection, Turn

_BLOCKED = Turn.BLOCKED


class _Held(Direction):
    """What both have. While it waits for its turn it counts as queued, so that no event runs it."""

    __slots__ = ()

    def drain(self) -> None:
        """At once: the source was reset."""
        with self._pacer.lifted():
            super().drain()

    def _copy(self, limit: int = BUFFER_SIZE) -> Turn | None:
        lane = self._pacer.lane(self.owner.class_name)
        if lane is None:
            return super()._copy(limit)
        allowed = self._pacer.allowance(lane, self)
        return self._copied(lane, allowed) if allowed else self._wait(lane)

    def _splice(self, limit: int = PIPE_SIZE) -> Turn | None:
        lane = self._pacer.lane(self.owner.class_name)
        if lane is None or (self.pipe is not None and self.pipe.inside):
            return super()._splice(limit)
        allowed = self._pacer.allowance(lane, self)
        if not allowed:
            return self._wait(lane)
        if allowed < BUFFER_SIZE:
            self._end_bulk()
            return self._copied(lane, allowed)
        self.last_read = 0
        turn = super()._splice(min(limit, allowed))
        self._pacer.received(lane, self.last_read)
        return turn

    def _copied(self, lane: Lane[Paced], allowed: int) -> Turn | None:
        self.last_read = 0
        turn = super()._copy(min(allowed, BUFFER_SIZE))
        if allowed < BUFFER_SIZE:
            self.full_reads = 0  # full, but not large: splicing would not pay
        self._pacer.received(lane, self.last_read)
        return turn

    def _wait(self, lane: Lane[Paced]) -> Turn:
        self.queued = True
        self._pacer.wait(lane, self)
        return _BLOCKED

    @property
    def _pacer(self) -> Pacer:
        pacer = self.shop.pacer
        assert pacer is not None  # without one there are no such directions
        return pacer


class PacedDirection(_Held, TimedDirection):
    """Bytes that come from the network, copied or spliced."""

    __slots__ = ()


class PacedFollowingDirection(_Held, FollowingDirection):
    """The same for requests that clients send and that are followed."""

    __slots__ = ()
