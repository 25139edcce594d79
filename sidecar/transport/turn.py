"""How a direction's turn ended (:mod:`sidecar.transport.direction`)."""

from __future__ import annotations

import enum


class Turn(enum.IntEnum):
    """How a pump ended."""

    BLOCKED = enum.auto()
    """Nothing to read, or the sink is full: an event will tell."""
    BUDGET_SPENT = enum.auto()
    """There is more to do: queue for another turn."""
    FINISHED = enum.auto()
    """The source's FIN was read, and all before it is written."""
    BROKEN = enum.auto()
    """The sink had finished, and has reset now: it takes nothing more."""
    SOURCE_RESET = enum.auto()
    """The source reset the connection; all that had come before is written or lost."""
    SINK_RESET = enum.auto()
    """The sink reset the connection, not having finished before."""
