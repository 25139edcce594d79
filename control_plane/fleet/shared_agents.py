"""Processes on one PostgreSQL tell each other of their agents, and what went through their lanes: each knows all.

Each writes what has changed at its own, and reads what others have written. Who dies is noticed by its silence.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Final

from control_plane.fleet.agent_status import AgentStatus, FleetStatus
from control_plane.fleet.figures import LaneRow
from control_plane.fleet.handler import AgentsHandler
from control_plane.fleet.status_document import (
    read_status,
    read_sums,
    read_traffic,
    write_status,
    write_sums,
    write_traffic,
)
from control_plane.relay.agent_relay import AgentRelay
from control_plane.store.agent_states import SUMS_KEPT, AgentRow, AgentStateTable, ProcessesSeen, SumsRow
from control_plane.store.errors import StoreError
from daemon.log import Logger

_LOOK: Final = 0.2
"""Seconds between two looks at what others have written."""
_WRITE: Final = 0.5
"""Seconds between two batches of our own."""
_BEAT: Final = 1.0
"""Seconds after which we say that we are there, if nothing else was to be said."""
_SILENCE: Final = 5.0
"""Seconds without a word after which another process counts as gone."""

log = Logger(spacing=10.0)
Post = Callable[[Callable[[], None]], None]
_Key = tuple[str, str, str]
"""Tenant, cluster, node."""


@dataclass(slots=True)
class _Process:
    """Another process. ``heard``: when it said something last, by our clock that only goes forward."""

    seen: int
    heard: float
    there: bool


class SharedAgents:
    """A thread of its own. Everything about agents is handed to the gateway's thread by ``post``."""

    def __init__(
        self,
        table: AgentStateTable,
        fleet: FleetStatus,
        handler: AgentsHandler,
        post: Post,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``now``: Unix seconds, by which figures are kept. ``clock`` only goes forward, in seconds."""
        self.name = secrets.token_hex(8)
        """This process', as the others know it."""
        self._table = table
        self._fleet = fleet
        self._handler = handler
        self._post = post
        self._now = now
        self._clock = clock
        self._processes: dict[str, _Process] = {}
        self._read: dict[tuple[str, str], int] = {}
        """The last batch that was read, of each tenant and process."""
        self._unwritten: dict[_Key, AgentStatus | None] = {}
        self._traffic: dict[str, str] = {}
        """Of each tenant, as it was written last."""
        self._summed = int(now()) - SUMS_KEPT
        """The last second of which our sums were written."""
        self._heard_sums: dict[tuple[str, str], int] = {}
        """The last second of each tenant and process of which we have added the sums."""
        self.relay = AgentRelay(fleet, handler, post, now, clock)
        """To agents of others, and for others to ours."""
        self._batch = 0
        self._wrote = 0.0
        self._offset = 0.0
        self._blind = False
        self._ending = Event()
        self._thread = Thread(target=self._run, name="shared agents", daemon=True)

    def load(self, tenants: Iterable[str]) -> None:
        """Before the start: read what there is, and say that we are there. Raises :class:`StoreError`."""
        tenants = list(tenants)
        self._fleet.changes = deque()
        self._table.begin(self.name, tenants)
        self._hear_all(self._seen())
        self._fleet.clock = lambda: self._clock() + self._offset
        for tenant in tenants:
            self._take(tenant, self._table.read_all(tenant))  # and once more what is in a batch, at the first look

    def start(self) -> None:
        """Go on from there."""
        self._thread.start()

    def close(self) -> None:
        """After the last agent has left: say so, and end."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self.tell()
        except StoreError as error:
            log.warning("other processes are not told that our agents left", reason=str(error))

    def _run(self) -> None:
        while not self._ending.wait(_LOOK):
            try:
                self._tell_if_due()
                self.look()
            except StoreError as error:
                self._blind = True
                log.warning("agents of other processes cannot be seen, nor ours by them", reason=str(error))

    # Our own

    def _tell_if_due(self) -> None:
        self._gather()
        passed = self._clock() - self._wrote
        news = self._unwritten or int(self._now()) > self._summed + 1
        if passed >= _BEAT or self.relay.urgent or (passed >= _WRITE and news):
            self.tell()

    def _gather(self) -> None:
        changes = self._fleet.changes
        while changes:
            change = changes.popleft()
            self._unwritten[change.tenant, change.cluster, change.node] = change.status

    def tell(self) -> None:
        """Write what has changed. Raises :class:`StoreError`; what was not written then is, the next time."""
        self._gather()
        rows: dict[str, list[AgentRow]] = {}
        forgotten: dict[str, list[tuple[str, str]]] = {}
        for (tenant, cluster, node), status in self._unwritten.items():
            if status is None:
                forgotten.setdefault(tenant, []).append((cluster, node))
            else:
                row = AgentRow(cluster, node, status.epoch, self.name, write_status(status))
                rows.setdefault(tenant, []).append(row)
        traffic = {}
        for tenant in self._fleet.names():
            said = write_traffic(dict(self._fleet.agents(tenant).traffic))
            if said != self._traffic.get(tenant, "{}"):
                traffic[tenant] = said
                rows.setdefault(tenant, []).append(AgentRow("", self.name, 0, self.name, said))
        until = int(self._now())
        sums = {tenant: found for tenant in self._fleet.names() if (found := self._sums(tenant, until))}
        # A number is never used again: of a batch that failed nobody can know whether it was written.
        self._batch += 1
        sights = self.relay.rows()
        self._table.write(self.name, self._batch, rows, forgotten, sums, sights)
        self.relay.wrote(sights)
        self._wrote, self._summed = self._clock(), until - 1
        self._unwritten.clear()
        self._traffic |= traffic

    def _sums(self, tenant: str, until: int) -> list[SumsRow]:
        """What was heard of a tenant's agents here, and not written yet, in the seconds before ``until``."""
        agents = self._fleet.agents(tenant)
        seconds: dict[int, dict[str, list[LaneRow]]] = {}
        for cluster, figures in (("", agents.figures), *list(agents.clusters.items())):
            for second, rows in figures.heard_here(self._summed, until):
                seconds.setdefault(second, {})[cluster] = rows
        return [SumsRow(second, write_sums(sums)) for second, sums in sorted(seconds.items())]

    # Others

    def look(self) -> None:
        """Read what others have written. Raises :class:`StoreError`."""
        seen = self._seen()
        self._hear_all(seen)
        for place, batch in seen.batches.items():
            tenant, process = place
            if process != self.name and batch > self._read.get(place, 0):
                self._take(tenant, self._table.read(tenant, process, self._read.get(place, 0)))
                self._add_sums(tenant, process)
                if (sight := self._table.read_sight(tenant, process)) is not None:
                    self.relay.hear(tenant, process, sight)
                self._read[place] = batch

    def _seen(self) -> ProcessesSeen:
        before = self._clock()
        try:
            seen = self._table.seen()
        except StoreError:
            self._blind = True
            raise
        self._offset = seen.now / 1e6 - (before + self._clock()) / 2
        return seen

    def _hear_all(self, seen: ProcessesSeen) -> None:
        now = self._clock()
        for name, at in seen.processes.items():
            if name != self.name:
                self._hear(name, at, now - (seen.now - at) / 1e6, now)
        self._blind = False

    def _hear(self, name: str, seen: int, heard: float, now: float) -> None:
        known = self._processes.get(name)
        if known is None:
            self._processes[name] = _Process(seen, heard, now - heard < _SILENCE)
            return
        if known.seen != seen or (self._blind and known.there):
            # While we could see nobody, nobody was silent.
            known.seen, known.heard = seen, now
        there = now - known.heard < _SILENCE
        if there == known.there:
            return
        known.there = there
        if there:
            self._read = {place: batch for place, batch in self._read.items() if place[1] != name}
            log.info("another process is there again", process=name)
        else:
            since = time.time() - (now - known.heard)
            self._post(lambda: self._handler.process_gone(name, since))
            log.warning("another process has ended: its agents are away until they are elsewhere", process=name)

    def _take(self, tenant: str, rows: list[AgentRow]) -> None:
        agents: list[tuple[str, str, AgentStatus]] = []
        for row in rows:
            if not row.cluster:
                self._fleet.agents(tenant).others[row.process] = read_traffic(row.document)
                continue
            status = read_status(row.document, row.epoch, row.process)
            known = self._processes.get(row.process)
            if status.connected and (known is None or not known.there):
                heard = status.heard if known is None else time.time() - (self._clock() - known.heard)
                status.connected, status.since = False, max(status.since, heard)
            agents.append((row.cluster, row.node, status))
        if agents:
            self._post(lambda: self._elsewhere(tenant, agents))

    def _add_sums(self, tenant: str, process: str) -> None:
        after = self._heard_sums.get((tenant, process), int(self._now()) - SUMS_KEPT)
        sums = [(row.second, read_sums(row.document)) for row in self._table.read_sums(tenant, process, after)]
        if sums:
            self._heard_sums[tenant, process] = sums[-1][0]
            self._post(lambda: self._summed_elsewhere(tenant, sums))

    def _summed_elsewhere(self, tenant: str, sums: list[tuple[int, dict[str, list[LaneRow]]]]) -> None:
        for second, each in sums:
            self._handler.summed_elsewhere(tenant, second, each)

    def _elsewhere(self, tenant: str, agents: list[tuple[str, str, AgentStatus]]) -> None:
        for cluster, node, status in agents:
            self._handler.elsewhere(tenant, cluster, node, status)
