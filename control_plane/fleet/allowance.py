"""How often somebody may do something: a token bucket."""

from __future__ import annotations


class Allowance:
    """``burst`` at once, and ``rate`` per second in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether it may be done once more at ``now`` (seconds of any clock)."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
