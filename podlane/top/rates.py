"""Computes rates from readings: the rate of each class over an interval, and over the last minute. Pure.

Counters are compared with the reading an interval earlier. Further readings in between only sample whether packets
waited. The kernel counts how often a class had to wait (overlimits), but not for how long, so the share of readings
with packets waiting stands for the share of time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from podlane.top.readings import ClassReading, Reading
from tc_core.sampling import Window
from tc_core.stats import ClassStats, grown, rate_between
from traffic_policy.units import Rate

THROTTLED_SECONDS: Final = 10.0
"""Seconds over which "throttled" is measured, or the interval if that is longer: forty readings, steady enough."""
MINUTE: Final = 60.0
LOOK_SECONDS: Final = 0.25
"""Minimum seconds between two readings; an answer takes a sidecar with many classes some tens of milliseconds."""
_RESTRAINT: Final = 10
"""Reading takes at most this fraction of the time."""
_SLACK: Final = 0.5
"""Tolerance for an interval, as a part of the time between readings, which may be slightly late."""


def pause_after_look(took: float, interval: float) -> float:
    """Seconds to the next reading, after one that took ``seconds``."""
    return min(interval, max(LOOK_SECONDS, _RESTRAINT * took))


@dataclass(frozen=True, slots=True)
class RateRow:
    """A class's last interval. Shares are from 0 to 1; None is unknown or not applicable.

    ``borrowed``: the share of sent packets not covered by its own rate. ``backlog_seconds``: the time to send the
    current backlog at the guaranteed rate, or at the ceil without a guarantee. ``throttled``: the share of the last
    seconds in which packets were waiting. ``minute``: the rate in bit/s of each second of the last minute.
    """

    reading: ClassReading
    now: Rate
    of_ceil: float | None
    borrowed: float | None
    packets: float
    drops: float
    overlimits: float
    backlog_seconds: float | None
    throttled: float
    opened: float | None
    minute: tuple[int | None, ...] = ()

    @property
    def name(self) -> str:
        """The class's name; with an arrow if it limits received traffic."""
        return f"↓ {self.reading.name}" if self.reading.arrives else self.reading.name


@dataclass(frozen=True, slots=True)
class Frame:
    """The data of one display. ``seconds`` is the time between the compared readings; 0: there was only one."""

    reading: Reading
    seconds: float
    rows: tuple[RateRow, ...]
    totals: RateRow


@dataclass(slots=True)
class RateTracker:
    """Keeps readings. ``interval``: seconds over which rates are averaged."""

    interval: float
    _looks: Window[Reading] = field(init=False)
    _minutes: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._looks = Window(max(THROTTLED_SECONDS, self.interval) + self.interval)

    def add(self, reading: Reading) -> None:
        """Add a reading. One no newer than the last is ignored; a clock set back starts over."""
        if len(self._looks) and reading.at < self._looks.latest.at:
            self._minutes.clear()
        self._looks.add(reading.at, reading)

    def frame(self) -> Frame:
        """The last interval; needs one reading at least, and has rates from two on.

        Each call adds a point to the last minute.
        """
        latest = self._looks.latest
        # An interval ago, or the oldest reading.
        before = self._looks.before(self.interval - min(LOOK_SECONDS, self.interval) * _SLACK)
        seconds = latest.at - before.at
        earlier = {each.key: each for each in before.classes}
        throttled = self._throttled()
        rows = [_row(each, earlier.get(each.key), seconds, throttled.get(each.key, 0.0)) for each in latest.classes]
        totals = _totals(latest, rows, throttled[""])
        if seconds:
            for row in (*rows, totals):
                points = self._minutes.setdefault(row.reading.key, deque())
                if points and int(points[-1][0]) == int(latest.at):
                    points.pop()  # one per second suffices
                points.append((latest.at, row.now.bits_per_second))
            self._forget(latest)
        *rows, totals = (replace(row, minute=self._minute(row.reading.key, latest.at)) for row in (*rows, totals))
        return Frame(latest, seconds, tuple(rows), totals)

    def _throttled(self) -> Mapping[str, float]:
        """The share of readings with packets waiting, by class key; by "" for all sending classes."""
        looks = list(self._looks.last(max(THROTTLED_SECONDS, self.interval)))
        waited: Counter[str] = Counter()
        for look in looks:
            waiting = [each for each in look.classes if each.stats.backlog_packets > 0]
            waited.update(each.key for each in waiting)
            # Totals are of sent traffic; received traffic has a total of its own.
            waited[""] += any(not each.arrives for each in waiting)
        return {key: number / len(looks) for key, number in waited.items()}

    def _minute(self, key: str, at: float) -> tuple[int | None, ...]:
        """One rate per second; a rate counts for all seconds over which it was averaged."""
        points = self._minutes.get(key, ())
        times = [time for time, _ in points]
        rates = [rate for _, rate in points]
        seconds: list[int | None] = []
        for end in range(int(at) - int(MINUTE) + 1, int(at) + 1):
            place = bisect_left(times, end)
            covered = place < len(times) and times[place] - max(self.interval, 1.0) < end
            seconds.append(rates[place] if covered else None)
        return tuple(seconds)

    def _forget(self, latest: Reading) -> None:
        present = {"", *(each.key for each in latest.classes)}
        for key in self._minutes.keys() - present:
            del self._minutes[key]
        for points in self._minutes.values():
            while points[0][0] <= latest.at - MINUTE:
                points.popleft()


def _row(now: ClassReading, before: ClassReading | None, seconds: float, throttled: float) -> RateRow:
    """``before`` is None for a new class: its counters started at zero."""
    stats = now.stats
    earlier = before.stats if before is not None else ClassStats()
    if before is not None and before.at is not None and now.at is not None:
        seconds = now.at - before.at
    if not seconds:
        return RateRow(now, Rate(0), None, None, 0.0, 0.0, 0.0, _waits(now), throttled, None)
    rate = rate_between(earlier, stats, seconds)
    own, lent = grown(earlier.lended, stats.lended), grown(earlier.borrowed, stats.borrowed)
    return RateRow(
        now,
        rate,
        _of(rate.bits_per_second, now.ceil),
        lent / (own + lent) if own + lent else None,
        grown(earlier.packets, stats.packets) / seconds,
        grown(earlier.drops, stats.drops) / seconds,
        grown(earlier.overlimits, stats.overlimits) / seconds,
        _waits(now),
        throttled,
        None if now.opened is None else grown((before.opened if before else 0) or 0, now.opened) / seconds,
    )


def _waits(now: ClassReading) -> float | None:
    return _of(now.stats.backlog_bytes * 8, now.rate if now.rate and now.rate.bits_per_second else now.ceil)


def _of(bits: int, rate: Rate | None) -> float | None:
    return bits / rate.bits_per_second if rate and rate.bits_per_second else None


def _totals(reading: Reading, rows: Sequence[RateRow], throttled: float) -> RateRow:
    """All sent traffic, as a row without a name."""
    sent = [row for row in rows if not row.reading.arrives]
    guaranteed = [row.reading.rate.bits_per_second for row in sent if row.reading.rate is not None]
    active = [row.reading.active for row in sent if row.reading.active is not None]
    opened = [row.opened for row in sent if row.opened is not None]
    now = Rate(sum(row.now.bits_per_second for row in sent))
    total = reading.total
    waiting = ClassStats(
        backlog_bytes=sum(row.reading.stats.backlog_bytes for row in sent),
        backlog_packets=sum(row.reading.stats.backlog_packets for row in sent),
    )
    guarantee = Rate(sum(guaranteed)) if guaranteed else None
    everything = ClassReading("", "all", waiting, guarantee, total, active=sum(active) if active else None)
    return RateRow(
        everything,
        now,
        _of(now.bits_per_second, total),
        None,
        sum(row.packets for row in sent),
        sum(row.drops for row in sent),
        sum(row.overlimits for row in sent),
        _of(everything.stats.backlog_bytes * 8, total),
        throttled,
        sum(opened) if opened else None,
    )
