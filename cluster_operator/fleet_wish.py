"""What a control plane is to know of a policy of the cluster: its record there, as far as it can be said there. Pure.

A fleet selects by labels that must be equal, those of Pods and of nodes, and by the namespace as a label
(:mod:`traffic_policy.selection`). What a record selects, its object selects, too, and is nearer to the Pod: an agent
that has both puts the object in force, and the record changes nothing there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY
from traffic_policy.cluster.label_selector import LabelOperator, LabelSelector
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.policy_file import policy_from_document
from traffic_policy.selection import CLUSTER_LABEL, NAMESPACE_LABEL

_LONGEST: Final = 63
"""Characters of a policy's name in a control plane."""
_NAME_OF_NAMESPACE: Final = "kubernetes.io/metadata.name"
"""A label that each namespace has, with its name."""
_LONGEST_REASON: Final = 450
_OTHER: Final = re.compile(r"[^a-z0-9-]+")


class NotExpressibleError(Exception):
    """A policy cannot be said to a control plane; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class FleetWish:
    """What a record is to be. ``reason`` goes into the audit log."""

    name: str
    document: Mapping[str, Any]
    selector: Mapping[str, str]
    nodes: Mapping[str, str]
    reason: str

    @property
    def content(self) -> dict[str, Any]:
        """As the control plane tells and takes it."""
        return {"document": self.document, "selector": self.selector, "nodes": self.nodes}


def prefix_of(cluster: str) -> str:
    """With which the names of all records of a cluster begin, and no other names: ``k8s-4f0a2b-``."""
    return f"k8s-{_digest(cluster)[:6]}-"


def record_name(cluster: str, policy: PolicyObject) -> str:
    """The same for each object of this kind, namespace and name, also one that was deleted and made again."""
    place = [cluster, policy.kind, policy.namespace, policy.name]
    start, end = prefix_of(cluster), f"-{_digest('/'.join(place))[:8]}"
    readable = _OTHER.sub("-", "-".join(part for part in (policy.namespace, policy.name) if part))
    return start + readable[: _LONGEST - len(start) - len(end)].strip("-") + end


def fleet_wish(policy: PolicyObject, cluster: str, user: str) -> FleetWish:
    """The record of a policy that agents can honour. ``user``: who has changed it last, as its managedFields say.

    Raises :class:`NotExpressibleError`.
    """
    assert policy.target is not None
    if not policy.document:
        raise NotExpressibleError("It has caps alone, which a control plane does not know: agents keep them.")
    if policy.caps is not None:
        raise NotExpressibleError(
            "A control plane does not know caps. Write them as a ClusterTrafficPolicy of their own, without a total."
        )
    selector = dict(_equal(policy.target.pod_selector, "podSelector"))
    if policy.kind == CLUSTER_TRAFFIC_POLICY:
        for key, value in _equal(policy.namespace_selector, "namespaceSelector"):
            if key != _NAME_OF_NAMESPACE:
                raise NotExpressibleError(
                    f"A control plane does not know the label {key} of namespaces. Select one by the label "
                    f"{_NAME_OF_NAMESPACE}, or Pods by a label of theirs."
                )
            selector[NAMESPACE_LABEL] = value
    else:
        selector[NAMESPACE_LABEL] = policy.namespace
    place = f"{policy.kind} {policy.namespace}/{policy.name}" if policy.namespace else str(policy)
    reason = f"source: kubernetes, cluster {cluster}: {place}, generation {policy.generation}"
    return FleetWish(
        record_name(cluster, policy),
        policy_from_document(policy.document).to_document(),
        dict(sorted(selector.items())),
        {CLUSTER_LABEL: cluster},
        (f"{reason}, by {user}" if user else reason)[:_LONGEST_REASON],
    )


def last_user(managed: object) -> str:
    """Who has changed an object last, but for its status: the manager that ``metadata.managedFields`` names."""
    entries = [each for each in managed if isinstance(each, Mapping)] if isinstance(managed, list) else []
    own = [each for each in entries if not each.get("subresource")]
    latest = max(own, key=lambda each: str(each.get("time", "")), default={})
    return str(latest.get("manager", ""))


def _equal(selector: LabelSelector, where: str) -> Iterator[tuple[str, str]]:
    """The labels that must have certain values. Raises :class:`NotExpressibleError` for other conditions."""
    yield from selector.match_labels.items()
    for each in selector.match_expressions:
        if each.operator is not LabelOperator.IN or len(each.values) != 1:
            raise NotExpressibleError(
                f"{where} has a condition on {each.key} ({each.operator}) that a control plane cannot have: it selects "
                "by labels that are equal. Use matchLabels, or a policy for each value."
            )
        yield each.key, each.values[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
