"""The loop that moves all bytes: a private edge-triggered epoll whose descriptor one trio task awaits.

trio sees one readable descriptor, however many connections there are. When it wakes, the epoll is drained and
synchronous handlers do the work, so a connection costs no task, no cancel scope and no scheduling (measured: a trio
task per direction halves the connection rate and takes 14 times the memory).

Rules that the rest of the data path relies on:

* **Edge-triggered.** A socket is registered once, for everything, and the kernel reports only news. A handler must
  therefore work until the kernel says EAGAIN, or remember that it has not: that is what :meth:`EventLoop.call_soon` is
  for.
* **Budgets.** A handler does a bounded amount of work per call and then queues itself with ``call_soon``; what is
  queued takes turns with new events, so one fast transfer cannot starve the others, nor the other trio tasks.
* **No descriptor number is reused within a round.** Sockets closed by a handler are really closed when the round is
  over (:meth:`EventLoop.close_deferred`). Otherwise an event fetched for the old socket would reach a new one with its
  number.
* **Faults stay where they are.** What a handler raises goes to its own ``crashed``; what the loop itself raises goes up
  into the nursery and ends the server.
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
"""The registration of a connection's socket: what comes is reported once. (Errors and hang-ups always are.)"""
EDGES: Final = READING | select.EPOLLOUT
"""That, and when it can be written to again: for sockets that are connecting, or have once been full. Most never are,
and would only report that they are writable when they are registered, which is an event per socket for nothing."""
READ_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP | select.EPOLLERR
"""Reasons to read."""
URGENT: Final = select.EPOLLPRI
ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP
"""The peer's FIN is here, and everything before it."""
END_EVENTS: Final = URGENT | ENDED
"""After these a short read does not mean that a further event will come when there is more."""
WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
"""Reasons to write."""
FAILURE: Final = select.EPOLLERR

BATCH: Final = 256
"""Events fetched per epoll_wait."""
LINGER_S: Final = 0.001
"""How long to wait for the next event in the epoll itself before going back to trio: a wake-up through trio takes
15 us, one through epoll_wait 1, and under load the next event is never far. It is a wait and no spinning; an idle proxy
waits once and then sleeps in trio ..."""
MAX_STAY_S: Final = 0.005
"""... but give the other tasks (health checks, drain) a turn after 5 ms."""


class Handler(Protocol):
    """What the loop calls. Registered per descriptor, or queued with :meth:`EventLoop.call_soon`."""

    def on_events(self, events: int) -> None:
        """The epoll events of the descriptor."""

    def on_turn(self) -> None:
        """Its turn to go on, after :meth:`EventLoop.call_soon`."""

    def crashed(self, error: Exception) -> None:
        """``on_events`` or ``on_turn`` raised: clean up. Must not raise."""


class EventLoop:
    """Descriptors and their handlers. ``wakeups`` and ``events`` count what was done."""

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
        """How many descriptors have a handler."""
        return len(self._handlers)

    def watch(self, descriptor: int, handler: Handler, events: int = READING) -> None:
        """Register a descriptor. Raises OSError when the kernel has no room (fs.epoll.max_user_watches)."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def set_handler(self, descriptor: int, handler: Handler) -> None:
        """Give a watched descriptor another handler; no system call."""
        self._handlers[descriptor] = handler

    def set_events(self, descriptor: int, events: int) -> None:
        """Change what a watched descriptor reports (0: nothing)."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Before a socket is closed that others have open, too: else it stays in the epoll (epoll(7), question 6)."""
        self._epoll.unregister(descriptor)

    def close_deferred(self, socket: SocketType) -> None:
        """Close a socket: no handler sees it again, its number stays taken until the round is over."""
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
        """Serve for ever. Cancel to stop; then :meth:`close`."""
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
        """Fetch what is there, let everybody take a turn, bury the dead. Returns how many handlers were called.

        With nobody waiting for a turn, ``patience`` is how long to wait for events, in seconds.
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
        """Whoever is called by a deadline has done work between two rounds: then the loop sleeps, and nothing else ends
        its sleep. Edge-triggered: each write is an event, and nobody needs to read."""
        if self._poke is None:
            self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self._poke, select.EPOLLIN | select.EPOLLET)
        os.eventfd_write(self._poke, 1)
