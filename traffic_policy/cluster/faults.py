"""What is wrong with a policy of a cluster beyond what its definition can say. Pure."""

from __future__ import annotations

from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.mesh.owned import mesh_faults
from traffic_policy.policy_file import policy_from_document
from traffic_policy.scope import beyond_agent


def faults(policy: PolicyObject) -> tuple[Problem, ...]:
    """Why no agent can honour a policy; none: it can be."""
    if policy.problem:
        return (Problem("", policy.problem),)
    if not policy.document and policy.kind == CLUSTER_TRAFFIC_POLICY:
        return ()  # caps alone
    try:
        made = policy_from_document(policy.document)
    except PolicyError as error:
        return error.problems
    return (*beyond_agent(made), *mesh_faults(policy, made))
