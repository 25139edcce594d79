"""Which of what we depend on is away, and since when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class DependencyState:
    """``up`` is None before anything is known. ``since`` is in Unix seconds; ``why`` says what is wrong."""

    name: str
    up: bool | None
    since: float
    why: str = ""


class Dependency:
    """Something that may be away. Any thread may tell of it."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._state = DependencyState(name, None, clock())

    @property
    def state(self) -> DependencyState:
        """As far as is known now."""
        return self._state

    def is_up(self) -> bool:
        """It has answered; whether that is news."""
        return self._change(True, "")

    def is_away(self, why: str) -> bool:
        """It does not answer; whether that is news."""
        return self._change(False, why)

    def _change(self, up: bool, why: str) -> bool:
        with self._lock:
            before = self._state
            news = before.up is not up
            self._state = DependencyState(before.name, up, self._clock() if news else before.since, why)
            return news
