"""Which datapath a workload has. Pure.

Programs in the kernel take next to nothing of the agent's time, and what they can read is decided as before while there
is no agent. So they are used for each workload that they can serve. The others step aside, which serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datapath.ebpf.numbered_matches import too_many
from datapath.mesh.types import MeshProxy
from node_agent.workload import WantedLanes
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
    reason = obstacle or node.obstacle or _beyond_programs(lanes, mesh, at_node=at_node)
    return ChosenDatapath(Datapath.STEP_ASIDE if reason else Datapath.EBPF, reason)


def _beyond_programs(lanes: WantedLanes, mesh: MeshProxy | None, *, at_node: bool) -> str:
    """Why programs cannot put a policy in force; empty if they can."""
    for problem in beyond_ebpf(lanes.policy, at_node=at_node):
        return problem.message
    if lanes.mesh_marks and mesh is not None and mesh.group is not None:
        return (
            f"The marks of {mesh.title}'s proxy say the class of its connections (mesh of the policy). Programs cannot "
            "tell that proxy's sockets from others that set such marks, as rules can by their group."
        )
    return too_many((match for _, match in lanes.policy.rules()), services=mesh is not None and mesh.service_names)
