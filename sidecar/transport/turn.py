"""The results of a direction's turn (:mod:`sidecar.transport.direction`)."""

from __future__ import annotations

import enum


class Turn(enum.IntEnum):
    """The result of a pump."""

    BLOCKED = enum.auto()
    """Nothing to read, or the sink is full: an event will follow."""
    BUDGET_SPENT = enum.auto()
    """More to do: queue for another turn."""
    FINISHED = enum.auto()
    """The source's FIN was read, and all bytes before it are written."""
    BROKEN = enum.auto()
    """The sink had finished, and has now reset: it accepts nothing more."""
    SOURCE_RESET = enum.auto()
    """The source reset the connection; all earlier bytes are written or lost."""
    SINK_RESET = enum.auto()
    """The sink reset the connection without having finished."""
