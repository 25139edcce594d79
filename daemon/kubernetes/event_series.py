"""Which Events are written when: equal ones are one, whose count is written from time to time. No I/O.

A ReplicaSet whose Pods are refused tries for ever. As with client-go's EventCorrelator
(k8s.io/client-go/tools/record/events_cache.go) that is one Event with a count. Other than there the count is written
every two minutes at most, however often it grows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import uuid4

from traffic_policy.errors import shortened

MOST: Final = 1000
"""Different Events that are kept, written or not; a message has 1000 characters at most."""
WRITE_INTERVAL: Final = 120.0
"""Seconds from a write of an Event to its next one."""
RETRY_INTERVAL: Final = 10.0
"""Seconds from a failed write to the next one."""
_FORGET: Final = 3600.0
"""Seconds after which the same happening is another Event: API servers keep one for an hour (``--event-ttl``)."""

_LONGEST_MESSAGE: Final = 1000
"""Characters of a message: events.k8s.io/v1 has at most 1024 (NoteLengthLimit in k8s.io/kubernetes)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """An object in a namespace, with the fields of an owner reference (metav1.OwnerReference)."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Happening:
    """What became of a Pod, to be told on ``owner``; equal ones are one Event, and are counted. ``message`` has 1000
    characters at most."""

    namespace: str
    owner: Owner
    reason: str
    message: str
    is_warning: bool


def event_message(text: str) -> str:
    """A text as one line of a length that an Event can have."""
    line = shortened(" ".join(text.split()), _LONGEST_MESSAGE - len(" ... "))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


@dataclass(eq=False, slots=True)
class Series:
    """Equal happenings. ``due``: when it may be written, in the seconds of the caller's clock."""

    happening: Happening
    first: datetime
    last: datetime
    seen: float
    due: float
    count: int = 1
    id: str = field(default_factory=lambda: uuid4().hex[:16])


class EventSeries:
    """What has happened, by kind. ``seconds`` are of a clock that never goes back, ``now`` is the date."""

    def __init__(self) -> None:
        self._waiting: dict[Happening, Series] = {}
        self._written: OrderedDict[Happening, Series] = OrderedDict()

    def add(self, happening: Happening, seconds: float, now: datetime) -> bool:
        """Count one. False: there are too many others that are not written yet, and it is dropped."""
        known = self._waiting.get(happening) or self._written.pop(happening, None)
        if known is not None and (happening in self._waiting or seconds < known.seen + _FORGET):
            known.count, known.last, known.seen = known.count + 1, now, seconds
            self._waiting[happening] = known
            return True
        if len(self._waiting) + len(self._written) >= MOST:
            if not self._written:
                return False
            self._written.popitem(last=False)
        self._waiting[happening] = Series(happening, now, now, seconds, seconds)
        return True

    def next(self) -> Series | None:
        """The one that is to be written first, maybe later than now: of those that are due at one time warnings come
        first. None: all are written."""
        return min(self._waiting.values(), key=lambda s: (s.due, not s.happening.is_warning), default=None)

    def wrote(self, series: Series, count: int, seconds: float) -> None:
        """The series was written with this count, or given up."""
        series.due = seconds + WRITE_INTERVAL
        if series.count == count:
            del self._waiting[series.happening]
            self._written[series.happening] = series

    def failed(self, series: Series, seconds: float) -> None:
        """It was not written, and is tried again."""
        series.due = seconds + RETRY_INTERVAL
