"""What a proxy does that is full: who has been quiet for longest makes room for those who wait.

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
from sidecar.proxy.connection import Connection
from sidecar.transport.observer import Outcome
from sidecar.transport.states import Event
from sidecar.transport.timers import Timers

CROWDED: Final = 7 / 8
"""The share of the places that are taken from which on it is worth knowing who is quiet."""
LOOK_S: Final = 1.0
QUIET_S: Final = 3.0
"""Seconds without a byte after which a connection may have to make room; shorter than any poll or heartbeat is long,
but then everybody else waits."""
_SAY_EVERY_S: Final = 60.0

log = Logger()


class Crowding:
    """Watches over a proxy's places."""

    def __init__(
        self,
        timers: Timers,
        live: Collection[Connection],
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
        self._looks = timers.queue(LOOK_S, Crowding._look)
        self._looking = False
        self._seen: dict[Connection, tuple[int, float]] = {}
        self._quiet: list[Connection] = []  # who is quiet for longest comes last
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
                connection.end(Event.EXPIRED, Outcome.CROWDED_OUT)
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
        longest = [(since, c) for c, (_, since) in self._seen.items() if c.up is not None and now - since >= QUIET_S]
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


def _moved(connection: Connection) -> int:
    return connection.bytes_up + connection.bytes_down
