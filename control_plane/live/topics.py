"""What windows show: how items of a topic are gathered, counted, filtered and sorted, and how one becomes a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any, Final, NamedTuple

from control_plane.domain.alert_book import Alert, AlertBook, AlertState
from control_plane.domain.alert_rules import AlertSeverity
from control_plane.domain.rollout import Rollout, RolloutState
from control_plane.domain.tenant import EnrolledAgent, Policy, Tenant
from control_plane.fleet.agent_status import (
    NO_TRAFFIC,
    AgentState,
    AgentStatus,
    AgentTraffic,
    TenantAgents,
    WatchedWorkload,
)
from control_plane.fleet.figures import TenantFigures
from control_plane.fleet.standing import FleetStanding, PolicyStanding
from control_plane.http.rollout_documents import RolloutDocument
from control_plane.live.messages import LiveScope, Topic

_STALE: Final = 3.0
"""Seconds after a report from which on nothing is known of an agent's traffic."""
_MEAN: Final = 3
"""Seconds: agents report once a second, some twice within one of the server's and not at all in the next."""
_NOBODY: Final = AgentStatus()
_STATES: Final = list(AgentState)


class SeenAgent(NamedTuple):
    """An agent as it is now."""

    cluster: str
    node: str
    agent: EnrolledAgent
    status: AgentStatus
    state: AgentState
    traffic: AgentTraffic


class SeenLane(NamedTuple):
    """A lane, and means of its fields over the last seconds."""

    policy: str
    lane: str
    direction: str
    values: Mapping[str, float]


class SeenWorkload(NamedTuple):
    """A workload, and sums over its lanes."""

    workload: WatchedWorkload
    sums: AgentTraffic


class SeenAlert(NamedTuple):
    """An alert, and the silences that mute it now."""

    alert: Alert
    silences: Sequence[str]

    @property
    def severity(self) -> str:
        return self.alert.labels.get("severity", "")


class SeenPolicy(NamedTuple):
    """A policy, its version, and on how many agents it is in force."""

    policy: Policy
    version: int
    standing: PolicyStanding


@dataclass(frozen=True, slots=True)
class Picture:
    """What a tenant's log says at ``position``. ``roster``: all agents that have joined, in order.

    ``policies`` with their versions; of ``alerts`` what nobody has to look at is left out.
    """

    position: int
    roster: list[tuple[str, EnrolledAgent]]
    clusters: Sequence[str]
    policies: Sequence[tuple[Policy, int]]
    alerts: AlertBook

    @classmethod
    def from_tenant(cls, tenant: Tenant, before: Picture | None) -> Picture:
        """While the tenant's state is held, which goes on to change afterwards. A roster that is as ``before`` stays
        the same object."""
        clusters = sorted(tenant.clusters)
        roster = [(name, agent) for name in clusters for _, agent in sorted(tenant.clusters[name].agents.items())]
        if before is not None and before.roster == roster:
            roster = before.roster
        policies = [
            (_copied(policy), tenant.version(f"policy/{name}")) for name, policy in sorted(tenant.policies.items())
        ]
        alerts = AlertBook(
            silences=dict(tenant.alerts.silences),
            alerts={id: replace(alert) for id, alert in tenant.alerts.alerts.items()},
        )
        return cls(tenant.position, roster, clusters, policies, alerts)


def _copied(policy: Policy) -> Policy:
    rollout = replace(policy.rollout) if policy.rollout is not None else None
    return replace(policy, revisions=list(policy.revisions), withdrawn=set(policy.withdrawn), rollout=rollout)


@dataclass(slots=True)
class TenantView:
    """A tenant at one moment (Unix seconds): what its log says, and what its agents do."""

    picture: Picture
    now: float
    agents: TenantAgents
    _seen: list[SeenAgent] | None = None

    @property
    def seen(self) -> list[SeenAgent]:
        """All agents, gathered once."""
        if self._seen is None:
            known, fresh = self.agents.agents, self.now - _STALE
            found = []
            for cluster, agent in self.picture.roster:
                status = known.get((cluster, agent.node))
                state = self.agents.state(status)
                status = status or _NOBODY
                traffic = status.traffic if status.reported >= fresh and status.connected else NO_TRAFFIC
                found.append(SeenAgent(cluster, agent.node, agent, status, state, traffic))
            self._seen = found
        return self._seen

    def figures(self, scope: LiveScope) -> TenantFigures:
        """Those of the scope; empty ones where nobody has said anything."""
        if not scope.cluster:
            return self.agents.figures
        return self.agents.clusters.get(scope.cluster) or TenantFigures(0)

    def elsewhere(self, scope: LiveScope) -> AgentTraffic:
        """What went through the agents of the scope that are connected to other processes, together."""
        figures = self.figures(scope)
        sums = figures.sums_elsewhere(figures.settled(int(self.now)) - 1)
        sums["throttled"] = sums["overlimits"]
        return AgentTraffic(*(float(sums[name]) for name in AgentTraffic._fields))


@dataclass(frozen=True, slots=True)
class WindowTopic:
    """A kind of window. Items come in the topic's own order, the first of ``sorts``."""

    items: Callable[[TenantView, LiveScope], list[Any]]
    totals: Callable[[TenantView, LiveScope, list[Any]], dict[str, Any]]
    row: Callable[[TenantView, Any], dict[str, Any]]
    name: Callable[[Any], str]
    sorts: Mapping[str, Callable[[Any], Any]]
    state: Callable[[Any], str] | None = None
    states: Sequence[str] = ()


def _agents(view: TenantView, scope: LiveScope) -> list[SeenAgent]:
    return [each for each in view.seen if each.cluster == scope.cluster] if scope.cluster else view.seen


def agent_totals(view: TenantView, scope: LiveScope, agents: list[SeenAgent]) -> dict[str, Any]:
    """A ``LiveAgentTotals``. ``agents``: all of the scope."""
    states = Counter(each.state for each in agents)
    workloads = programmed = failures = waiting = 0
    for each in agents:
        status = each.status
        workloads += status.workloads
        programmed += status.programmed
        failures += status.failed
        waiting += status.waiting
    here = (each.traffic for each in agents if not each.status.process)
    sums = map(sum, zip(view.elsewhere(scope), *here, strict=True))
    return {
        "agents": len(agents),
        **{state.replace("-", "_"): states[state] for state in AgentState},
        "workloads": workloads,
        "programmed": programmed,
        "failures": failures,
        "waiting": waiting,
        **AgentTraffic(*sums)._asdict(),
    }


def _agent_row(_view: TenantView, each: SeenAgent) -> dict[str, Any]:
    status = each.status
    return {
        "cluster": each.cluster,
        "node": each.node,
        "state": each.state,
        "since": status.since or None,
        "joined": each.agent.at,
        "version": status.version,
        "revision": status.revision,
        "workloads": status.workloads,
        "programmed": status.programmed,
        "failures": status.failed,
        "waiting": status.waiting,
        "refusal": status.refusal,
        **each.traffic._asdict(),
        "memory": status.memory,
        "cpu_ms": status.cpu_ms,
    }


def _clusters(view: TenantView, scope: LiveScope) -> list[dict[str, Any]]:
    members: dict[str, list[SeenAgent]] = {name: [] for name in view.picture.clusters}
    for each in view.seen:
        members[each.cluster].append(each)
    return [
        {"name": name, **agent_totals(view, LiveScope(cluster=name), agents)}
        for name, agents in members.items()
        if scope.cluster in ("", name)
    ]


def _cluster_totals(view: TenantView, _scope: LiveScope, clusters: list[dict[str, Any]]) -> dict[str, Any]:
    names = agent_totals(view, LiveScope(cluster=""), [])
    return {name: sum(each[name] for each in clusters) for name in names}


def lanes_of(view: TenantView, scope: LiveScope, seconds: int) -> list[SeenLane]:
    """Lanes of the scope, by name, with means over the last ``seconds``."""
    wanted = scope.policy or None
    found = []
    figures = view.figures(scope)
    for each in figures.window(figures.settled(int(view.now)), seconds, wanted):
        if scope.lane in ("", each.lane) and scope.direction in ("", each.direction):
            means = {field: sum(values) / seconds for field, values in each.values.items()}
            # Agents say these each second, whether or not something passed.
            said = sum(1 for workloads in each.values["workloads"] if workloads) or 1
            means |= {name: sum(each.values[name]) / said for name in ("workloads", "rate", "ceil", "backlog")}
            means["throttled"] = means["overlimits"]
            found.append(SeenLane(each.policy, each.lane, each.direction, means))
    return found


_LANE_FIELDS: Final = ("bytes", "packets", "dropped", "throttled", "backlog", "workloads", "rate", "ceil")


def _lane_row(_view: TenantView, each: SeenLane) -> dict[str, Any]:
    names = {"policy": each.policy, "lane": each.lane, "direction": each.direction}
    return names | {name: round(each.values[name], 1) for name in _LANE_FIELDS}


def _lane_totals(_view: TenantView, _scope: LiveScope, lanes: list[SeenLane]) -> dict[str, Any]:
    directions = {name: sum(each.values["bytes"] for each in lanes if each.direction == name) for name in _DIRECTIONS}
    fields = ("packets", "dropped", "throttled", "backlog")
    return {
        name: round(value, 1)
        for name, value in (directions | {f: sum(each.values[f] for each in lanes) for f in fields}).items()
    }


_DIRECTIONS: Final = ("egress", "ingress")


def _workloads(view: TenantView, scope: LiveScope) -> list[SeenWorkload]:
    status = view.agents.agents.get((scope.cluster, scope.node))
    return [
        SeenWorkload(each, AgentTraffic(*map(sum, zip(*(lane[:5] for lane in each.lanes), strict=True))))
        for each in sorted(status.details or () if status is not None else ())
        if scope.namespace in ("", each.workload.partition("/")[0]) and scope.policy in ("", each.policy)
    ]


def _workload_row(_view: TenantView, each: SeenWorkload) -> dict[str, Any]:
    return {
        "workload": each.workload.workload,
        "policy": each.workload.policy,
        "controller": each.workload.controller,
        **each.sums._asdict(),
        "lanes": [lane._asdict() for lane in each.workload.lanes],
    }


def _workload_totals(_view: TenantView, _scope: LiveScope, workloads: list[SeenWorkload]) -> dict[str, Any]:
    sums = [sum(column) for column in zip(*(each.sums for each in workloads), strict=True)] or [0.0] * 5
    return {"workloads": len(workloads), **AgentTraffic(*sums)._asdict()}


def _alerts(view: TenantView, _scope: LiveScope) -> list[SeenAlert]:
    book = view.picture.alerts
    newest = sorted(book.alerts.values(), key=lambda each: -each.at)
    return [SeenAlert(each, book.silenced(each.labels, view.now)) for each in newest]


def _alert_row(_view: TenantView, each: SeenAlert) -> dict[str, Any]:
    alert = each.alert
    return {
        "id": alert.id,
        "rule": alert.rule,
        "state": alert.state,
        "severity": each.severity,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "value": alert.value,
        "since": alert.since,
        "at": alert.at,
        "ended": alert.ended or None,
        "reason": alert.reason,
        "silenced_by": each.silences,
    }


def _alert_totals(_view: TenantView, _scope: LiveScope, alerts: list[SeenAlert]) -> dict[str, Any]:
    firing = [each for each in alerts if not each.alert.ended]
    severities = Counter(each.severity for each in firing)
    return {
        "firing": len(firing),
        "silenced": sum(bool(each.silences) for each in firing),
        **{severity: severities[severity] for severity in AlertSeverity},
        "resolved": len(alerts) - len(firing),
    }


_SEVERITIES: Final = {severity: place for place, severity in enumerate(AlertSeverity)}


def _policies(view: TenantView, scope: LiveScope) -> list[SeenPolicy]:
    standing = FleetStanding((each.status if each.status is not _NOBODY else None, each.state) for each in view.seen)
    return [
        SeenPolicy(policy, version, standing.policy(policy.name, policy.since))
        for policy, version in view.picture.policies
        if scope.policy in ("", policy.name) and (policy.revision or policy.draft)
    ]


def _policy_row(_view: TenantView, each: SeenPolicy) -> dict[str, Any]:
    policy, standing = each.policy, asdict(each.standing)
    return {
        "name": policy.name,
        "version": each.version,
        "revision": len(policy.revisions),
        "in_force": policy.revision,
        "draft": policy.draft is not None,
        "rollout": policy.rollout.state if policy.rollout is not None else None,
        "having": standing.pop("in_force"),
        **standing,
    }


def _rollouts(view: TenantView, scope: LiveScope) -> list[Policy]:
    return [policy for policy, _ in view.picture.policies if policy.rollout and scope.policy in ("", policy.name)]


def _rollout_of(policy: Policy) -> Rollout:
    assert policy.rollout is not None
    return policy.rollout


def _rollout_row(view: TenantView, policy: Policy) -> dict[str, Any]:
    seen = view.agents.rollouts.get(policy.name)
    return RolloutDocument.describe(policy.name, _rollout_of(policy), seen).model_dump(mode="json")


def _rollout_totals(_view: TenantView, _scope: LiveScope, policies: list[Policy]) -> dict[str, Any]:
    states = Counter(_rollout_of(each).state for each in policies)
    return {state.replace(" ", "_"): states[state] for state in RolloutState}


WINDOWS: Final[Mapping[Topic, WindowTopic]] = {
    Topic.AGENTS: WindowTopic(
        _agents,
        agent_totals,
        _agent_row,
        lambda each: f"{each.cluster}/{each.node}",
        {
            "node": lambda each: each[:2],
            "state": lambda each: _STATES.index(each.state),
            "since": attrgetter("status.since"),
            "version": attrgetter("status.version"),
            "workloads": attrgetter("status.workloads"),
            "failures": attrgetter("status.failed"),
            "bytes": attrgetter("traffic.bytes"),
            "dropped": attrgetter("traffic.dropped"),
            "throttled": attrgetter("traffic.throttled"),
            "memory": attrgetter("status.memory"),
        },
        lambda each: each.state,
        _STATES,
    ),
    Topic.CLUSTERS: WindowTopic(
        _clusters,
        _cluster_totals,
        lambda _, each: each,
        lambda each: each["name"],
        {
            "name": lambda each: each["name"],
            "agents": lambda each: each["agents"],
            "failed": lambda each: each["failed"],
            "away": lambda each: each["away"],
            "bytes": lambda each: each["bytes"],
            "dropped": lambda each: each["dropped"],
            "throttled": lambda each: each["throttled"],
        },
    ),
    Topic.LANES: WindowTopic(
        lambda view, scope: lanes_of(view, scope, _MEAN),
        _lane_totals,
        _lane_row,
        lambda each: f"{each.policy}/{each.lane}",
        {
            "lane": lambda each: each[:3],
            "bytes": lambda each: each.values["bytes"],
            "packets": lambda each: each.values["packets"],
            "dropped": lambda each: each.values["dropped"],
            "throttled": lambda each: each.values["throttled"],
            "backlog": lambda each: each.values["backlog"],
            "workloads": lambda each: each.values["workloads"],
        },
    ),
    Topic.WORKLOADS: WindowTopic(
        _workloads,
        _workload_totals,
        _workload_row,
        lambda each: each.workload.workload,
        {
            "workload": attrgetter("workload.workload"),
            "bytes": attrgetter("sums.bytes"),
            "packets": attrgetter("sums.packets"),
            "dropped": attrgetter("sums.dropped"),
            "throttled": attrgetter("sums.throttled"),
            "backlog": attrgetter("sums.backlog"),
        },
    ),
    Topic.POLICIES: WindowTopic(
        _policies,
        lambda _view, _scope, policies: {"policies": len(policies)},
        _policy_row,
        lambda each: each.policy.name,
        {
            "name": attrgetter("policy.name"),
            "version": attrgetter("version"),
            "behind": attrgetter("standing.behind"),
            "failed": attrgetter("standing.failed"),
        },
    ),
    Topic.ALERTS: WindowTopic(
        _alerts,
        _alert_totals,
        _alert_row,
        lambda each: " ".join((each.alert.rule, *each.alert.labels.values())),
        {
            "newest": lambda each: -each.alert.at,
            "severity": lambda each: _SEVERITIES.get(each.severity, -1),
            "rule": attrgetter("alert.rule"),
            "value": attrgetter("alert.value"),
        },
        lambda each: each.alert.state,
        (AlertState.FIRING, AlertState.RESOLVED),
    ),
    Topic.ROLLOUTS: WindowTopic(
        _rollouts,
        _rollout_totals,
        _rollout_row,
        lambda policy: policy.name,
        {"policy": attrgetter("name"), "since": lambda policy: _rollout_of(policy).since},
        lambda policy: _rollout_of(policy).state,
        list(RolloutState),
    ),
}
