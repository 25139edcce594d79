"""The event store over any :class:`~control_plane.store.database.Database`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from control_plane.store.agent_states import AgentStateTable
from control_plane.store.chain import canonical, digest, verify
from control_plane.store.database import Database, Execute
from control_plane.store.errors import KeyReusedError, StaleError
from control_plane.store.lane_volumes import LaneVolumeTable
from control_plane.store.records import START, Cause, Head, NewEvent, StoredEvent
from control_plane.store.refusals import RefusalTable
from control_plane.store.sessions import SessionTable
from traffic_policy.errors import ConfigError

_PAGE: Final = 1000
"""Events that are read at once."""
_COLUMNS: Final = "tenant, position, subject, kind, data, author, address, reason, at, digest"


class EventStore:
    """Logs of tenants. Any thread and any number of processes may use it. Blocks.

    A writer says up to which position it knows the log: only who decided on all that had happened may append. So two
    decisions never contradict each other, whatever they are about.
    """

    def __init__(self, database: Database, *, shared: bool = False) -> None:
        """``shared``: other processes may serve the same tenants."""
        self.database = database
        self.shared = shared
        self.refusals = RefusalTable(database)
        self.sessions = SessionTable(database)
        self.volumes = LaneVolumeTable(database)
        self.agent_states = AgentStateTable(database) if database.shared else None

    def append(self, tenant: str, after: int, events: Sequence[NewEvent], cause: Cause) -> list[StoredEvent]:
        """Append events, all or none; they are on disk on return.

        ``after``: the position of the last event that the writer knows. Raises :class:`StaleError` if it is not the
        last. A cause with a key that was used before appends nothing, and returns what was appended then.
        """
        with self.database.writing(tenant) as execute:
            # Locks the tenant's row until the end of the transaction: one writer at a time, hence no gaps.
            [(position, last)] = execute(
                "INSERT INTO heads (tenant, position, digest) VALUES (?, 0, '') "
                "ON CONFLICT (tenant) DO UPDATE SET position = heads.position RETURNING position, digest",
                (tenant,),
            )
            if (before := _carried_out(execute, tenant, cause.key, cause.fingerprint)) is not None:
                return before
            if position != after:
                raise StaleError(f"The log of {tenant} is at {position}, not at {after}. Read on, and try again.")
            stored = list(_placed(tenant, Head(position, last), events, cause))
            for event in stored:
                insert_event(execute, event)
            if stored:
                values = (stored[-1].position, stored[-1].digest, tenant)
                execute.later("UPDATE heads SET position = ?, digest = ? WHERE tenant = ?", values)
            if cause.key:
                execute.later(
                    "INSERT INTO requests (tenant, key, fingerprint, first, last) VALUES (?, ?, ?, ?, ?)",
                    (tenant, cause.key, cause.fingerprint, position + 1, position + len(stored)),
                )
            return stored

    def carried_out(self, tenant: str, key: str, fingerprint: str) -> list[StoredEvent] | None:
        """What a request with this key has appended; None: there was none. Raises :class:`KeyReusedError`."""
        with self.database.reading(tenant) as execute:
            return _carried_out(execute, tenant, key, fingerprint)

    def read(self, tenant: str, after: int = 0, limit: int = _PAGE) -> list[StoredEvent]:
        """At most ``limit`` events of a tenant that follow a position, in order."""
        with self.database.reading(tenant) as execute:
            return _read(execute, tenant, after, limit)

    def read_by(self, execute: Execute, tenant: str, after: int, limit: int) -> list[StoredEvent]:
        """The same, in a transaction that has begun."""
        return _read(execute, tenant, after, limit)

    def read_all(self, tenant: str, after: int = 0) -> Iterator[StoredEvent]:
        """All events of a tenant that follow a position, in order, also those that are appended meanwhile."""
        while page := self.read(tenant, after):
            yield from page
            after = page[-1].position

    def heads(self) -> dict[str, Head]:
        """Where the log of each tenant ends."""
        with self.database.reading() as execute:
            rows = execute("SELECT tenant, position, digest FROM heads WHERE position > 0")
        return {tenant: Head(position, last) for tenant, position, last in rows}

    def unpublished(self) -> int:
        """How many events of all tenants are not known to have been published."""
        with self.database.reading() as execute:
            rows = execute(
                "SELECT heads.position - COALESCE(published.position, 0) FROM heads "
                "LEFT JOIN published ON published.tenant = heads.tenant"
            )
        return sum(max(0, behind) for (behind,) in rows)

    def verify(self, tenant: str) -> Head:
        """Check the whole log of a tenant. Raises :class:`~control_plane.store.errors.ChainError`."""
        end = self.heads().get(tenant, START)
        return verify(tenant, (event for event in self.read_all(tenant) if event.position <= end.position), end)

    def close(self) -> None:
        """Give the database back."""
        self.database.close()


def _placed(tenant: str, head: Head, events: Sequence[NewEvent], cause: Cause) -> Iterator[StoredEvent]:
    """Events as they are stored after ``head``."""
    for position, new in enumerate(events, head.position + 1):
        event = StoredEvent(
            tenant, position, new.subject, new.kind, new.data, cause.author, cause.address, cause.reason, cause.at, ""
        )
        event = replace(event, digest=digest(head.digest, event))
        head = Head(position, event.digest)
        yield event


def _carried_out(execute: Execute, tenant: str, key: str, fingerprint: str) -> list[StoredEvent] | None:
    if not key:
        return None
    rows = execute("SELECT fingerprint, first, last FROM requests WHERE tenant = ? AND key = ?", (tenant, key))
    if not rows:
        return None
    [(known, first, last)] = rows
    if known != fingerprint:
        raise KeyReusedError("This Idempotency-Key was used for another request. Choose a new key for each request.")
    return _read(execute, tenant, first - 1, last - first + 1)


def _read(execute: Execute, tenant: str, after: int, limit: int) -> list[StoredEvent]:
    rows = execute(
        f"SELECT {_COLUMNS} FROM events WHERE tenant = ? AND position > ? ORDER BY position LIMIT ?",
        (tenant, after, limit),
    )
    return [event_of(row) for row in rows]


def insert_event(execute: Execute, event: StoredEvent) -> None:
    """Write an event as it is; the caller has locked the head of its log, and moves it."""
    execute.later(
        f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (event.tenant, event.position, event.subject, event.kind, canonical(event.data), event.author, event.address,
         event.reason, event.at, event.digest),
    )  # fmt: skip


def event_of(row: Sequence[Any]) -> StoredEvent:
    """An event from its row, whose columns are in the order of its fields."""
    tenant, position, subject, kind, data, *rest = row
    return StoredEvent(tenant, position, subject, kind, json.loads(data), *rest)


def open_store(url: str) -> EventStore:
    """The store at ``sqlite:PATH`` or ``postgresql://...``, with its tables brought to this version.

    Raises :class:`ConfigError`, :class:`~control_plane.store.errors.StoreError`.
    """
    kind, _, rest = url.partition(":")
    database: Database
    if kind == "sqlite" and rest:
        from control_plane.store.sqlite import SqliteDatabase

        database = SqliteDatabase(Path(rest))
    elif kind in ("postgresql", "postgres"):
        from control_plane.store.postgresql import PostgresDatabase

        database = PostgresDatabase(url)
    else:
        raise ConfigError("--database names no database. Write postgresql://USER@HOST/NAME, or sqlite:PATH.")
    try:
        database.migrate()
    except BaseException:  # also if it is interrupted: its connections would stay open
        database.close()
        raise
    return EventStore(database, shared=kind != "sqlite")
