"""The part of a direction that reads no faster than its class may receive (:class:`sidecar.transport.direction.Pace`).

For the direction whose source is the network. The class is read at each read, so that a connection that changes its
class is held to the new limits from its next read on. Limits may change while a connection lives: a direction gains or
loses this part between two reads.
"""

from __future__ import annotations

from typing import Protocol

from sidecar.transport.direction import BULK_AFTER, Direction
from sidecar.transport.loop_context import BUFFER_SIZE
from sidecar.transport.pacing import Pacer
from sidecar.transport.pipes import PIPE_SIZE
from sidecar.transport.turn import Turn


class HasClass(Protocol):
    """Knows the class of the connection."""

    @property
    def name(self) -> str | None:
        """The current class; None: not known yet."""


class ClassPace:
    """Holds one direction to the limits of its class."""

    __slots__ = ("_class", "_pacer")

    def __init__(self, pacer: Pacer, traffic_class: HasClass) -> None:
        self._pacer = pacer
        self._class = traffic_class

    def read(self, direction: Direction) -> Turn | None:
        """Copy or splice as much as the class may receive now. A direction that waits for its turn counts as queued, so
        that no event runs it."""
        pacer = self._pacer
        lane = pacer.lane(self._class.name)
        bulk = direction.full_reads >= BULK_AFTER
        if bulk and direction.pipe is not None and direction.pipe.inside:
            return direction.splice(PIPE_SIZE)  # was charged when it was read
        if lane is None:
            return direction.splice(PIPE_SIZE) if bulk else direction.copy(BUFFER_SIZE)
        allowed = pacer.allowance(lane, direction)
        if not allowed:
            direction.queued = True
            pacer.wait(lane, direction)
            return Turn.BLOCKED
        direction.last_read = 0
        if bulk and allowed >= BUFFER_SIZE:
            turn = direction.splice(min(PIPE_SIZE, allowed))
        else:
            turn = direction.copy(min(BUFFER_SIZE, allowed))
            if allowed < BUFFER_SIZE:
                direction.full_reads = 0  # full, but not large: splicing would not pay
        pacer.received(lane, direction.last_read)
        return turn

    def moved(self, direction: Direction, early: int) -> None:
        """Charge bytes that were read under the limits of another class, and let them wait for the turn of this one."""
        pacer = self._pacer
        lane = pacer.lane(self._class.name)
        if lane is None:
            return
        allowed = pacer.allowance(lane, direction)
        pacer.received(lane, early)
        if allowed < early:
            direction.queued = True
            pacer.wait(lane, direction)
