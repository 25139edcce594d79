"""Which Events are written when: equal ones are one, whose count is written from time to time. No I/O.

What fails is tried for ever. As with client-go's EventCorrelator (k8s.io/client-go/tools/record/events_cache.go) that
is one Event with a count. Other than there the count is written every two minutes at most, however often it grows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import uuid4

MOST: Final = 1000
"""Different Events that are kept, written or not; a message has 1000 characters at most."""
WRITE_INTERVAL: Final = 120.0
"""Seconds from a write of an Event to its next one."""
RETRY_INTERVAL: Final = 10.0
"""Seconds from a failed write to the next one."""
_FORGET: Final = 3600.0
"""Seconds after which the same happening is another Event: API servers keep one for an hour (``--event-ttl``)."""


@dataclass(frozen=True, slots=True)
class EventObject:
    """The object in a namespace that an Event is about."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Happening:
    """What became of an object; equal ones are one Event, and are counted. ``message`` has 1000 characters at most."""

    namespace: str
    about: EventObject
    reason: str
    message: str
    is_warning: bool


@dataclass(eq=False, slots=True)
class Series:
    """Equal happenings. ``due``: when it may be written, in the seconds of the caller's clock."""

    happening: Happening
    first: datetime
    last: datetime
    seen: float
    due: float
    count: int = 1
    written: int = 0
    id: str = field(default_factory=lambda: uuid4().hex[:16])


class EventSeries:
    """What has happened, by kind. ``seconds`` are of a clock that never goes back, ``now`` is the date."""

    def __init__(self) -> None:
        self._known: OrderedDict[Happening, Series] = OrderedDict()

    def add(self, happening: Happening, seconds: float, now: datetime) -> bool:
        """Count one. False: there are too many others that are not written yet, and it is dropped."""
        known = self._known.get(happening)
        if known is not None and (known.count > known.written or seconds < known.seen + _FORGET):
            known.count, known.last, known.seen = known.count + 1, now, seconds
            self._known.move_to_end(happening)
            return True
        if known is None and len(self._known) >= MOST:
            written = next((h for h, series in self._known.items() if series.count == series.written), None)
            if written is None:
                return False
            del self._known[written]
        self._known[happening] = Series(happening, now, now, seconds, seconds)
        self._known.move_to_end(happening)
        return True

    def next(self) -> Series | None:
        """The one that is to be written first, maybe later than now: of those that are due at one time warnings come
        first. None: all are written."""
        waiting = (series for series in self._known.values() if series.count > series.written)
        return min(waiting, key=lambda s: (s.due, not s.happening.is_warning), default=None)

    def wrote(self, series: Series, count: int, seconds: float) -> None:
        """The series was written with this count, or given up."""
        series.written, series.due = count, seconds + WRITE_INTERVAL

    def failed(self, series: Series, seconds: float) -> None:
        """It was not written, and is tried again."""
        series.due = seconds + RETRY_INTERVAL
