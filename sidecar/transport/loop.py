"""The event loop that moves all bytes: a private edge-triggered epoll whose descriptor one trio task awaits.

trio sees one readable descriptor, however many connections there are. When it wakes, the epoll is drained by
synchronous handlers, so a connection costs no task, no cancel scope and no scheduling. A trio task per direction halves
the connection rate and takes many times the memory.

Rules that the rest of the data path relies on:

* **Edge-triggered.** A socket is registered once, for all events, and the kernel reports only changes. A handler must
  therefore work until EAGAIN, or remember that it has not; :meth:`EventLoop.call_soon` serves that.
* **Budgets.** A handler does a bounded amount of work per call and then queues itself with ``call_soon``; queued
  handlers alternate with new events, so a fast transfer cannot starve other connections or trio tasks.
* **No descriptor number is reused within a round.** Sockets closed by a handler are really closed at the end of the
  round (:meth:`EventLoop.close_deferred`). Otherwise an event fetched for the old socket would reach a new one with its
  number.
* **Faults are isolated.** An exception of a handler goes to its own ``crashed``; one of the loop itself propagates into
  the nursery and ends the server.
"""

from __future__ import annotations

import os
import select
from collections import deque
from socket import SocketType
from time import perf_counter
from typing import Final, Protocol

import trio

from sidecar.transport.timers import Timers

READING: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
"""The registration of a connection's socket: input is reported once per edge. (Errors and hang-ups always are.)"""
EDGES: Final = READING | select.EPOLLOUT
"""Input and output: for sockets that are connecting, or were once full. Most never are, and would only report that they
are writable when registered, a useless event per socket."""
READ_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP | select.EPOLLERR
"""Reasons to read."""
URGENT: Final = select.EPOLLPRI
ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP
"""The peer's FIN has arrived, and everything before it."""
END_EVENTS: Final = URGENT | ENDED
"""After these a short read does not mean that a further event follows when there is more."""
WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
"""Reasons to write."""
FAILURE: Final = select.EPOLLERR

BATCH: Final = 256
"""Events fetched per epoll_wait."""
LINGER_S: Final = 0.001
"""Seconds to wait for the next event in the epoll itself before returning to trio: a wake-up through trio costs many
times as much as one through epoll_wait, and under load the next event is near. It does not spin; an idle proxy waits
once and then sleeps in trio ..."""
MAX_STAY_S: Final = 0.005
"""... but let the other tasks (health checks, drain) run after 5 ms."""


class Handler(Protocol):
    """A callback of the loop: registered per descriptor, or queued with :meth:`EventLoop.call_soon`."""

    def on_events(self, events: int) -> None:
        """The epoll events of the descriptor."""

    def on_turn(self) -> None:
        """Continue, after :meth:`EventLoop.call_soon`."""

    def crashed(self, error: Exception) -> None:
        """``on_events`` or ``on_turn`` raised: clean up. Must not raise."""


class EventLoop:
    """Descriptors and their handlers. ``wakeups`` and ``events`` are counters."""

    def __init__(self, timers: Timers) -> None:
        self._epoll = select.epoll()
        self._timers = timers
        self._handlers: dict[int, Handler] = {}
        self._ready: deque[Handler] = deque()
        self._to_close: list[SocketType] = []
        self._in_round = False
        self._poke: int | None = None  # an eventfd
        self.wakeups = 0
        self.events = 0

    def __len__(self) -> int:
        """The number of descriptors with a handler."""
        return len(self._handlers)

    def watch(self, descriptor: int, handler: Handler, events: int = READING) -> None:
        """Register a descriptor. Raises OSError if the kernel has no room (fs.epoll.max_user_watches)."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def set_handler(self, descriptor: int, handler: Handler) -> None:
        """Give a watched descriptor another handler; no system call."""
        self._handlers[descriptor] = handler

    def set_events(self, descriptor: int, events: int) -> None:
        """Change the events reported for a watched descriptor (0: none)."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Call before closing a socket that another process has open: else it stays in the epoll (epoll(7), question
        6)."""
        self._epoll.unregister(descriptor)

    def close_deferred(self, socket: SocketType) -> None:
        """Close a socket: no handler sees it again, its number stays taken until the end of the round."""
        self._handlers.pop(socket.fileno(), None)
        if self._in_round:
            self._to_close.append(socket)
        else:
            socket.close()

    def call_soon(self, handler: Handler) -> None:
        """Call ``handler.on_turn()`` in the next round."""
        self._ready.append(handler)
        if not self._in_round:
            self._wake()

    async def run(self) -> None:
        """Serve until cancelled; then call :meth:`close`."""
        descriptor = self._epoll.fileno()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timers.run)
            while True:
                if self._ready:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(descriptor)
                self.wakeups += 1
                leave_at = perf_counter() + MAX_STAY_S
                while self.run_once(LINGER_S) and perf_counter() < leave_at:
                    pass

    def run_once(self, patience: float = 0.0) -> int:
        """Fetch events, call the handlers, close deferred sockets. Return the number of handlers called.

        If no handler is queued, wait up to ``patience`` seconds for events.
        """
        self._in_round = True
        turns = len(self._ready)
        fetched = self._epoll.poll(0 if turns else patience, BATCH)
        self.events += len(fetched)
        handlers = self._handlers
        for descriptor, events in fetched:
            handler = handlers.get(descriptor)
            if handler is not None:
                try:
                    handler.on_events(events)
                except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
                    handler.crashed(error)
        for _ in range(turns):
            handler = self._ready.popleft()
            try:
                handler.on_turn()
            except Exception as error:  # noqa: BLE001 (as above)
                handler.crashed(error)
        self._in_round = False
        for socket in self._to_close:
            socket.close()
        self._to_close.clear()
        return len(fetched) + turns

    def close(self) -> None:
        """Close the epoll. Sockets are closed by their owners."""
        self._epoll.close()
        if self._poke is not None:
            os.close(self._poke)

    def _wake(self) -> None:
        """Wake the loop after work was queued between two rounds, by a deadline: the loop sleeps then, and no event
        would wake it. Edge-triggered: each write is an event, and the eventfd need not be read."""
        if self._poke is None:
            self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self._poke, select.EPOLLIN | select.EPOLLET)
        os.eventfd_write(self._poke, 1)
