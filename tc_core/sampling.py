"""Rates from periodic readings of counters. Pure: times come from the caller.

Two readings are compared by :mod:`tc_core.stats`; here is kept which two. Times are seconds of any clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from tc_core.stats import ClassStats, rates
from traffic_policy.units import Rate

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class RateMeter(Generic[_K]):
    """Mean rates over at least ``over`` seconds: over a few milliseconds one burst looks like many times the ceil."""

    def __init__(self, over: float) -> None:
        self._over = over
        self._before: tuple[float, Mapping[_K, ClassStats]] | None = None
        self._rates: Mapping[_K, Rate] = {}

    def read(self, counters: Mapping[_K, ClassStats], now: float) -> Mapping[_K, Rate]:
        """The rates after a reading; they are the same as before until enough time is over. Nothing at first."""
        if self._before is None:
            self._before = now, counters
        elif (seconds := now - self._before[0]) >= self._over:
            self._rates = rates(self._before[1], counters, seconds)
            self._before = now, counters
        return self._rates

    def again(self, counters: Mapping[_K, ClassStats], now: float) -> bool:
        """Take the same reading again, if it was the last one and all rates are 0; whether that is so.

        Costs next to nothing, for interfaces without traffic.
        """
        if (
            self._before is None
            or self._before[1] is not counters
            or any(r.bits_per_second for r in self._rates.values())
        ):
            return False
        self._before = now, counters
        return True


class Window(Generic[_T]):
    """The readings of the last ``span`` seconds; the last two, however old the first is."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._readings: deque[tuple[float, _T]] = deque()

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, at: float, reading: _T) -> None:
        """Remember a reading; one of an earlier time means that the clock was set back, and the others are forgotten.

        One of the same time as the latest adds nothing.
        """
        kept = self._readings
        if kept and at == kept[-1][0]:
            return
        if kept and at < kept[-1][0]:
            kept.clear()
        kept.append((at, reading))
        while len(kept) > 2 and kept[0][0] < at - self._span:
            kept.popleft()

    @property
    def latest(self) -> _T:
        """The newest reading. Raises IndexError when there is none."""
        return self._readings[-1][1]

    def before(self, seconds: float) -> _T:
        """The newest reading that is older than the latest by so much, or the oldest there is."""
        enough = self._readings[-1][0] - seconds
        older = [reading for at, reading in self._readings if at <= enough]
        return older[-1] if older else self._readings[0][1]

    def last(self, seconds: float) -> Iterator[_T]:
        """The readings of the last seconds, the latest included."""
        since = self._readings[-1][0] - seconds
        return (reading for at, reading in self._readings if at > since)
