"""The EnvoyFilter that the operator makes of a TrafficPolicy or ClusterTrafficPolicy with ``spec.mesh``. Pure.

By it the Pods' own Envoy marks the connections that it opens by class, and the agent of the node takes these marks. The
policy's other connections, as those to names that the mesh does not know, are told apart as without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from traffic_policy.cluster.kinds import API_VERSION, CLUSTER_TRAFFIC_POLICY
from traffic_policy.cluster.objects import PolicyObject, PolicyVerdict
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.mesh.istio import envoy_filter
from traffic_policy.policy import TrafficPolicy as Policy
from traffic_policy.policy_file import policy_from_document

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "podlane-operator"
"""The label, and its value, of all objects that the operator makes."""
ROOT_NAMESPACE: Final = "istio-system"
"""An EnvoyFilter there is for Pods of all namespaces (istio.io, reference/config/networking/envoy-filter), unless the
mesh has another root namespace."""
_LONGEST_NAME: Final = 253
_DIGEST: Final = 8
_MOST_CONDITIONS: Final = 99


def mesh_faults(policy: PolicyObject, made: Policy) -> Iterator[Problem]:
    """Why ``spec.mesh`` cannot be had; ``made`` is the policy itself."""
    if policy.mesh is None or policy.target is None:
        return
    if policy.target.pod_selector.match_expressions:
        yield Problem(
            "podSelector.matchExpressions",
            "Istio's EnvoyFilter selects by labels that are equal.",
            "Write matchLabels alone, or remove mesh.",
        )
    if policy.namespace == ROOT_NAMESPACE:
        yield Problem(
            "mesh",
            f"An EnvoyFilter in {ROOT_NAMESPACE} is for Pods of all namespaces.",
            "Remove it, or write a ClusterTrafficPolicy.",
        )
    try:
        envoy_filter(made, alone=False)
    except PolicyError as error:
        for each in error.problems:
            yield Problem(each.path or "mesh", each.message, f"{each.remedy} Or remove mesh: then names are read.")


def owned_name(policy: PolicyObject) -> str:
    """The object's name, which no other policy has in a namespace."""
    separator = "." if policy.kind == CLUSTER_TRAFFIC_POLICY else "-"
    name = f"podlane{separator}{policy.name}"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST_NAME - _DIGEST - 1].rstrip('.-')}-{digest}"


def owned_filter(policy: PolicyObject, namespace: str) -> dict[str, Any]:
    """The object in one namespace. ``policy`` has no fault.

    Istio applies EnvoyFilters of a namespace by priority, and the last one counts; so they have the order in which
    policies win. It goes with its policy, which a garbage collector of the cluster sees to: a policy of the cluster may
    own what has a namespace (kubernetes.io, concepts/overview/working-with-objects/owners-dependents).
    """
    assert policy.target is not None
    made = envoy_filter(
        policy_from_document(policy.document),
        name=owned_name(policy),
        namespace=namespace,
        selector=policy.target.pod_selector.match_labels,
        alone=False,
    ).document
    owner = {"apiVersion": API_VERSION, "kind": policy.kind, "name": policy.name, "uid": policy.uid}
    about = {
        **made["metadata"],
        "labels": {MANAGED_BY: MANAGER, "app.kubernetes.io/part-of": "podlane"},
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
    }
    return {**made, "metadata": about, "spec": {**made["spec"], "priority": _priority(policy)}}


def _priority(policy: PolicyObject) -> int:
    nearer = 0 if policy.kind == CLUSTER_TRAFFIC_POLICY else 1_000_000
    asked = 0 if policy.target is None else policy.target.priority
    return nearer + asked * (_MOST_CONDITIONS + 1) + min(policy.conditions, _MOST_CONDITIONS)


def takes_marks(verdict: PolicyVerdict, policy: Policy) -> bool:
    """Whether the marks of the mesh's proxy say which class a Pod's connections are in.

    ``policy`` is what the Pod has in the end. Where its annotations add classes or change matches, those come first,
    and a mark that knows nothing of them must not decide.
    """
    if verdict.winner is None or verdict.winner.mesh is None:
        return False
    try:
        base = policy_from_document(verdict.winner.document)
    except PolicyError:
        return False
    return [(c.name, c.match) for c in base.classes] == [(c.name, c.match) for c in policy.classes]
