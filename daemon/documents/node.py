"""``/node``: the classes of all workloads of a node agent, in one answer."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.documents.classes import Classes


@dataclass(frozen=True, slots=True)
class WorkloadClasses:
    """One workload."""

    name: str
    """NAMESPACE/POD, or its name in the file of workloads."""
    state: str
    """waiting, programmed, refused or failed."""
    reason: str
    """Why it is not programmed, or not as it is wanted now; empty without a reason."""
    classes: Classes | None
    """As in /classes, with the counters that the agent has read last, once a second. Null: it has no lanes."""


@dataclass(frozen=True, slots=True)
class ControlPlaneLink:
    """The agent's connection to a control plane."""

    connected: bool
    """Whether it is connected now."""
    since: float
    """When that began, in Unix seconds."""
    address: str
    """Of the control plane, HOST:PORT; the last one tried, while it is not connected."""
    revision: int
    """Of what the control plane desires, as the agent knows it. 0: it has said nothing yet."""
    error: str
    """Why it is not connected; empty without a reason."""
    certificate_expires: float | None
    """Unix seconds. Null: the agent has no certificate."""


@dataclass(frozen=True, slots=True)
class NodeClasses:
    """A node agent, and all that it keeps in force."""

    node: str | None
    """Name of the Kubernetes node. Null: the workloads are those of a file."""
    version: str | None
    """Of the agent. Null: it runs from its source."""
    mode: str
    """Mode of Pods where neither they nor their namespaces say one: agent or none."""
    uptime_seconds: float
    """Since the agent started."""
    workloads: tuple[WorkloadClasses, ...]
    """By name."""
    control_plane: ControlPlaneLink | None = None
    """Left out: the agent has none."""
