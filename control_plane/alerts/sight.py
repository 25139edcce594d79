"""The values that alert rules look at, from what is in memory of a tenant's agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.domain.alert_evaluation import AlertReading, LaneTotals
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.rollout import RolloutState
from control_plane.domain.tenant import MemberCluster, Tenant
from control_plane.domain.volume_budget import BudgetUse
from control_plane.fleet.agent_status import TenantAgents
from control_plane.fleet.figures import LaneKey, TenantFigures
from traffic_policy.units import ByteCount

_GRACE: Final = 10.0
"""Seconds for which an agent may be without connection: it may be on its way back."""
_NAMED: Final = 3


def lane_labels(key: LaneKey, cluster: str = "") -> dict[str, str]:
    """Of a lane, over all clusters or in one; workloads' own policies have no name."""
    policy, lane, direction = key
    place = {"cluster": cluster, "policy": policy}
    return {**{name: value for name, value in place.items() if value}, "class": lane, "direction": direction}


def figures_for(rule: AlertRule, agents: TenantAgents) -> TenantFigures | None:
    """Those that a rule is about; None: nothing was heard of its cluster."""
    cluster = rule.scope.get("cluster")
    return agents.figures if cluster is None else agents.clusters.get(cluster)


@dataclass(slots=True)
class TenantSight:
    """One look at a tenant at ``now`` (Unix seconds). ``begun``: since when this process has agents: who has not been
    here since then may yet come. Each thing is counted once, whatever the number of rules."""

    tenant: Tenant
    agents: TenantAgents
    now: int
    begun: float
    uses: Callable[[], Mapping[str, BudgetUse]] = dict
    """Of budgets, by their names. Asked for only if a rule is about them."""
    _totals: dict[tuple[str, int], dict[LaneKey, LaneTotals]] = field(default_factory=dict)
    _clusters: dict[AlertKind, list[AlertReading]] = field(default_factory=dict)

    def readings(self, rule: AlertRule) -> list[AlertReading]:
        """All values of a rule."""
        if rule.kind.of_traffic:
            cluster = rule.scope.get("cluster", "")
            found: Iterator[AlertReading] | list[AlertReading] = (
                AlertReading(lane_labels(key, cluster), total.value(rule.kind))
                for key, total in self._totals_for(rule).items()
            )
        elif rule.kind is AlertKind.ROLLOUT_STUCK:
            found = self._rollouts()
        elif rule.kind is AlertKind.VOLUME_BUDGET:
            found = self._budgets()
        else:
            found = self._of_clusters(rule.kind)
        return [each for each in found if rule.covers(each.labels)]

    def _totals_for(self, rule: AlertRule) -> dict[LaneKey, LaneTotals]:
        place = rule.scope.get("cluster", ""), rule.over
        if place not in self._totals:
            figures = figures_for(rule, self.agents)
            self._totals[place] = {} if figures is None else figures.totals(figures.settled(self.now), rule.over)
        return self._totals[place]

    def _rollouts(self) -> Iterator[AlertReading]:
        for name, policy in self.tenant.policies.items():
            rollout = policy.rollout
            if rollout is not None and rollout.state is RolloutState.RUNNING:
                late = self.now - rollout.since - rollout.plan.soak
                yield AlertReading({"policy": name}, float(max(0, late)))

    def _budgets(self) -> Iterator[AlertReading]:
        for name, use in self.uses().items():
            sizes = {"used": ByteCount(use.used).human, "bytes": ByteCount(use.budget.bytes).human}
            labels = {"budget": name, **use.budget.scope}
            yield AlertReading(labels, use.share, {**sizes, "period": use.budget.period.value})

    def _of_clusters(self, kind: AlertKind) -> list[AlertReading]:
        if kind not in self._clusters:
            count = self._away if kind is AlertKind.AGENTS_AWAY else self._expiring
            counted = (count(cluster) for cluster in self.tenant.clusters.values())
            self._clusters[kind] = [each for each in counted if each is not None]
        return self._clusters[kind]

    def _away(self, cluster: MemberCluster) -> AlertReading | None:
        if not cluster.agents or self.now - self.begun < _GRACE:
            return None
        away = []
        for node in cluster.agents:
            status = self.agents.agents.get((cluster.name, node))
            since = max(self.begun, 0.0 if status is None else status.since)
            if (status is None or not status.connected) and self.now - since >= _GRACE:
                away.append(node)
        named = ", ".join(away[:_NAMED]) + (", ..." if len(away) > _NAMED else "")
        details = {"count": str(len(away)), "of": str(len(cluster.agents)), "agents": named}
        return AlertReading({"cluster": cluster.name}, len(away) / len(cluster.agents), details)

    def _expiring(self, cluster: MemberCluster) -> AlertReading | None:
        ends = []
        for node in cluster.agents:
            status = self.agents.agents.get((cluster.name, node))
            if status is not None and status.expires:
                ends.append((status.expires, node))
        if not ends:
            return None
        end, node = min(ends)
        return AlertReading({"cluster": cluster.name}, max(0.0, end - self.now), {"agents": node, "count": "1"})
