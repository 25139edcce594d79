"""Heartbeats on a memory page shared by proxy and supervisor, without system calls.

Each kind of heartbeat has eight bytes: the time of the last one, in nanoseconds of CLOCK_MONOTONIC, which all processes
share (clock_gettime(2)). 0: none yet, or stopped, and then none is expected. A write of eight aligned bytes is atomic.

After them the page says whether everything is in force, so that a probe which asks the supervisor need not wait for the
proxy.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic_ns
from typing import Final

LOOP: Final = 0
"""The proxy's event loop."""
CLASSIFIER: Final = 1
"""The thread that classifies packets with step-aside."""
WORKERS: Final = 2
"""All workers have answered."""
KINDS: Final = 3
_READY: Final = KINDS
"""Where the page says whether everything is in force: 1, or 0."""
EVERY_S: Final = 0.2
"""Seconds between two heartbeats."""


class Heartbeat:
    """The page, for either side."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor``: of the memory made by :func:`new_page`; it may be closed afterwards."""
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._times = memoryview(self._page).cast("Q")

    def beat(self, kind: int) -> None:
        """Record a heartbeat now."""
        self._times[kind] = monotonic_ns()

    def stop(self, kind: int) -> None:
        """Stop this kind of heartbeat: none is expected any more."""
        self._times[kind] = 0

    def last(self, kind: int) -> int:
        """The time of the last one; 0: not started, or stopped."""
        return self._times[kind]

    @property
    def ready(self) -> bool:
        """Whether the proxy says that everything is in force."""
        return bool(self._times[_READY])

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._times[_READY] = ready

    def close(self) -> None:
        """Unmap the page."""
        self._times.release()
        self._page.close()


def new_page() -> int:
    """A descriptor of a new page, zeroed (memfd_create(2))."""
    descriptor = os.memfd_create("podlane-beats", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    return descriptor
