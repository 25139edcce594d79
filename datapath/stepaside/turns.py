"""One thread that classifies the packets of many queues, for a process that serves many network namespaces.

Each queue with packets has its turn of at most :data:`TURN` packets, then the next one has: a Pod whose programs open
connections without end takes CPU from others only as one of those that have packets waiting. What exceeds a queue's
room bypasses it, and goes in the class of its port.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, Self

TURN: Final = 16
"""Packets: about a millisecond of reading hellos."""
TIDY_S: Final = 10.0
"""Seconds between two looks for connections that say nothing more."""
_SWITCH_S: Final = 0.0005
"""How long a packet waits at most for the other threads (admin server, sampling) to let go of the interpreter."""

Turn = Callable[[int], None]
"""Classifies at most that many packets of a queue, or with 0, from time to time, gives up what says nothing more. It
must not block."""


@contextmanager
def fast_switching() -> Iterator[None]:
    """Threads wait less long for the interpreter during the block."""
    patience = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(patience)


class ClassifierThread:
    """The thread; it runs from ``with`` to its end. Queues are added and removed from another thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._turns: dict[int, Turn] = {}
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="classifier", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._poll.close()
        os.close(self._wake)

    def add(self, descriptor: int, turn: Turn) -> None:
        """Call ``turn`` whenever ``descriptor`` is readable."""
        self._turns[descriptor] = turn
        self._poll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """When this returns, no turn of that descriptor runs, nor will."""
        with self._busy:
            del self._turns[descriptor]
            self._poll.unregister(descriptor)

    def _run(self) -> None:
        with fast_switching():
            due = monotonic() + TIDY_S
            while True:
                for descriptor, _ in self._poll.poll(max(0.0, due - monotonic())):
                    if descriptor == self._wake:
                        return
                    self._give_turn(descriptor, TURN)
                if monotonic() >= due:
                    due = monotonic() + TIDY_S
                    for descriptor in list(self._turns):
                        self._give_turn(descriptor, 0)

    def _give_turn(self, descriptor: int, most: int) -> None:
        with self._busy:
            if (turn := self._turns.get(descriptor)) is not None:
                turn(most)
