"""How soon agents have applied a revision. Pure."""

from __future__ import annotations

from bisect import insort
from typing import Protocol


class Tally(Protocol):
    """Is told what becomes of revisions; times in seconds of the clock that only goes forward."""

    def told(self, revision: int, now: float) -> None:
        """An agent was told a revision."""

    def applied(self, revision: int, now: float) -> None:
        """An agent has answered."""

    def line(self, connected: int, agents: int) -> str:
        """What is told each second."""


class RevisionTally:
    """Counts from when the first agent was told a revision."""

    def __init__(self) -> None:
        self.revision = 0
        self.hash = b""
        self._began = 0.0
        self._took: list[float] = []

    def told(self, revision: int, now: float) -> None:
        """An agent was told a revision, at ``now`` (seconds)."""
        if revision > self.revision:
            self.revision, self._began, self._took = revision, now, []

    def applied(self, revision: int, now: float) -> None:
        """An agent has answered."""
        if revision == self.revision:
            insort(self._took, now - self._began)

    @property
    def count(self) -> int:
        """How many have the last revision."""
        return len(self._took)

    def share(self, part: float) -> float | None:
        """Seconds after which this part (of 1) of those that have it had it; None: nobody has."""
        took = self._took
        return took[min(len(took) - 1, int(part * len(took)))] if took else None

    def line(self, connected: int, agents: int) -> str:
        """What is told each second."""
        text = f"connected {connected}/{agents}  revision {self.revision}  applied {self.count}"
        p50, p99 = self.share(0.5), self.share(0.99)
        return text if p50 is None or p99 is None else f"{text}  p50 {p50:.3f} s  p99 {p99:.3f} s"
