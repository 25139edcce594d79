"""How often somebody may ask. Pure; the caller has the clock."""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from typing import Final

_MOST: Final = 10_000
"""Names that are remembered. The one that has asked for longest not is forgotten first: its bucket is likely full."""


class RequestBuckets:
    """A bucket of tokens for each name: ``burst`` at once, ``rate`` a second for ever. For one thread at a time."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What was left, and when (seconds)."""

    def take(self, name: str, now: float) -> int:
        """Take one token. 0: it was there; else after how many whole seconds one will be."""
        left = self._at(name, now)
        if left < 1:
            return max(1, ceil((1 - left) / self._rate))
        self._left[name] = left - 1, now
        self._left.move_to_end(name)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        return 0

    def _at(self, name: str, now: float) -> float:
        left, before = self._left.get(name, (self._burst, now))
        return min(self._burst, left + (now - before) * self._rate)
