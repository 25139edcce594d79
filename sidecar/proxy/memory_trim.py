"""Returns unused memory to the system."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

from daemon.malloc import trim
from sidecar.transport.timers import Timers

_WORTH_IT: Final = 1000
"""Peak number of connections from which on trimming is worthwhile: they take a MiB or two."""
_MUCH: Final = 4 << 20
"""The same for buffered bytes."""
_LEFT: Final = 8
"""Trim once this fraction is left: a load that varies needs its memory again."""
_WAIT_S: Final = 1.0


class TrimTrigger:
    """Reports that a large peak has fallen to a small remainder: once per peak."""

    def __init__(self) -> None:
        self._most = 0
        self._most_held = 0

    def has_fallen(self, left: int, held: int) -> bool:
        """Whether it has, now that there are ``left`` connections and ``held`` buffered bytes."""
        if left > self._most or held > self._most_held:
            self._most, self._most_held = max(left, self._most), max(held, self._most_held)
            return False
        if left * _LEFT > self._most or held * _LEFT > self._most_held:
            return False
        was_much = self._most >= _WORTH_IT or self._most_held >= _MUCH
        self._most, self._most_held = left, held
        return was_much


class Trim:
    """Returns memory at once when few of many connections are left: for a thread without other work."""

    def __init__(self, trim_memory: Callable[[], None]) -> None:
        self._give_back = trim_memory
        self._trigger = TrimTrigger()

    def left(self, left: int, held: int) -> None:
        """Record that ``left`` connections remain with ``held`` buffered bytes."""
        if self._trigger.has_fallen(left, held):
            self._give_back()


class MemoryTrimmer:
    """Returns memory one second after few of many connections are left."""

    def __init__(self, timers: Timers, trim_memory: Callable[[], None]) -> None:
        self._give_back = trim_memory
        self._soon = timers.queue(_WAIT_S, MemoryTrimmer._trim)
        self._trigger = TrimTrigger()

    def closed(self, left: int, held: int) -> None:
        """A connection has ended; ``left`` remain, with ``held`` buffered bytes."""
        if self._trigger.has_fallen(left, held):
            self._soon.add(self)

    def _trim(self) -> None:
        self._give_back()

    def crashed(self, error: Exception) -> None:
        """Log a bug of this program."""
        raise error


def trim_memory() -> None:
    """Return free pages to the kernel."""
    gc.collect()  # also empties CPython's free lists
    trim()
