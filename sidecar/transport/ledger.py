"""How much each process of the sidecar has received for each class: memory that all of them share.

A row per process and a number per class id. Only its own process writes a row, and a number is stored in one piece, so
that nobody needs a lock and a process that is killed leaves nothing behind that others would wait for. Whoever comes in
its place goes on with its row.
"""

from __future__ import annotations

import mmap
from typing import Final

CLASSES: Final = 256
"""Class ids have eight bits (:mod:`tc_core.marks`)."""
_NUMBER: Final = 8
"""Bytes."""


class Ledger:
    """Bytes by process and class. Made before processes are forked; what they count then is seen by all."""

    def __init__(self, rows: int = 1) -> None:
        self._memory = mmap.mmap(-1, rows * CLASSES * _NUMBER)  # anonymous and shared (mmap(2)), and all zero
        self._numbers = memoryview(self._memory).cast("Q")
        self._rows = rows

    def total(self, class_id: int) -> int:
        """Bytes of a class, of all processes."""
        return sum(self._numbers[class_id::CLASSES])

    def row(self, number: int) -> LedgerRow:
        """The row of one process, from 0 on."""
        if not 0 <= number < self._rows:
            raise ValueError(f"there are {self._rows} rows, and no {number}")
        return LedgerRow(self, self._numbers[number * CLASSES : (number + 1) * CLASSES], alone=self._rows == 1)


class LedgerRow:
    """What one process sees of a ledger: its own row, and the sum of the others."""

    __slots__ = ("_ledger", "_own", "alone")

    def __init__(self, ledger: Ledger, own: memoryview, *, alone: bool) -> None:
        self._ledger = ledger
        self._own = own
        self.alone = alone
        """Whether there are no others."""

    def add(self, class_id: int, size: int) -> None:
        """So much more was received here."""
        self._own[class_id] += size

    def clear(self, class_id: int) -> None:
        """The class is gone; another may get its id."""
        self._own[class_id] = 0

    def others(self, class_id: int) -> int:
        """What all other processes have received; less than before when the class has been another one's."""
        return self._ledger.total(class_id) - self._own[class_id]
