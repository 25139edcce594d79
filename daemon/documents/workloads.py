"""``/workloads``: what the node agent keeps in force, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """One workload."""

    name: str
    """NAMESPACE/POD, or its name in the file of workloads."""
    state: str
    """waiting, programmed, refused or failed."""
    reason: str
    """Why it is not programmed, or not as it is wanted now; empty without a reason."""
    network_namespace: str | None
    """Path. Null: not known yet."""
    interface: str | None
    """The one that is shaped. Null while its lanes are not in force."""
    datapath: str | None
    """How first bytes are seen there: ebpf or step-aside. Null while its lanes are not in force."""
    datapath_reason: str
    """Why it steps aside where programs in the kernel are wanted; empty without a reason."""
    hash: str | None
    """SHA-256 of what is wanted, in hexadecimal. Null: its policy cannot be honoured."""
    policy: Mapping[str, object] | None
    """What is in force, in the grammar of policy files."""
    lost: tuple[str, ...]
    """What another program has removed of what was installed, and is not there now."""
    warnings: tuple[str, ...]
    """About its policy, whole sentences."""
    fleet_policy: str | None = None
    """Name of the control plane's policy that it has. Left out: none of these."""
    cluster_policy: str | None = None
    """The TrafficPolicy or ClusterTrafficPolicy that it has, with the generation that was read, as in TrafficPolicy
    shop/web, generation 3. Left out: none of these."""
    enforce: str | None = None
    """Which end of its link holds it: pod or host. Left out while its lanes are not in force."""
    enforce_reason: str | None = None
    """Why that is not the node's end, where that is wanted. Left out without a reason."""
    budget: str | None = None
    """What it may send together with the other workloads of this node that its policy governs, as in 500Mbit. Left out:
    its policy has no budget."""
    budget_of: str | None = None
    """Whose budget that is, as in TrafficPolicy shop/web."""
    budget_pods: int | None = None
    """By how many workloads of this node it is shared."""
    share: str | None = None
    """What it has of the budget now: the total to which it is held."""
    marked_by: str | None = None
    """The mesh's proxy whose marks say the class of its connections, as in Istio (gid 1337). Left out: none."""


@dataclass(frozen=True, slots=True)
class Workloads:
    """All workloads of a node."""

    workloads: tuple[WorkloadStatus, ...]
    """By name."""
