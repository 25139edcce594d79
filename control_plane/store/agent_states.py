"""What each process says of the agents that are connected to it, where several use one PostgreSQL.

A process writes in batches, which it numbers, one after the other: who has read a batch has read all before it. Whose
row of an agent stays is decided by its epoch: that of the connection which came last.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from control_plane.store.database import Database

_KEPT: Final = 7 * 86_400_000_000
"""Microseconds for which a process that has ended is remembered."""
SUMS_KEPT: Final = 60
"""Seconds of sums that there are for who reads late."""
_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_BEAT: Final = (
    f"INSERT INTO processes (id, seen) VALUES (?, {_NOW}) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"
)


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What ``process`` says of an agent, or, where ``cluster`` is empty, of itself; ``node`` is its name then."""

    cluster: str
    node: str
    epoch: int
    process: str
    document: str


class SumsRow(NamedTuple):
    """What went through lanes in a second (Unix time), as one process has heard it of a tenant's agents."""

    second: int
    document: str


class SightRow(NamedTuple):
    """What a process wants to know of a tenant's agents, and what it says of its own: see
    :mod:`control_plane.relay.sight_documents`."""

    wish: str = ""
    says: str = ""


@dataclass(frozen=True, slots=True)
class ProcessesSeen:
    """When each process was seen last, by the database's clock, which says ``now`` (microseconds of Unix time); and
    the last batch that each, second, has written of a tenant, first."""

    now: int
    processes: Mapping[str, int]
    batches: Mapping[tuple[str, str], int]


class AgentStateTable:
    """PostgreSQL's. Any thread may use it. Blocks, and raises :class:`~control_plane.store.errors.StoreError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, process: str, tenants: Collection[str]) -> None:
        """A process begins; those that ended long ago are forgotten."""
        ended = f"process NOT IN (SELECT id FROM processes WHERE seen >= {_NOW} - {SUMS_KEPT * 1_000_000})"
        with self._database.writing() as execute:
            execute.later(f"DELETE FROM processes WHERE seen < {_NOW} - {_KEPT}")
            execute.later(_BEAT, (process,))
            for tenant in sorted(tenants):
                execute.about(tenant)
                gone = "tenant = ? AND process NOT IN (SELECT id FROM processes)"
                execute.later(f"DELETE FROM agent_state_heads WHERE {gone}", (tenant,))
                execute.later(f"DELETE FROM agent_states WHERE cluster = '' AND {gone}", (tenant,))
                execute.later(f"DELETE FROM agent_sights WHERE {gone}", (tenant,))
                execute.later(f"DELETE FROM lane_sums WHERE tenant = ? AND {ended}", (tenant,))

    def write(
        self,
        process: str,
        batch: int,
        rows: Mapping[str, Sequence[AgentRow]],
        forgotten: Mapping[str, Sequence[tuple[str, str]]],
        sums: Mapping[str, Sequence[SumsRow]],
        sights: Mapping[str, SightRow],
    ) -> None:
        """Say that the process is there, write its rows, sums and sights of some tenants, and remove agents (cluster
        and node).

        Sums of a second that were written before stay as they are.
        """
        with self._database.writing() as execute:
            for tenant in sorted({*rows, *forgotten, *sums, *sights}):
                execute.about(tenant)
                for cluster, node in sorted(forgotten.get(tenant, ())):
                    values = (tenant, cluster, node)
                    execute.later("DELETE FROM agent_states WHERE tenant = ? AND cluster = ? AND node = ?", values)
                # In one order in all processes: they wait for each other's rows.
                found = sorted(rows.get(tenant, ()), key=lambda each: (each.cluster, each.node))
                records = [{"c": r.cluster, "n": r.node, "e": r.epoch, "d": r.document} for r in found]
                execute.later(
                    "INSERT INTO agent_states (tenant, cluster, node, epoch, process, batch, document) "
                    "SELECT ?, r.c, r.n, r.e, ?, ?, r.d "
                    "FROM json_to_recordset(?::json) AS r(c text, n text, e bigint, d text) "
                    "ON CONFLICT (tenant, cluster, node) DO UPDATE SET epoch = excluded.epoch, "
                    "process = excluded.process, batch = excluded.batch, document = excluded.document "
                    "WHERE agent_states.epoch <= excluded.epoch",
                    (tenant, process, batch, json.dumps(records, separators=(",", ":"), ensure_ascii=False)),
                )
                for each in sums.get(tenant, ()):
                    execute.later(
                        "INSERT INTO lane_sums (tenant, process, second, document) VALUES (?, ?, ?, ?) "
                        "ON CONFLICT (tenant, process, second) DO NOTHING",
                        (tenant, process, each.second, each.document),
                    )
                    execute.later(
                        "DELETE FROM lane_sums WHERE tenant = ? AND process = ? AND second < ?",
                        (tenant, process, each.second - SUMS_KEPT),
                    )
                if tenant in sights:
                    execute.later(
                        "INSERT INTO agent_sights (tenant, process, wish, says) VALUES (?, ?, ?, ?) "
                        "ON CONFLICT (tenant, process) DO UPDATE SET wish = excluded.wish, says = excluded.says",
                        (tenant, process, *sights[tenant]),
                    )
                execute.later(
                    "INSERT INTO agent_state_heads (tenant, process, batch) VALUES (?, ?, ?) "
                    "ON CONFLICT (tenant, process) DO UPDATE SET batch = excluded.batch",
                    (tenant, process, batch),
                )
            execute.later(_BEAT, (process,))

    def seen(self) -> ProcessesSeen:
        """Who is there, and what there is to read."""
        with self._database.reading() as execute:
            batches = execute("SELECT tenant, process, batch FROM agent_state_heads")
            processes = execute("SELECT id, seen FROM processes")
            [(now,)] = execute(f"SELECT {_NOW}")
        return ProcessesSeen(now, dict(processes), {(tenant, process): batch for tenant, process, batch in batches})

    def read(self, tenant: str, process: str, after: int) -> list[AgentRow]:
        """What a process has written of a tenant in later batches."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                "SELECT cluster, node, epoch, process, document FROM agent_states "
                "WHERE tenant = ? AND process = ? AND batch > ?",
                (tenant, process, after),
            )
        return [AgentRow(*row) for row in rows]

    def read_sums(self, tenant: str, process: str, after: int) -> list[SumsRow]:
        """What a process has heard of a tenant in later seconds than ``after``, in order."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                "SELECT second, document FROM lane_sums WHERE tenant = ? AND process = ? AND second > ? "
                "ORDER BY second",
                (tenant, process, after),
            )
        return [SumsRow(*row) for row in rows]

    def read_sight(self, tenant: str, process: str) -> SightRow | None:
        """The last one that a process has written; None: there was none."""
        with self._database.reading(tenant) as execute:
            rows = execute("SELECT wish, says FROM agent_sights WHERE tenant = ? AND process = ?", (tenant, process))
        return SightRow(*rows[0]) if rows else None

    def read_all(self, tenant: str) -> list[AgentRow]:
        """What all have written, also those that are forgotten."""
        with self._database.reading(tenant) as execute:
            rows = execute(
                "SELECT cluster, node, epoch, process, document FROM agent_states WHERE tenant = ?", (tenant,)
            )
        return [AgentRow(*row) for row in rows]
