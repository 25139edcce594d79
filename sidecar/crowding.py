"""What a proxy does that is full: who has been quiet for longest makes room for those who wait.

Without that, a few thousand clients that connect and keep silent would keep everybody else waiting for as long as the
idle timeout is, an hour. nginx does the same with its connections ("reusing connections"). Whoever moves a byte now and
then is never cut; when all do, new connections wait in the kernel's backlog, as ever.

While there is plenty of room nothing is looked at. From :data:`CROWDED` on, all connections are looked at once a second
(ten thousand take some 5 ms), so that it is known who is quiet when the last place is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import structlog

from sidecar.connection import Connection
from sidecar.transport.observer import Outcome
from sidecar.transport.states import Event
from sidecar.transport.timers import Timers

CROWDED: Final = 7 / 8
"""The share of the places that are taken from which on it is worth knowing who is quiet."""
LOOK_S: Final = 1.0
QUIET_S: Final = 5.0
"""Seconds without a byte after which a connection may have to make room; shorter than any poll or heartbeat is long,
but then everybody else waits."""
_AT_ONCE: Final = 64
"""One in so many places is made free at a time, in each second."""
_SAY_EVERY_S: Final = 60.0

log = structlog.get_logger(__name__)


class Crowding:
    """Watches over a proxy's places."""

    def __init__(self, timers: Timers, live: Collection[Connection], places: Callable[[], int]) -> None:
        """``live``: the connections that there are; ``places``: how many there may be."""
        self._now = timers.now
        self._live = live
        self._places = places
        self._looks = timers.queue(LOOK_S, Crowding._look)
        self._looking = False
        self._seen: dict[Connection, tuple[int, float]] = {}
        self._said = -_SAY_EVERY_S

    def begin(self) -> None:
        """There are few places left: look from now on."""
        if not self._looking:
            self._looking = True
            self._looks.add(self)

    def _look(self) -> None:
        live, places, now = self._live, self._places(), self._now()
        if len(live) < places * CROWDED:
            self._looking = False
            self._seen = {}
            return
        before, self._seen = self._seen, {}
        for connection in live:
            moved = connection.bytes_up + connection.bytes_down
            known = before.get(connection)
            self._seen[connection] = known if known is not None and known[0] == moved else (moved, now)
        if len(live) >= places:
            self._make_room(max(1, places // _AT_ONCE), now)
        self._looks.add(self)

    def _make_room(self, count: int, now: float) -> None:
        quiet = [(since, c) for c, (_, since) in self._seen.items() if c.up is not None and now - since >= QUIET_S]
        quiet.sort(key=lambda pair: (pair[0], pair[1].opened_at))
        for _, connection in quiet[:count]:
            del self._seen[connection]
            connection.end(Event.EXPIRED, Outcome.CROWDED_OUT)
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            log.warning(
                "all places for connections are taken",
                places=self._places(),
                quiet=len(quiet),
                remedy="Those that were quiet for longest are ended. Raise --max-connections, or lower --idle-timeout.",
            )

    def crashed(self, error: Exception) -> None:
        """Looking itself failed: a mistake of this program, to be seen."""
        raise error
