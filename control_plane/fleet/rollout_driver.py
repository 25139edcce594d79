"""Drives rollouts: looks at the agents that each has reached, and goes on, waits, or takes it back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from control_plane.domain.commands import AdvanceRollout, RolloutCommand, TakeBackRollout
from control_plane.domain.errors import RefusedError
from control_plane.domain.rollout import PrometheusGate, Rollout, RolloutState
from control_plane.domain.rollout_gates import GoOn, QueryAnswer, SeenOfRollout, StayAt, TakeBack, judge, read_gates
from control_plane.domain.tenant import Tenant
from control_plane.fleet.agent_status import AgentState, AgentStatus, FleetStatus, RolloutProgress, TenantAgents
from control_plane.health import Dependency
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.database import Execute
from control_plane.store.errors import StaleError, StoreError
from control_plane.store.records import Head
from daemon.log import Logger

_LOOK: Final = 0.25
"""Seconds between two looks."""
_LOCK: Final = 0x506F6452
"""Whoever holds it decides: "PodR"."""
_STANDBY: Final = 1.0
"""Seconds between two looks by who does not, each with a try for the lock."""
_GRACE: Final = 10.0
"""Seconds for which an agent may be without connection before it counts as away: it may be on its way back."""
_ASK: Final = 5.0
"""Seconds between two questions to Prometheus."""
_PATIENCE: Final = 4.0
_BY: Final = "podlane rollouts"

log = Logger(spacing=10.0)
_Step = tuple[str, str, int, int, int]
"""Tenant, policy, revision, step, and since when."""


class PrometheusGates:
    """Asks Prometheus from time to time, in a thread of its own, and remembers what it said."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``url`` empty: there is none to ask."""
        self._url = url.rstrip("/")
        self._clock = clock
        self._worker = ThreadPoolExecutor(1, "prometheus")
        self.dependency = Dependency("prometheus")
        """Whether it was there when it was asked last."""
        self._known: dict[PrometheusGate, tuple[float, Future[QueryAnswer]]] = {}

    def answer(self, gate: PrometheusGate) -> QueryAnswer:
        """What was said last."""
        if not self._url:
            return QueryAnswer(gate, trouble="there is no --prometheus to ask")
        at, asked = self._known.get(gate, (0.0, None))
        if asked is None or (asked.done() and self._clock() - at >= _ASK):
            before = asked.result() if asked is not None else QueryAnswer(gate, trouble="it has not answered yet")
            self._known[gate] = (self._clock(), self._worker.submit(self._ask, gate))
            return before
        return asked.result() if asked.done() else QueryAnswer(gate, trouble="it has not answered yet")

    def _ask(self, gate: PrometheusGate) -> QueryAnswer:
        answer = ask_prometheus(self._url, gate)
        if answer.trouble:
            self.dependency.is_away(answer.trouble)
        else:
            self.dependency.is_up()
        return answer

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


def ask_prometheus(url: str, gate: PrometheusGate) -> QueryAnswer:
    """https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries. Blocks."""
    try:
        with urlopen(f"{url}/api/v1/query?{urlencode({'query': gate.query})}", timeout=_PATIENCE) as answer:
            result = json.load(answer)["data"]
        values = _values(result)
    except (URLError, OSError) as error:
        return QueryAnswer(gate, trouble=str(getattr(error, "reason", error)))
    except (ValueError, KeyError, TypeError, IndexError):
        return QueryAnswer(gate, trouble="the answer is none of Prometheus'")
    return QueryAnswer(gate, max(values, default=None))


def _values(result: Mapping[str, Any]) -> list[float]:
    if result["resultType"] == "scalar":
        return [float(result["result"][1])]
    return [float(series["value"][1]) for series in result["result"]]


@dataclass(slots=True)
class _Watched:
    """One step of one rollout, since this process looks at it."""

    begun: float
    good_since: float | None = None


@dataclass(slots=True)
class RolloutDriver:
    """One of the processes on a database decides, by what all their agents say. The others look, too: for who asks
    them how far a rollout is, and to go on when that one is gone."""

    plane: ControlPlane
    fleet: FleetStatus
    prometheus: PrometheusGates
    clock: Callable[[], float] = time.time
    _watched: dict[_Step, _Watched] = field(default_factory=dict)
    _heads: Mapping[str, Head] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def start(self) -> None:
        """Look again and again, in a thread."""
        self._thread = Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.prometheus.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with self.plane.store.database.alone(_LOCK) as execute:
                    if execute is not None:
                        self._decide_on(execute)
                    else:
                        self.look(decide=False)
            except (StoreError, StaleError) as error:
                log.warning("rollouts wait", reason=str(error))
            self._ended.wait(_STANDBY)

    def _decide_on(self, execute: Execute) -> None:
        while not self._ended.wait(_LOOK):
            execute("SELECT 1")  # fails once the lock is lost
            self.look()

    def look(self, *, decide: bool = True) -> None:
        """Look at all rollouts once. Raises :class:`StoreError`."""
        heads = self.plane.store.heads()
        watched: dict[_Step, _Watched] = {}
        for name in sorted(heads):
            if self._heads.get(name) == heads[name] and not any(step[0] == name for step in self._watched):
                continue  # nothing happened where nothing was under way
            decided: list[RolloutCommand] = []
            with self.plane.reading(name) as tenant:
                for policy in tenant.policies.values():
                    rollout = policy.rollout
                    if rollout is None or rollout.state is not RolloutState.RUNNING:
                        continue
                    step = (name, policy.name, rollout.revision, rollout.stage, rollout.since)
                    watched[step] = self._watched.get(step) or _Watched(self.clock())
                    answers = [self.prometheus.answer(gate) for gate in rollout.plan.gates.prometheus] if decide else []
                    decided += self._look_at(tenant, policy.name, rollout, watched[step], answers)
            for command in decided if decide else ():
                self._carry_out(name, command)
        self._heads, self._watched = heads, watched

    def _look_at(
        self, tenant: Tenant, policy: str, rollout: Rollout, watched: _Watched, answers: list[QueryAnswer]
    ) -> list[RolloutCommand]:
        agents = self.fleet.agents(tenant.name)
        progress = _progress(tenant, policy, rollout, agents, self.clock(), watched.begun)
        if progress.reached - progress.away > progress.having:
            watched.good_since = None
        elif watched.good_since is None:
            watched.good_since = self.clock()
        traffic = agents.traffic_of(policy)
        seen = SeenOfRollout(
            progress.reached,
            progress.having,
            progress.away,
            progress.lost,
            progress.failures,
            0.0 if watched.good_since is None else self.clock() - watched.good_since,
            traffic.before,
            traffic.now,
            answers,
        )
        verdict = judge(rollout, seen)
        progress.says = verdict.reason if isinstance(verdict, StayAt | TakeBack) else ""
        progress.gates = read_gates(rollout, seen)
        agents.rollouts[policy] = progress
        match verdict:
            case TakeBack(reason):
                return [TakeBackRollout(policy, reason, rollout.revision)]
            case GoOn():
                return [AdvanceRollout(policy, rollout.revision, rollout.stage + 1)]
            case StayAt():
                return []

    def _carry_out(self, tenant: str, command: RolloutCommand) -> None:
        reason = command.reason if isinstance(command, TakeBackRollout) else "its step stayed good"
        try:
            self.plane.carry_out(tenant, command, Circumstances(_BY, reason=reason))
        except RefusedError as error:
            # Somebody was quicker: it was paused, superseded or taken back meanwhile.
            log.info("a rollout does not go on", tenant=tenant, policy=command.policy, reason=str(error))
        else:
            done = "taken back" if isinstance(command, TakeBackRollout) else "goes on"
            log.info(f"a rollout {done}", tenant=tenant, policy=command.policy, reason=reason)


def _progress(
    tenant: Tenant, policy: str, rollout: Rollout, agents: TenantAgents, now: float, begun: float
) -> RolloutProgress:
    """``begun``: since when this process looks."""
    found = RolloutProgress()
    since = tenant.policies[policy].since
    for cluster in tenant.clusters.values():
        for node in cluster.agents:
            status = agents.agents.get((cluster.name, node)) or AgentStatus()
            name = f"{cluster.name}/{node}"
            labels = tenant.labels_at(name, status.labels)
            if not tenant.policies[policy].concerns(labels):
                continue
            found.agents += 1
            if not rollout.reaches(policy, name, labels):
                continue
            found.reached += 1
            if not status.connected:
                gone = now - max(status.since, begun) >= _GRACE
                found.away += gone
                found.lost += gone and status.since >= begun
            elif failure := _failure(status, policy, since):
                found.failures.append((name, failure))
                found.having += 1
            elif status.revision >= since and agents.state(status) is not AgentState.BEHIND:
                found.having += 1
    return found


def _failure(status: AgentStatus, policy: str, since: int) -> str:
    """Why an agent cannot have the policy as it is since this position; empty: it can, or has not said yet."""
    if status.refusal:
        return status.refusal
    if status.revision < since:
        return ""
    return next((f"{each.workload}: {each.reason}" for each in status.failures if each.policy == policy), "")
