"""Looks at all alert rules once a second, and has channels told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final

from control_plane.alerts.sight import TenantSight
from control_plane.alerts.teller import AlertTeller
from control_plane.domain.alert_evaluation import RuleWatch, SeenValue
from control_plane.domain.commands import FireAlert, ResolveAlert
from control_plane.domain.errors import RefusedError
from control_plane.domain.tenant import Tenant
from control_plane.fleet.agent_status import FleetStatus
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.database import Execute
from control_plane.store.errors import StaleError, StoreError
from control_plane.store.records import Head
from daemon.log import Logger

_LOOK: Final = 1.0
"""Seconds between two looks."""
_BUDGETS: Final = 5
"""Seconds for which what is used of budgets is not asked for again."""
_STANDBY: Final = 1.0
"""Seconds between two tries for the lock."""
_LOCK: Final = 0x506F6441
"""Whoever holds it looks after alerts: "PodA"."""
_BY: Final = "podlane alerts"

log = Logger(spacing=10.0)


class AlertView:
    """What was seen of each rule last, for those who ask. One thread writes, any reads."""

    def __init__(self) -> None:
        self._seen: dict[str, Mapping[str, Sequence[SeenValue]]] = {}

    def put(self, tenant: str, seen: Mapping[str, Sequence[SeenValue]]) -> None:
        """What is seen of a tenant's rules now."""
        self._seen[tenant] = seen

    def values_of(self, tenant: str, rule: str) -> Sequence[SeenValue] | None:
        """The values of a rule; None: this process has not looked at it."""
        return self._seen.get(tenant, {}).get(rule)


@dataclass(slots=True)
class AlertDriver:
    """Of several processes one looks, the one that holds the lock; it sees the agents that it knows of."""

    plane: ControlPlane
    fleet: FleetStatus
    view: AlertView
    teller: AlertTeller
    clock: Callable[[], float] = time.time
    begun: float = 0.0
    """Since when agents may connect."""
    _watches: dict[str, dict[str, RuleWatch]] = field(default_factory=dict)
    _heads: Mapping[str, Head] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def start(self) -> None:
        """Look again and again, in a thread."""
        self.begun = self.clock()
        self._thread = Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.teller.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with self.plane.store.database.alone(_LOCK) as execute:
                    if execute is not None:
                        self._look_on(execute)
            except (StoreError, StaleError) as error:
                log.warning("alerts wait", reason=str(error))
            self._ended.wait(_STANDBY)

    def _look_on(self, execute: Execute) -> None:
        """As long as the lock is held."""
        while not self._ended.wait(_LOOK):
            execute("SELECT 1")
            self.look()

    def look(self) -> None:
        """Look at all rules once. Raises :class:`StoreError`, :class:`StaleError`."""
        watches: dict[str, dict[str, RuleWatch]] = {}
        heads = self.plane.store.heads()
        for name in sorted(heads):
            if name not in self._watches and self._heads.get(name) == heads[name]:
                continue  # nothing happened where there were no rules
            with self.plane.reading(name) as tenant:
                if not tenant.open or not (tenant.alerts.rules or tenant.alerts.alerts):
                    continue
                watches[name] = self._watched(tenant)
                decided = self._step(tenant, watches[name])
            self.view.put(name, {rule: watch.seen for rule, watch in watches[name].items()})
            for command in decided:
                self._carry_out(name, command)
            with self.plane.reading(name) as tenant:
                self.teller.look(tenant)
        for name in self._watches.keys() - watches.keys():
            self.view.put(name, {})
        self.teller.forget(frozenset(watches))
        self._watches, self._heads = watches, heads

    def _watched(self, tenant: Tenant) -> dict[str, RuleWatch]:
        """What is known of rules that are as they were."""
        known = self._watches.get(tenant.name, {})
        return {
            name: known[name] if name in known and known[name].rule == rule else RuleWatch(tenant.name, name, rule)
            for name, rule in tenant.alerts.rules.items()
        }

    def _step(self, tenant: Tenant, watches: Mapping[str, RuleWatch]) -> list[FireAlert | ResolveAlert]:
        now = int(self.clock())
        agents = self.fleet.agents(tenant.name)
        sight = TenantSight(tenant, agents, now, self.begun, lambda: self.plane.budgets.uses(tenant, now, _BUDGETS))
        firing: dict[str, set[str]] = {}
        for alert in tenant.alerts.firing:
            firing.setdefault(alert.rule, set()).add(alert.id)
        decided: list[FireAlert | ResolveAlert] = []
        for name, watch in watches.items():
            decided += watch.step(sight.readings(watch.rule), frozenset(firing.get(name, ())), now)
        return decided

    def _carry_out(self, tenant: str, command: FireAlert | ResolveAlert) -> None:
        try:
            done = self.plane.carry_out(tenant, command, Circumstances(_BY))
        except RefusedError as error:
            log.info("an alert is about a tenant that is no more", tenant=tenant, reason=str(error))
            return
        if done.events:
            what = "an alert fires" if isinstance(command, FireAlert) else "an alert is over"
            log.info(what, tenant=tenant, rule=command.rule, alert=command.alert)
