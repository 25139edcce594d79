"""Memory that is not needed any more, back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Final

from sidecar.transport.timers import Timers

_WORTH_IT: Final = 1000
"""Connections, at the most that there were, from which on it is worth the trouble: they take a MiB or two."""
_MUCH: Final = 4 << 20
"""The same for bytes that are kept for them."""
_LEFT: Final = 8
"""Not before one in so many is left: what comes and goes needs its memory again."""
_WAIT_S: Final = 1.0


class TrimTrigger:
    """Tells when of much that there was little is left: once, until there is much again."""

    def __init__(self) -> None:
        self._most = 0
        self._most_held = 0

    def has_fallen(self, left: int, held: int) -> bool:
        """Whether it has, now that there are ``left`` connections, and ``held`` bytes that are kept for them."""
        if left > self._most or held > self._most_held:
            self._most, self._most_held = max(left, self._most), max(held, self._most_held)
            return False
        if left * _LEFT > self._most or held * _LEFT > self._most_held:
            return False
        was_much = self._most >= _WORTH_IT or self._most_held >= _MUCH
        self._most, self._most_held = left, held
        return was_much


class Trim:
    """Gives memory back at once when of many connections few are left: for a thread that has nothing else to do."""

    def __init__(self, trim_memory: Callable[[], None]) -> None:
        self._give_back = trim_memory
        self._trigger = TrimTrigger()

    def left(self, left: int, held: int) -> None:
        """So many connections are there, and ``held`` bytes are kept for them."""
        if self._trigger.has_fallen(left, held):
            self._give_back()


class MemoryTrimmer:
    """Gives memory back when of many connections few are left, a second later."""

    def __init__(self, timers: Timers, trim_memory: Callable[[], None]) -> None:
        self._give_back = trim_memory
        self._soon = timers.queue(_WAIT_S, MemoryTrimmer._trim)
        self._trigger = TrimTrigger()

    def closed(self, left: int, held: int) -> None:
        """A connection has ended, ``left`` others are there, and ``held`` bytes are kept for them."""
        if self._trigger.has_fallen(left, held):
            self._soon.add(self)

    def _trim(self) -> None:
        self._give_back()

    def crashed(self, error: Exception) -> None:
        """A mistake of this program, to be seen."""
        raise error


def trim_memory() -> None:
    """Return free pages to the kernel (malloc_trim(3), which other C libraries than glibc do not have).

    Python's own allocator returns whole MiB only, in which nothing at all is left, and that is hardly ever so. With
    PYTHONMALLOC=malloc, as in the image, all of it is glibc's, which returns every free page.
    """
    gc.collect()  # also empties CPython's lists of objects to be used again
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
