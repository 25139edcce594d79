"""Directions that read no faster than their class may receive; the rest is as in :mod:`sidecar.transport.direction`.

For the direction whose source is the network. Which class that is, the owner is asked each time, so that a connection
that gets another one is held by that from its next read on.

Limits may come and go while a connection lives, and where there are none its reads shall cost nothing: so a direction
becomes one that is held, and back, by :func:`hold`. Both have the same attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.transport.direction import BUFFER_SIZE, Direction, TimedDirection, Turn
from sidecar.transport.pacing import Paced
from sidecar.transport.pipes import PIPE_SIZE
from sidecar.transport.request_direction import FollowingDirection
from sidecar.transport.token_bucket import Lane

_BLOCKED = Turn.BLOCKED


class _Held(Direction):
    """What both have. While it waits for its turn it counts as queued, so that no event runs it."""

    __slots__ = ()

    def drain(self) -> None:
        """At once: the source was reset."""
        with self.shop.pacer.lifted():
            super().drain()

    def _copy(self, limit: int = BUFFER_SIZE) -> Turn | None:
        lane = self.shop.pacer.lane(self.owner.class_name)
        if lane is None:
            return super()._copy(limit)
        allowed = self.shop.pacer.allowance(lane, self)
        return self._copied(lane, allowed) if allowed else self._wait(lane)

    def _splice(self, limit: int = PIPE_SIZE) -> Turn | None:
        lane = self.shop.pacer.lane(self.owner.class_name)
        if lane is None or (self.pipe is not None and self.pipe.inside):
            return super()._splice(limit)
        allowed = self.shop.pacer.allowance(lane, self)
        if not allowed:
            return self._wait(lane)
        if allowed < BUFFER_SIZE:
            self._end_bulk()
            return self._copied(lane, allowed)
        self.last_read = 0
        turn = super()._splice(min(limit, allowed))
        self.shop.pacer.received(lane, self.last_read)
        return turn

    def _copied(self, lane: Lane[Paced], allowed: int) -> Turn | None:
        self.last_read = 0
        turn = super()._copy(min(allowed, BUFFER_SIZE))
        if allowed < BUFFER_SIZE:
            self.full_reads = 0  # full, but not large: splicing would not pay
        self.shop.pacer.received(lane, self.last_read)
        return turn

    def _wait(self, lane: Lane[Paced]) -> Turn:
        self.queued = True
        self.shop.pacer.wait(lane, self)
        return _BLOCKED


class HeldDirection(_Held):
    """Bytes that come from the network, copied or spliced."""

    __slots__ = ()


class HeldTimedDirection(_Held, TimedDirection):
    """The same for one that measures its waits."""

    __slots__ = ()


class HeldFollowingDirection(_Held, FollowingDirection):
    """The same for requests that clients send and that are followed."""

    __slots__ = ()


_HELD: Final[Mapping[type[Direction], type[Direction]]] = {
    Direction: HeldDirection,
    TimedDirection: HeldTimedDirection,
    FollowingDirection: HeldFollowingDirection,
}
_FREE: Final = {held: free for free, held in _HELD.items()}


def hold(direction: Direction, *, held: bool) -> None:
    """Have a direction held to what its class may receive from its next read on, or not any more."""
    kind = type(direction)
    direction.__class__ = (_HELD if held else _FREE).get(kind, kind)
