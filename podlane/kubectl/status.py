"""``kubectl podlane status``: the agents of a cluster, and what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from daemon.documents.node import NodeClasses, WorkloadClasses
from podlane.kubectl.agents import AgentPod
from podlane.kubectl.cluster import Cluster
from podlane.kubectl.errors import ClusterError
from podlane.kubectl.reach import all_agents, document
from podlane.text_output import bold, prose, table
from podlane.top.readings import duration_words

_TOGETHER: Final = 8
"""Agents that are asked at once: each takes a process of kubectl."""
_NONE: Final = "–"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node. ``agent`` None: it has none. ``told`` None: it could not be asked, and ``trouble`` says why."""

    node: str
    agent: AgentPod | None = None
    told: NodeClasses | None = None
    trouble: str = ""

    @property
    def version(self) -> str:
        """That of the agent that runs; else its image's, by the chart's label."""
        return (self.told.version if self.told else None) or (self.agent.version if self.agent else "") or _NONE


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All nodes that are known."""

    nodes: tuple[NodeStatus, ...]
    notes: tuple[str, ...] = ()


def cluster_status(cluster: Cluster) -> ClusterStatus:
    """Ask for it. Raises :class:`ClusterError` if not even the agents can be listed."""
    agents, notes = all_agents(cluster), list[str]()
    names = set(agents)
    try:
        names |= {each["metadata"]["name"] for each in cluster.get("nodes")["items"]}
    except ClusterError as error:
        notes.append(f"Nodes without an agent are not known. {error}")
    with ThreadPoolExecutor(_TOGETHER) as pool:
        nodes = tuple(pool.map(lambda name: _node(cluster, name, agents.get(name)), sorted(names)))
    return ClusterStatus(nodes, tuple(notes))


def _node(cluster: Cluster, name: str, agent: AgentPod | None) -> NodeStatus:
    if agent is None:
        return NodeStatus(name, trouble="no agent")
    try:
        with cluster.forwarded(agent.namespace, agent.name, agent.port) as port:
            return NodeStatus(name, agent, document(port, "/node", NodeClasses), agent.trouble)
    except ClusterError as error:
        return NodeStatus(
            name, agent, None, " ".join(filter(None, (agent.trouble and f"{agent.trouble}.", str(error))))
        )


def status_lines(status: ClusterStatus, namespace: str | None = None) -> Iterator[str]:
    """For a terminal; with a ``namespace`` only its Pods."""
    rows: list[tuple[str, ...]] = [("node", "agent", "version", "up", "mode", "pods", "in lanes")]
    rows += [_row(each, namespace) for each in status.nodes]
    yield from table(rows, {0, 1, 2, 3, 4})
    troubles = [f"{each.node}: {each.trouble}" for each in status.nodes if each.trouble and each.agent is not None]
    others = [w for each in status.nodes for w in _workloads(each, namespace) if w.reason]
    if others:
        yield ""
        yield bold("Not as they are wanted")
        for each in others:
            yield from prose(f"{each.name}  {each.state}: {each.reason}", "  ", "    ")
    if troubles or status.notes:
        yield ""
        for note in (*troubles, *status.notes):
            yield from prose(note, "- ", "  ")


def _row(each: NodeStatus, namespace: str | None) -> tuple[str, ...]:
    if each.agent is None:
        return (each.node, each.trouble, _NONE, _NONE, _NONE, _NONE, _NONE)
    if each.told is None:
        return (each.node, each.agent.name, each.version, _NONE, each.agent.mode.value, _NONE, _NONE)
    workloads = _workloads(each, namespace)
    return (
        each.node,
        each.agent.name,
        each.version,
        duration_words(each.told.uptime_seconds),
        each.told.mode,
        str(len(workloads)),
        str(sum(w.classes is not None for w in workloads)),
    )


def _workloads(each: NodeStatus, namespace: str | None) -> list[WorkloadClasses]:
    told = () if each.told is None else each.told.workloads
    return [w for w in told if namespace is None or w.name.startswith(f"{namespace}/")]


def status_document(status: ClusterStatus, namespace: str | None = None) -> dict[str, Any]:
    """As data."""
    return {"nodes": [_document(each, namespace) for each in status.nodes], "notes": list(status.notes)}


def _document(each: NodeStatus, namespace: str | None) -> dict[str, Any]:
    workloads = _workloads(each, namespace)
    return {
        "node": each.node,
        "agent": None if each.agent is None else f"{each.agent.namespace}/{each.agent.name}",
        "version": None if each.version == _NONE else each.version,
        "mode": None if each.agent is None else each.agent.mode.value,
        "uptime_seconds": None if each.told is None else each.told.uptime_seconds,
        "trouble": each.trouble,
        "states": None if each.told is None else dict(Counter(w.state for w in workloads)),
        "not_as_wanted": [{"pod": w.name, "state": w.state, "reason": w.reason} for w in workloads if w.reason],
    }
