"""Receive counters in memory shared by all processes of the sidecar.

Bytes received per process and class: a row per process, and a number per class id. Only its own process writes a row.
In addition, a time per bucket (:mod:`sidecar.transport.token_bucket`), which any process writes.

Each number is stored atomically, so there is no lock, and a killed process leaves no lock behind. When two processes
charge a bucket within the same microsecond, one charge is lost: one in some thousands at most, which saves a lock at
every read.
"""

from __future__ import annotations

import mmap
from typing import Final

CLASSES: Final = 256
"""Class ids have eight bits (:mod:`traffic_policy.marks`)."""
_NUMBER: Final = 8
"""Bytes."""
_TIMES: Final = 2 * CLASSES
"""Two buckets for each class."""


class SharedCounters:
    """Made before processes are forked; what they write then is seen by all."""

    def __init__(self, rows: int = 1) -> None:
        self._memory = mmap.mmap(-1, (_TIMES + rows * CLASSES) * _NUMBER)  # anonymous, shared (mmap(2)), and all zero
        numbers = memoryview(self._memory)
        self.times = numbers[: _TIMES * _NUMBER].cast("d")
        """Seconds on the clock of :func:`time.perf_counter`, which all processes have in common (CLOCK_MONOTONIC)."""
        self._numbers = numbers[_TIMES * _NUMBER :].cast("Q")
        self._rows = rows

    def total(self, class_id: int) -> int:
        """Bytes of a class, of all processes."""
        return sum(self._numbers[class_id::CLASSES])

    def row(self, number: int) -> CounterRow:
        """The row of one process, counted from 0. A process that replaces another continues its row."""
        if not 0 <= number < self._rows:
            raise ValueError(f"there are {self._rows} rows, and no {number}")
        return CounterRow(self.times, self._numbers[number * CLASSES : (number + 1) * CLASSES])


class CounterRow:
    """What one process works with: its own row, and the times of all buckets."""

    __slots__ = ("_own", "times")

    def __init__(self, times: memoryview[float], own: memoryview[int]) -> None:
        self.times = times
        self._own = own

    def add(self, class_id: int, size: int) -> None:
        """So much more was received here."""
        self._own[class_id] += size

    def clear(self, class_id: int) -> None:
        """The class is gone; another may get its id."""
        self._own[class_id] = 0
