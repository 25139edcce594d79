"""What becomes of new connections that the proxy would relay while there is no proxy."""

from __future__ import annotations

from enum import StrEnum


class OnFailure(StrEnum):
    """docs/reference/operations.md has the table of faults."""

    OPEN = "open"
    """They go direct, in the class of their port."""
    CLOSED = "closed"
    """They are refused."""
