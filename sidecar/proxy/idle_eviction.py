"""Ends idle connections: after the idle timeout, and earlier if the proxy is full.

If it is full, the connection that has been idle longest is closed to make room for a new one. Otherwise a few thousand
clients that connect and send nothing would block all others for the idle timeout, an hour. nginx does the same
("reusing connections"). A connection that moves a byte now and then is never closed; if all do, new connections wait in
the kernel's backlog.

As long as there is room, nothing is checked. From :data:`CROWDED` on, all connections are checked once a second, so
that the idle ones are known when the last place is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final

from daemon.log import Logger
from sidecar.proxy.connection import RelayedConnection
from sidecar.transport.observer import ConnectionOutcome
from sidecar.transport.states import ConnectionEvent
from sidecar.transport.timers import Timers

CROWDED: Final = 7 / 8
"""The share of taken places from which on connections are checked."""
LOOK_S: Final = 1.0
QUIET_S: Final = 3.0
"""Seconds without a byte after which a connection may be evicted. Shorter than polling or heartbeat intervals, but
otherwise new connections would wait."""
_SAY_EVERY_S: Final = 60.0
IDLE_SWEEPS: Final = 8
"""The idle timeout is checked in steps of an eighth: no clock is read and no timestamp written when bytes move."""

log = Logger()


class IdleSweep:
    """Ends connections that have been idle for too long.

    All are checked at once, per eighth of the timeout, so that a connection needs no queue entry of its own.
    """

    def __init__(self, timers: Timers, live: Collection[RelayedConnection], idle_timeout: float) -> None:
        """``live``: the open connections. The timeout is in seconds."""
        self._live = live
        self._sweeps = timers.queue(idle_timeout / IDLE_SWEEPS, IdleSweep._sweep)
        self._sweeping = False

    def begin(self) -> None:
        """A connection was opened: check from now on, until none is left."""
        if not self._sweeping:
            self._sweeping = True
            self._sweeps.add(self)

    def _sweep(self) -> None:
        for connection in list(self._live):
            try:
                connection.idle_sweep(IDLE_SWEEPS)
            except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
                connection.crashed(error)
        self._sweeping = bool(self._live)
        if self._sweeping:
            self._sweeps.add(self)

    def crashed(self, error: Exception) -> None:
        """The sweep itself failed: log a bug of this program."""
        raise error


class IdleEviction:
    """Keeps places free in a full proxy."""

    def __init__(
        self,
        timers: Timers,
        live: Collection[RelayedConnection],
        places: Callable[[], int],
        on_room: Callable[[], None],
    ) -> None:
        """``live``: the open connections; ``places``: their maximum number.

        ``on_room`` is called when all places are taken and connections that can be evicted have been found.
        """
        self._now = timers.now
        self._live = live
        self._places = places
        self._on_room = on_room
        self._looks = timers.queue(LOOK_S, IdleEviction._look)
        self._looking = False
        self._seen: dict[RelayedConnection, tuple[int, float]] = {}
        self._quiet: list[RelayedConnection] = []  # the longest idle last
        self._said = -math.inf

    def begin(self) -> None:
        """Few places are left: check from now on."""
        if not self._looking:
            self._looking = True
            self._looks.add(self)

    def make_room(self) -> bool:
        """A connection waits and no place is left: end the one that has been idle longest. False: there is none."""
        self._say()
        while self._quiet:
            connection = self._quiet.pop()
            if connection in self._live and _moved(connection) == self._seen[connection][0]:
                connection.end(ConnectionEvent.EXPIRED, ConnectionOutcome.CROWDED_OUT)
                return True
        return False

    def _look(self) -> None:
        now, places = self._now(), self._places()
        before, self._seen, self._quiet = self._seen, {}, []
        self._looking = len(self._live) >= places * CROWDED
        if not self._looking:
            return
        for connection in self._live:
            moved = _moved(connection)
            known = before.get(connection)
            quiet = known is not None and known[0] == moved and not connection.waits_its_turn
            self._seen[connection] = known if known is not None and quiet else (moved, now)
        longest = [(since, c) for c, (_, since) in self._seen.items() if c.pair is not None and now - since >= QUIET_S]
        longest.sort(key=lambda pair: (pair[0], pair[1].opened_at), reverse=True)
        self._quiet = [connection for _, connection in longest]
        self._looks.add(self)
        if self._quiet and len(self._live) >= places:
            self._on_room()

    def _say(self) -> None:
        now = self._now()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            log.warning(
                "all places for connections are taken",
                places=self._places(),
                quiet=len(self._quiet),
                remedy="Who is quiet for longest makes room. Raise --max-connections, or lower --idle-timeout.",
            )

    def crashed(self, error: Exception) -> None:
        """The check itself failed: log a bug of this program."""
        raise error


def _moved(connection: RelayedConnection) -> int:
    return connection.bytes_up + connection.bytes_down
