"""Requests that were refused, by tenant, the newest of them.

They are not in the log of events: nothing happened, and who floods us with wrong requests must not make it grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.store.database import Database

KEPT: Final = 10_000
"""Of a tenant, and of those whose author is known and of the others apart: strangers cannot push out what was refused
to people."""
KEPT_MS: Final = 90 * 86_400_000
"""90 days."""
_COLUMNS: Final = "tenant, at, author, known, address, operation, status, problem, detail, reason, count, number"


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """One, or as many as ``count`` alike within a second.

    ``known``: the author's token was valid; else ``author`` is what was claimed, and may be empty. ``operation`` is
    method and path, ``problem`` the last part of the problem's type, ``reason`` the author's. ``at`` is in milliseconds
    of Unix time. ``number`` counts those of a tenant, from 1.
    """

    tenant: str
    at: int
    author: str
    known: bool
    address: str
    operation: str
    status: int
    problem: str
    detail: str
    reason: str = ""
    count: int = 1
    number: int = 0


class RefusalTable:
    """Any thread and any number of processes may use it. Blocks, and raises
    :class:`~control_plane.store.errors.StoreError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, refused: Sequence[RefusedRequest]) -> None:
        """Add requests of one tenant, numbered on, and forget what is too old or too much."""
        with self._database.writing(tenant) as execute:
            # Locks the tenant's row: one writer at a time.
            [(last,)] = execute(
                "INSERT INTO refusal_heads (tenant, number) VALUES (?, ?) "
                "ON CONFLICT (tenant) DO UPDATE SET number = refusal_heads.number + excluded.number RETURNING number",
                (tenant, len(refused)),
            )
            for number, each in enumerate(refused, last - len(refused) + 1):
                execute.later(
                    f"INSERT INTO refusals ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (tenant, each.at, each.author, int(each.known), each.address, each.operation, each.status,
                     each.problem, each.detail, each.reason, each.count, number),
                )  # fmt: skip
            for known in (0, 1):
                execute.later(
                    "DELETE FROM refusals WHERE tenant = ? AND known = ? AND number <= (SELECT number FROM refusals "
                    "WHERE tenant = ? AND known = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (tenant, known, tenant, known, KEPT),
                )
            execute.later("DELETE FROM refusals WHERE tenant = ? AND at < ?", (tenant, refused[-1].at - KEPT_MS))

    def read(self, tenant: str, after: int, limit: int, now: int) -> list[RefusedRequest]:
        """At most ``limit`` of a tenant that follow a number, in order; ``now`` in milliseconds."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                f"SELECT {_COLUMNS} FROM refusals WHERE tenant = ? AND number > ? AND at >= ? ORDER BY number LIMIT ?",
                (tenant, after, now - KEPT_MS, limit),
            )
        return [RefusedRequest(t, at, author, bool(known), *others) for t, at, author, known, *others in rows]
