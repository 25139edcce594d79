"""One reading of an interface's classes, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile
from typing import Protocol

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from tc_core.stats import ClassStats
from traffic_policy.errors import PodlaneError
from traffic_policy.units import Rate


class SourceError(PodlaneError):
    """The classes cannot be read (any more); the message has reason and remedy."""


class AwayError(SourceError):
    """The classes cannot be read now; a later call may find them again."""


@dataclass(frozen=True, slots=True)
class ClassReading:
    """A class at one moment. ``key`` is the same in all readings.

    A field is None if the shaper lacks it; ``active`` and ``opened`` (connections alive, and since the start) if
    connections are not counted. ``arrives``: it limits received traffic. ``workload`` is empty if there is only one.
    ``at``: when its counters were read, in seconds of a monotonic clock, if not with those of all others.
    """

    key: str
    name: str
    stats: ClassStats
    rate: Rate | None = None
    ceil: Rate | None = None
    priority: int | None = None
    active: int | None = None
    opened: int | None = None
    arrives: bool = False
    workload: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All classes at one moment, in seconds of a monotonic clock.

    ``details`` are for a title. ``notes`` tell what is not as it is wanted, a line each.
    """

    at: float
    interface: str
    total: Rate | None
    classes: tuple[ClassReading, ...]
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A source of readings. Its methods block, and raise :class:`SourceError` or the errors of :mod:`tc_core`."""

    @property
    def name(self) -> str:
        """The source's name, for a title."""

    def read(self) -> Reading:
        """Read the classes."""

    def connections(self, limit: int, order: Order) -> Connections:
        """Read the live connections."""


def duration_words(seconds: float) -> str:
    """``42s``, ``3m 5s``, ``2h 10m``, ``5d 3h``: two units at most."""
    whole = int(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    used = list(dropwhile(lambda part: not part[0], parts))[:2]
    return " ".join(f"{number}{unit}" for number, unit in used if number) or "0s"
