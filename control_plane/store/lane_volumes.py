"""What went through lanes in each day, over the agents of all processes, until two months ago.

It is no read model: the log does not have it, and a rebuild leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from control_plane.store.database import Database, Execute

KEPT: Final = 62
"""Days: this month and the one before."""
_MOST: Final = 2**53 - 1
"""The largest integer that JSON's readers can take: agents may say anything."""
_COLUMNS: Final = "tenant, day, policy, lane, direction, bytes"


class DayVolume(NamedTuple):
    """Bytes that went through a lane on a day (counted from 1970-01-01, by UTC)."""

    day: int
    policy: str
    lane: str
    direction: str
    bytes: int


class LaneVolumeTable:
    """Any thread and any number of processes may use it. Blocks, and raises
    :class:`~control_plane.store.errors.StoreError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, volumes: Mapping[str, Iterable[DayVolume]]) -> None:
        """Add to what there is of some tenants, all or nothing; what is too old of these is forgotten."""
        with self._database.writing() as execute:
            for tenant, found in sorted(volumes.items()):
                execute.about(tenant)
                insert_volumes(execute, tenant, found)

    def since(self, tenant: str, month: int, day: int) -> list[tuple[str, str, str, int, int]]:
        """Of each lane (policy, lane, direction) what went through it since the day ``month``, and since ``day``, which
        is not before it."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                "SELECT policy, lane, direction, SUM(bytes), SUM(CASE WHEN day >= ? THEN bytes ELSE 0 END) "
                "FROM lane_volumes WHERE tenant = ? AND day >= ? GROUP BY policy, lane, direction",
                (day, tenant, month),
            )
        # PostgreSQL has decimals for sums.
        return [(*key, int(since_month), int(since_day)) for *key, since_month, since_day in rows]

    def read_all(self, tenant: str) -> Iterator[Mapping[str, str | int]]:
        """All that there is of a tenant, for a backup."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                f"SELECT {_COLUMNS} FROM lane_volumes WHERE tenant = ? ORDER BY day, policy, lane, direction", (tenant,)
            )
        return (dict(zip(_COLUMNS.split(", "), row, strict=True)) for row in rows)


def insert_volumes(execute: Execute, tenant: str, volumes: Iterable[DayVolume]) -> None:
    """The same as :meth:`LaneVolumeTable.add`, in a transaction that is about the tenant."""
    newest = 0
    # In one order in all processes: they wait for each other's rows.
    for each in sorted(volumes):
        newest = each.day
        execute.later(
            f"INSERT INTO lane_volumes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (tenant, day, policy, lane, direction) DO UPDATE SET bytes = "
            "CASE WHEN lane_volumes.bytes > ? - excluded.bytes THEN ? ELSE lane_volumes.bytes + excluded.bytes END",
            (tenant, *each[:4], min(each.bytes, _MOST), _MOST, _MOST),
        )
    execute.later("DELETE FROM lane_volumes WHERE tenant = ? AND day < ?", (tenant, newest - KEPT))
