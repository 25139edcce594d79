"""What Prometheus is told of this process and of what it serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from control_plane.domain.alert_rules import AlertSeverity
from control_plane.fleet.agent_status import AgentState, FleetStatus
from control_plane.fleet.figures import COUNTERS
from control_plane.fleet.past import METRIC
from control_plane.health import Dependency
from control_plane.live.place import LivePlace
from control_plane.service import ControlPlane
from daemon.process_metrics import process_families
from daemon.prometheus_text import MetricFamily, counter, gauge, render

_PREFIX: Final = "podlane_control_plane"
_LANE: Final = ("tenant", "policy", "lane", "direction")


class ControlPlaneMetrics:
    """Made when they are asked for. Blocks. ``connections``: of agents to this process."""

    def __init__(
        self,
        plane: ControlPlane,
        fleet: FleetStatus,
        live: LivePlace,
        dependencies: Sequence[Dependency],
        connections: Callable[[], int],
    ) -> None:
        self._plane = plane
        self._fleet = fleet
        self._live = live
        self._dependencies = dependencies
        self._connections = connections

    def render(self) -> bytes:
        """All metrics in Prometheus' text format. Raises :class:`~control_plane.store.errors.StoreError`."""
        return render([*process_families(), *self._families()])

    def _families(self) -> Iterator[MetricFamily]:
        agents = gauge(f"{_PREFIX}_agents", "Agents that have joined, by state.", "tenant", "state")
        events = counter(f"{_PREFIX}_events", "Events in the log.", "tenant")
        lanes = [
            counter(METRIC.format(name).removesuffix("_total"), f"What went through lanes: {name}.", *_LANE)
            for name in COUNTERS
        ]
        names = gauge(f"{_PREFIX}_names", "Names that connections had in the last hour.", "tenant")
        alerts = gauge(f"{_PREFIX}_alerts", "Alerts that fire.", "tenant", "severity")
        budgets = gauge(f"{_PREFIX}_budget_bytes", "Budgets: bytes in each period.", "tenant", "budget")
        used = gauge(f"{_PREFIX}_budget_used_bytes", "What is used of them in the period now.", "tenant", "budget")
        untold = gauge(f"{_PREFIX}_untold_alerts", "Alerts of which a channel is still to be told.", "tenant")
        for name, head in sorted(self._plane.store.heads().items()):
            events.add(head.position, name)
            with self._plane.reading(name) as tenant:
                book = tenant.alerts
                firing = Counter(alert.labels["severity"] for alert in book.firing)
                waiting = sum(len(list(book.untold(channel, self._plane.now))) for channel in book.channels)
                for budget, use in self._plane.budgets.uses(tenant, self._plane.now).items():
                    budgets.add(use.budget.bytes, name, budget)
                    used.add(use.used, name, budget)
                joined = [(cluster.name, node) for cluster in tenant.clusters.values() for node in cluster.agents]
            for severity in AlertSeverity:
                alerts.add(firing[severity], name, severity)
            untold.add(waiting, name)
            known = self._fleet.agents(name)
            states = Counter(known.state(known.agents.get(key)) for key in joined)
            for state in AgentState:
                agents.add(states[state], name, state)
            names.add(len(known.names), name)
            for key, numbers in known.figures.counters(self._plane.now).items():
                for family, number in zip(lanes, numbers, strict=True):
                    family.add(number, name, *key)
        connections = gauge(f"{_PREFIX}_agent_connections", "Connections of agents to this process.")
        connections.add(self._connections())
        lag = gauge(f"{_PREFIX}_unpublished_events", "Events that Kafka has not acknowledged; without Kafka none.")
        if any(each.state.name == "kafka" for each in self._dependencies):
            lag.add(self._plane.store.unpublished())
        up = gauge(f"{_PREFIX}_dependency_up", "1: it answers; 0: it does not.", "dependency")
        for dependency in self._dependencies:
            if (is_up := dependency.state.up) is not None:
                up.add(is_up, dependency.state.name)
        viewers = gauge(f"{_PREFIX}_viewers", "Live connections (/v1/live) to this process.")
        viewers.add(self._live.viewers)
        frames = counter(f"{_PREFIX}_live_frames", "Frames that were sent to viewers.")
        frames.add(self._live.frames)
        sent = counter(f"{_PREFIX}_live_bytes", "Their bytes.")
        sent.add(self._live.bytes)
        yield from (agents, events, *lanes, names, connections, lag, up, alerts, untold, budgets, used)
        yield from (self._plane.durations.family(), viewers, frames, sent)
