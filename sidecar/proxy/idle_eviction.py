"""Ends connections in which nothing moves: after the idle timeout, and earlier where a proxy is full.

When it is, who has been quiet for longest makes room for those who wait.

Without that, a few thousand clients that connect and keep silent would keep everybody else waiting for as long as the
idle timeout is, an hour. nginx does the same with its connections ("reusing connections"). Whoever moves a byte now and
then is never cut; when all do, new connections wait in the kernel's backlog, as ever.

While there is plenty of room nothing is looked at. From :data:`CROWDED` on, all connections are looked at once a second
(ten thousand take 10 to 20 ms on a busy machine), so that it is known who is quiet when the last place is taken.
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
"""The share of the places that are taken from which on it is worth knowing who is quiet."""
LOOK_S: Final = 1.0
QUIET_S: Final = 3.0
"""Seconds without a byte after which a connection may have to make room; shorter than any poll or heartbeat is long,
but then everybody else waits."""
_SAY_EVERY_S: Final = 60.0
IDLE_SWEEPS: Final = 8
"""An idle timeout is noticed in steps of an eighth of it: no clock is read and nothing stamped when bytes move."""

log = Logger()


class IdleSweep:
    """Ends connections that have been idle for too long.

    All are asked at once, so that a connection costs no entry in a queue of its own: ten thousand take about 2 ms, once
    per eighth of the timeout.
    """

    def __init__(self, timers: Timers, live: Collection[RelayedConnection], idle_timeout: float) -> None:
        """``live``: the connections that there are. The timeout is in seconds."""
        self._live = live
        self._sweeps = timers.queue(idle_timeout / IDLE_SWEEPS, IdleSweep._sweep)
        self._sweeping = False

    def begin(self) -> None:
        """There is a connection: look from now on, until there is none."""
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
        """The sweep itself failed: a mistake of this program, to be seen."""
        raise error


class IdleEviction:
    """Watches over a proxy's places."""

    def __init__(
        self,
        timers: Timers,
        live: Collection[RelayedConnection],
        places: Callable[[], int],
        on_room: Callable[[], None],
    ) -> None:
        """``live``: the connections that there are; ``places``: how many there may be.

        ``on_room`` is called when all places are taken and it has become known whose may be given away.
        """
        self._now = timers.now
        self._live = live
        self._places = places
        self._on_room = on_room
        self._looks = timers.queue(LOOK_S, IdleEviction._look)
        self._looking = False
        self._seen: dict[RelayedConnection, tuple[int, float]] = {}
        self._quiet: list[RelayedConnection] = []  # who is quiet for longest comes last
        self._said = -math.inf

    def begin(self) -> None:
        """There are few places left: look from now on."""
        if not self._looking:
            self._looking = True
            self._looks.add(self)

    def make_room(self) -> bool:
        """Somebody waits, and there is no place left: end who is quiet for longest. False: nobody is."""
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
        """Looking itself failed: a mistake of this program, to be seen."""
        raise error


def _moved(connection: RelayedConnection) -> int:
    return connection.bytes_up + connection.bytes_down
