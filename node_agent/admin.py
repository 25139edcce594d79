"""The agent's admin routes, read only. ``/classes``, ``/policy`` and ``/connections`` are those of one workload, which
``?workload=NAME`` names; their documents are the sidecar's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from daemon.admin_server import Handler, Query, QueryError, Reply
from daemon.documents.classes import Classes
from daemon.documents.codec import to_bytes, to_json
from daemon.documents.health import NOT_READY, READY, Health
from daemon.documents.node import ControlPlaneLink, NodeClasses, WorkloadClasses
from daemon.documents.workloads import Workloads
from daemon.http import JSON
from daemon.process_metrics import process_families
from daemon.prometheus_text import CONTENT_TYPE, MetricFamily, counter, gauge, render
from daemon.version import installed_version
from datapath.data_plane import DataPlane
from datapath.documents.classes import Process, classes_document
from datapath.documents.connections import connections_asked, connections_document
from datapath.documents.metrics import class_families
from datapath.shaping import ClassSnapshot
from node_agent.agent import Agent
from node_agent.budgets.budget_share import BudgetShare
from node_agent.budgets.families import budget_families
from node_agent.cni.gate import CallOutcome, CniGate
from node_agent.lanes import State, WorkloadLanes
from node_agent.status import workload_status
from traffic_policy.pod.mode import Mode
from traffic_policy.settings import Datapath

if TYPE_CHECKING:
    from node_agent.fleet.link import FleetLink

_LABELS = ("namespace", "pod")
_FRESH_S = 0.1
"""Seconds for which counters are cached for ``/classes``."""


class AgentAdmin:
    """Serves what an agent does."""

    def __init__(
        self,
        agent: Agent,
        gate: CniGate | None = None,
        link: FleetLink | None = None,
        *,
        node: str | None = None,
        mode: Mode = Mode.NONE,
    ) -> None:
        """``gate`` answers the CNI plugin, if it is in use, and ``link`` is the connection to a control plane; ``node``
        and ``mode`` are settings, for ``/node``."""
        self._agent = agent
        self._gate = gate
        self._link = link
        self._node = node
        self._mode = mode
        self._began = time.monotonic()

    def handlers(self) -> dict[str, Handler]:
        """The handler of each path."""
        return {
            "/metrics": lambda _: Reply(200, CONTENT_TYPE, self.metrics()),
            "/healthz": lambda _: self._health(),
            "/readyz": lambda _: Reply.text(200, READY) if self._agent.ready else Reply.text(503, NOT_READY),
            "/node": lambda _: Reply(200, JSON, to_bytes(self.node()) + b"\n"),
            "/workloads": lambda _: Reply.json(to_json(self.workloads())),
            "/classes": self._classes,
            "/policy": self._policy,
            "/connections": self._connections,
        }

    def workloads(self) -> Workloads:
        """The document of ``/workloads``."""
        return Workloads(tuple(workload_status(lanes) for lanes in self._sorted()))

    def node(self) -> NodeClasses:
        """The document of ``/node``. Counters are those of the last second: the kernel is not asked."""
        return NodeClasses(
            self._node, installed_version(), self._mode.value, round(time.monotonic() - self._began, 3),
            tuple(
                WorkloadClasses(
                    lanes.workload.name, lanes.state.value, lanes.reason,
                    None if lanes.plane is None else self._classes_of(lanes, lanes.plane),
                )
                for lanes in self._sorted()
            ),
            self._control_plane(),
        )  # fmt: skip

    def _control_plane(self) -> ControlPlaneLink | None:
        if self._link is None:
            return None
        status, credentials = self._link.status, self._link.enrolment.credentials
        return ControlPlaneLink(
            status.connected,
            round(status.since, 3),
            status.address,
            self._link.revision,
            status.error,
            None if credentials is None else credentials.expires,
        )

    def metrics(self) -> bytes:
        """All metrics in Prometheus text format."""
        return render([*process_families(), *self._families()])

    def _sorted(self) -> list[WorkloadLanes]:
        return sorted(self._agent.running.values(), key=lambda each: each.workload.name)

    def _families(self) -> Iterator[MetricFamily]:
        running = self._sorted()
        states = gauge("podlane_agent_workloads", "Workloads by state.", "state")
        for state in State:
            states.add(sum(each.state is state for each in running), state.value)
        ways = gauge("podlane_agent_datapaths", "Workloads with lanes, by how first bytes are seen.", "datapath")
        for way in (Datapath.EBPF, Datapath.STEP_ASIDE):
            ways.add(sum(each.in_force_in is not None and each.chosen.datapath is way for each in running), way.value)
        calls = counter("podlane_agent_cni_calls", "Pods' networks of which the CNI plugin told.", "outcome")
        if self._gate is not None:
            for outcome in CallOutcome:
                calls.add(self._gate.calls[outcome], outcome.value)
        changes = counter("podlane_agent_changes", "Times that lanes were put in force or changed.", *_LABELS)
        lost = gauge("podlane_enforcement_lost", "1: rules, routes or classes are missing now.", *_LABELS)
        repaired = counter("podlane_enforcement_repairs", "Times that what was missing was put back.", *_LABELS, "part")
        decided = counter("podlane_connections", "Connections that were given a class.", *_LABELS, "class", "protocol")
        sent: list[tuple[tuple[str, ...], ClassSnapshot]] = []
        received: list[tuple[tuple[str, ...], ClassSnapshot]] = []
        shares: list[tuple[tuple[str, ...], BudgetShare]] = []
        for each in running:
            values = tuple(each.workload.labels.get(label, "") for label in _LABELS)
            changes.add(each.programmed, *values)
            for (class_name, protocol), number in list(each.counters.decided.items()):
                decided.add(number, *values, class_name, protocol)
            if each.budget is not None:
                shares.append((values, each.budget))
            if each.plane is None:
                continue
            status, repairs = each.plane.status(), each.plane.repairs
            lost.add(bool(repairs.lost), *values)
            for part, number in repairs.counts.items():
                repaired.add(number, *values, part)
            sent += ((values, snapshot) for snapshot in status.snapshots)
            received += ((values, snapshot) for snapshot in (status.received.classes if status.received else ()))
        yield from (states, ways, calls, changes, lost, repaired, decided)
        yield from self._link_families()
        yield from budget_families(shares, _LABELS)
        yield from class_families("podlane_class", "sent", sent, _LABELS)
        yield from class_families("podlane_received", "received", received, _LABELS)

    def _link_families(self) -> Iterator[MetricFamily]:
        prefix = "podlane_agent_control_plane"
        families = (
            gauge(f"{prefix}_connected", "1: the agent is connected to its control plane."),
            gauge(f"{prefix}_revision", "Revision of what the control plane desires, as the agent knows it."),
            counter(f"{prefix}_connections", "Times that the agent was connected."),
            gauge(f"{prefix}_certificate_expiry_seconds", "When the agent's certificate expires, in Unix seconds."),
        )
        if self._link is not None:
            status, credentials = self._link.status, self._link.enrolment.credentials
            expires = credentials.expires if credentials is not None else None
            values = (status.connected, self._link.revision, status.connections, expires)
            for family, value in zip(families, values, strict=True):
                if value is not None:
                    family.add(value)
        yield from families

    def _health(self) -> Reply:
        """Workloads that are not as they are wanted are notes: an agent that is restarted does not mend them."""
        running = self._sorted()
        lost = [f"{e.workload.name}: {each}" for e in running if e.plane is not None for each in e.plane.repairs.lost]
        notes = [f"{each.workload.name}: {each.reason}" for each in running if each.reason]
        fleet = filter(None, [self._link.trouble if self._link is not None else ""])
        health = Health(notes=(*fleet, *(f"missing: {each}" for each in lost), *notes))
        return Reply.text(health.status, health.text)

    async def _classes(self, query: Query) -> Reply:
        lanes, plane, _ = self._asked(query)
        await plane.refresh(_FRESH_S)
        return Reply.json(to_json(self._classes_of(lanes, plane)))

    def _classes_of(self, lanes: WorkloadLanes, plane: DataPlane) -> Classes:
        status = plane.status()
        process = Process(lanes.chosen.datapath, time.monotonic() - self._began, 1, status.read_at)
        return classes_document(
            status.interface, status.policy.total, status.snapshots, lanes.counters.counts, process, status.received
        )

    async def _policy(self, query: Query) -> Reply:
        # Its words take a while to import.
        from datapath.documents.policy import Arriving, policy_document

        _, plane, _ = self._asked(query)
        s = plane.status()
        sent, received = await plane.classes_in_kernel()
        arriving = Arriving(received, s.ingress_classifier, s.limits)
        return Reply.json(to_json(policy_document(s.interface, {}, s.policy, s.ids, sent, s.capture, arriving)))

    async def _connections(self, query: Query) -> Reply:
        _, plane, rest = self._asked(query)
        limit, order = connections_asked(rest)
        return Reply.json(to_json(connections_document(await plane.connections(limit, order), order)))

    def _asked(self, query: Query) -> tuple[WorkloadLanes, DataPlane, Query]:
        """The workload that a query names, its data plane, and the rest of the query. Raises :class:`QueryError`."""
        rest = dict(query)
        name = rest.pop("workload", None)
        if name is None:
            raise QueryError("Ask with workload=NAME; /workloads has the names.")
        lanes = self._agent.running.get(name)
        if lanes is None:
            raise QueryError(f"There is no workload {name} here; /workloads has those that there are.")
        if lanes.plane is None:
            raise QueryError(f"The lanes of {name} are not in force ({lanes.state}). {lanes.reason}")
        return lanes, lanes.plane, rest
