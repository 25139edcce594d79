"""Fills the tables that queries read, and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from control_plane.domain.events import decode
from control_plane.read_models.listing import Filter, Listing
from control_plane.read_models.projection import TABLES, changes
from control_plane.store.database import Database, Value
from control_plane.store.event_store import EventStore

_BATCH: Final = 1000
"""Events of one transaction: those who write wait as long as it takes."""


class ReadModels:
    """Any thread may use them, and any number of processes. Blocks.

    They are brought up to the end of the log when they are read. Who writes pays nothing for them, and has not to
    know of them: an older version that still runs does not.
    """

    def __init__(self, store: EventStore) -> None:
        self._database: Database = store.database
        self._store = store

    def page(
        self,
        listing: Listing,
        tenant: str,
        *,
        filters: Sequence[Filter] = (),
        order: str,
        after: Sequence[Value] = (),
        limit: int,
    ) -> list[tuple[Any, ...]]:
        """Rows of a list as of now: all that had been appended when this was called is in it."""
        statement, values = listing.statement_with_positions(tenant, filters, order, after, limit)
        wanted: int | None = None
        while True:
            with self._database.reading(tenant) as execute:
                rows = execute(statement, values)
            if not rows:
                return []
            head, known = rows[0][:2]
            wanted = head if wanted is None else wanted
            if known >= wanted:
                return [row[2:] for row in rows if row[2] is not None]
            self.catch_up(tenant)

    def log_page(
        self,
        listing: Listing,
        tenant: str,
        *,
        filters: Sequence[Filter] = (),
        order: str,
        after: Sequence[Value] = (),
        limit: int,
    ) -> list[tuple[Any, ...]]:
        """Rows of a list of the log itself, which is never behind."""
        statement, values = listing.statement(tenant, filters, order, after, limit)
        with self._database.reading(tenant) as execute:
            return execute(statement, values)

    def catch_up(self, tenant: str) -> int:
        """Take in what was appended; up to which position they know the log now."""
        while True:
            with self._database.writing(tenant) as execute:
                # Locks the checkpoint until the end of the transaction: each event is taken in once.
                [(position,)] = execute(
                    "INSERT INTO read_checkpoints (tenant, position) VALUES (?, 0) "
                    "ON CONFLICT (tenant) DO UPDATE SET position = read_checkpoints.position RETURNING position",
                    (tenant,),
                )
                events = self._store.read_by(execute, tenant, position, _BATCH)
                for event in events:
                    decoded = decode(event.kind, event.data)
                    for statement, values in changes(tenant, event.position, decoded):
                        execute.later(statement, values)
                    position = event.position
                execute.later("UPDATE read_checkpoints SET position = ? WHERE tenant = ?", (position, tenant))
            if len(events) < _BATCH:
                return int(position)

    def rebuild(self, tenant: str) -> int:
        """Make all of a tenant again from its events; how many those are. Others may read and write meanwhile."""
        with self._database.writing(tenant) as execute:
            execute.later(
                "INSERT INTO read_checkpoints (tenant, position) VALUES (?, 0) "
                "ON CONFLICT (tenant) DO UPDATE SET position = 0",
                (tenant,),
            )
            for table in TABLES:
                execute.later(f"DELETE FROM {table} WHERE tenant = ?", (tenant,))
        return self.catch_up(tenant)

    def rebuild_all(self, progress: Callable[[str, int], None]) -> None:
        """Make all of all tenants again, and say of each how many events it has."""
        for tenant in sorted(self._store.heads()):
            progress(tenant, self.rebuild(tenant))
