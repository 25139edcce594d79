"""Writes down what went through lanes, so that it is still known after a restart, and to all processes.

Each process adds what its own agents have said. The time between two writes is what a process that is killed loses.
While the database does not answer nothing is lost for as long as figures are kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

from control_plane.domain.volume_budget import DAY
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.figures import COUNTERS, TenantFigures
from control_plane.store.errors import StoreError
from control_plane.store.lane_volumes import DayVolume, LaneVolumeTable
from daemon.log import Logger

_PERIOD: Final = 10.0
"""Seconds between two writes."""
_BYTES: Final = COUNTERS.index("bytes")

log = Logger(spacing=10.0)


class VolumeMeter:
    """A thread of its own."""

    def __init__(self, table: LaneVolumeTable, fleet: FleetStatus, clock: Callable[[], float] = time.time) -> None:
        """``clock``: Unix seconds, by which figures are kept."""
        self._table = table
        self._fleet = fleet
        self._clock = clock
        self._written = 0
        """The last second that was written."""
        self._ended = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Write again and again."""
        self._thread = Thread(target=self._run, name="volumes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After the last agent has left: write what is left, and end."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._try_to_write(int(self._clock()) + 1)

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD):
            self._try_to_write(int(self._clock()))

    def _try_to_write(self, until: int) -> None:
        try:
            self.write(until)
        except StoreError as error:
            log.warning("what went through lanes is not written yet", error=str(error))

    def write(self, until: int) -> None:
        """Add what was heard before the second ``until`` (Unix time), and was not added yet. Raises
        :class:`StoreError`."""
        found = {name: _volumes(self._fleet.agents(name).figures, self._written, until) for name in self._fleet.names()}
        if any(found.values()):
            self._table.add({tenant: volumes for tenant, volumes in found.items() if volumes})
        self._written = until - 1


def _volumes(figures: TenantFigures, after: int, until: int) -> list[DayVolume]:
    found: Counter[tuple[int, str, str, str]] = Counter()
    for second, rows in figures.heard_here(after, until):
        for policy, lane, direction, numbers in rows:
            found[second // DAY, policy, lane, direction] += numbers[_BYTES]
    return [DayVolume(*key, size) for key, size in found.items() if size]
