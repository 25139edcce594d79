"""Which datapath a workload has. Pure.

Programs in the kernel take next to nothing of the agent's time, and what they can read is decided as before while there
is no agent. So they are used for each workload that they can serve. The others step aside, which serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datapath.ebpf.policy_maps import MOST_MATCHES
from datapath.mesh.check import beyond_mesh
from datapath.mesh.types import MeshProxy
from node_agent.workload import WantedLanes
from traffic_policy.policy import TrafficPolicy
from traffic_policy.scope import beyond_ebpf
from traffic_policy.settings import AgentDatapath, Datapath

_ASKED: Final = {
    AgentDatapath.AUTO: None,
    AgentDatapath.EBPF: Datapath.EBPF,
    AgentDatapath.STEP_ASIDE: Datapath.STEP_ASIDE,
}


@dataclass(frozen=True, slots=True)
class NodeDatapath:
    """What holds for all workloads of a node. ``obstacle``: why its kernel takes no programs; empty if it does."""

    asked: AgentDatapath = AgentDatapath.AUTO
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class ChosenDatapath:
    """The datapath of a workload. ``reason``: why it is not ebpf, as a sentence; empty if it is, or is not wanted."""

    datapath: Datapath
    reason: str = ""


def choose(
    node: NodeDatapath, lanes: WantedLanes, mesh: MeshProxy | None, obstacle: str = "", *, at_node: bool = False
) -> ChosenDatapath:
    """The datapath for these lanes, with the mesh's proxy that was found there. ``obstacle`` is the workload's own.

    ``at_node``: programs are at the node's end, where they also tell the class of what arrives."""
    asked = lanes.datapath or _ASKED[node.asked]
    if asked is Datapath.STEP_ASIDE:
        return ChosenDatapath(Datapath.STEP_ASIDE)
    reason = obstacle or node.obstacle or _beyond_programs(lanes.policy, mesh, at_node=at_node)
    return ChosenDatapath(Datapath.STEP_ASIDE if reason else Datapath.EBPF, reason)


def _beyond_programs(policy: TrafficPolicy, mesh: MeshProxy | None, *, at_node: bool) -> str:
    """Why programs cannot put a policy in force; empty if they can."""
    for problem in beyond_ebpf(policy, at_node=at_node):
        return problem.message
    matches = sum(1 for _ in policy.rules())
    if matches > MOST_MATCHES:
        return f"The policy has {matches} matches; datapath: ebpf takes {MOST_MATCHES}."
    return beyond_mesh(policy, mesh, Datapath.EBPF) or ""
