"""Signs of life, on a page of memory that proxy and supervisor share: neither has to call the other.

Each kind of sign has eight bytes: when it was last given, in nanoseconds of the monotonic clock, which all processes
share (clock_gettime(2), CLOCK_MONOTONIC). 0: never yet, or taken back, and then nobody waits for it. A write of eight
aligned bytes is seen whole or not at all.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic_ns
from typing import Final

LOOP: Final = 0
"""The proxy's event loop turns."""
CLASSIFIER: Final = 1
"""So does the thread that judges packets, stepping aside."""
WORKERS: Final = 2
"""All workers have answered."""
KINDS: Final = 3
EVERY_S: Final = 0.2
"""Seconds from one sign to the next."""


class Heartbeat:
    """The page, from either side."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor``: of the memory that :func:`new_page` has made; it may be closed afterwards."""
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._times = memoryview(self._page).cast("Q")

    def beat(self, kind: int) -> None:
        """It is alive now."""
        self._times[kind] = monotonic_ns()

    def stop(self, kind: int) -> None:
        """It has ended as it should: nobody is to wait for it any more."""
        self._times[kind] = 0

    def last(self, kind: int) -> int:
        """When it last was; 0: it has not begun, or has ended."""
        return self._times[kind]

    def close(self) -> None:
        """Let go of the page."""
        self._times.release()
        self._page.close()


def new_page() -> int:
    """A descriptor of such a page, all zero (memfd_create(2))."""
    descriptor = os.memfd_create("podlane-beats", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor
