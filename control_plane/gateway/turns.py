"""The gateway's thread: sockets that are ready, what is due, and what other threads ask for, in turns."""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

from daemon.log import Logger

_AT_ONCE: Final = 128
"""Sockets looked at in a turn."""
_SOON_AT_ONCE: Final = 200
"""What else is done in a turn, before sockets are looked at again."""
_LONGEST: Final = 1.0

log = Logger(spacing=1.0)


class TurnTimer:
    """What :meth:`Turns.call_later` will call."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self._callback = None

    def fire(self) -> None:
        """Call it once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Turns:
    """Waits on a private epoll. All but :meth:`run_soon` is for its own thread alone."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        """When the turn began."""
        self.begun = 0
        """How many turns there were."""
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, TurnTimer]] = []
        self._order = count()
        self._soon: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = threading.Lock()
        self._closed = False
        self._waits = False
        self.watch(self._wake, select.EPOLLIN, self._woken)

    def watch(self, descriptor: int, events: int, ready: Callable[[int], None]) -> None:
        """Call ``ready`` with what has happened, each turn in which one of ``events`` is so."""
        self._ready[descriptor] = ready
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Before it is closed."""
        del self._ready[descriptor]
        self._epoll.unregister(descriptor)

    def call_later(self, delay: float, callback: Callable[[], None]) -> TurnTimer:
        """Call it in ``delay`` seconds."""
        timer = TurnTimer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), timer))
        return timer

    def run_soon(self, callback: Callable[[], None]) -> bool:
        """Call it in this turn or the next, in the order of the calls. Any thread may ask.

        False: the turns have ended, and it will not be called.
        """
        if self._closed:
            return False
        self._soon.append(callback)
        if self._waits:
            self._waits = False
            with self._waking:
                if not self._closed:
                    os.eventfd_write(self._wake, 1)
        return True

    def turn(self) -> None:
        """Wait until there is something to do, and do it."""
        self._waits = True
        timeout = 0.0 if self._soon else self._until_next()
        happened = self._epoll.poll(timeout, _AT_ONCE)
        self._waits = False
        self.now = time.monotonic()
        self.begun += 1
        for descriptor, events in happened:
            ready = self._ready.get(descriptor)
            if ready is not None:
                _guarded(ready, events)
        while self._timers and self._timers[0][0] <= self.now:
            _guarded(heapq.heappop(self._timers)[2].fire)
        for _ in range(min(len(self._soon), _SOON_AT_ONCE)):
            _guarded(self._soon.popleft())

    def finish(self) -> None:
        """End: do what was asked for already, but for what was asked for later."""
        with self._waking:
            self._closed = True
            self._epoll.close()
            os.close(self._wake)
        while self._soon:
            _guarded(self._soon.popleft())
        self._ready.clear()
        self._timers.clear()

    def _until_next(self) -> float:
        if not self._timers:
            return _LONGEST
        return min(max(self._timers[0][0] - time.monotonic(), 0.0), _LONGEST)

    def _woken(self, _: int) -> None:
        os.eventfd_read(self._wake)


def _guarded(callback: Callable[..., None], *arguments: int) -> None:
    try:
        callback(*arguments)
    except Exception as error:  # one connection's fault must not end all others
        log.error("a fault in the gateway", exc_info=error)
