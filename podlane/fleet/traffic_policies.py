"""TrafficPolicies, as clusters have them, as policies of a control plane. Pure.

A control plane selects by labels that must be equal, so that not every selector of a cluster can be said to it. What it
cannot express is refused: a policy must not mean more Pods, or fewer, than where it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from injector.manifests.yaml_tree import LOADER
from traffic_policy.cluster.kinds import GROUP, KINDS
from traffic_policy.cluster.label_selector import LabelOperator, LabelSelector
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.errors import ConfigError
from traffic_policy.selection import NAMESPACE_LABEL

_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that each Namespace has with its name."""


@dataclass(frozen=True, slots=True)
class FleetTrafficPolicy:
    """A policy of a control plane; ``origin`` is how it is told."""

    name: str
    document: Mapping[str, Any]
    selector: Mapping[str, str]
    origin: str


def fleet_policies(text: str, source: str) -> tuple[FleetTrafficPolicy, ...] | None:
    """The policies of a stream or List of TrafficPolicies and ClusterTrafficPolicies; None: it is something else.

    Raises :class:`ConfigError` with everything that no control plane can express.
    """
    try:
        objects = [each for document in yaml.load_all(text, LOADER) for each in _objects(document)]
    except yaml.YAMLError:
        return None  # whoever reads it as a policy tells what is wrong
    if not any(_is_ours(each) for each in objects):
        return None
    problems: list[str] = []
    made: dict[str, FleetTrafficPolicy] = {}
    for each in objects:
        if not _is_ours(each):
            problems.append(f"{each.get('kind')}: This is no policy. Leave nothing but TrafficPolicies in the file.")
            continue
        found = PolicyObject.from_object(each["kind"], each)
        try:
            policy = _fleet_policy(found)
        except ConfigError as error:
            problems.append(f"{found}: {error}")
            continue
        if policy.name in made:
            problems.append(
                f"{policy.origin}: {made[policy.name].origin} has the same name, of which a control plane has one. "
                "Rename one of them."
            )
        made[policy.name] = policy
    if problems:
        raise ConfigError("\n".join(f"{source}: {line}" for line in problems))
    return tuple(made.values())


def refuse_other_namespaces(policies: Sequence[FleetTrafficPolicy], there: Iterable[Mapping[str, Any]]) -> None:
    """Raise :class:`ConfigError` where a policy of the same name is for Pods of another namespace: it would be taken
    from these. ``there`` are the control plane's policies, as it lists them."""
    known = {each["name"]: each["in_force"] or each["draft"] or {} for each in there}
    for each in policies:
        old = known.get(each.name)
        if old is None:
            continue
        of_old = old.get("selector", {}).get(NAMESPACE_LABEL)
        if of_old != each.selector.get(NAMESPACE_LABEL):
            where = f"namespace {of_old}" if of_old else "no single namespace"
            raise ConfigError(
                f"{each.origin}: The control plane has a policy {each.name} for {where}. Rename one of them."
            )


def _objects(document: Any) -> list[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return []
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        return [each for item in items for each in _objects(item)]
    return [document]


def _is_ours(document: Mapping[str, Any]) -> bool:
    return str(document.get("apiVersion", "")).partition("/")[0] == GROUP and document.get("kind") in KINDS


def _fleet_policy(found: PolicyObject) -> FleetTrafficPolicy:
    """Raises :class:`ConfigError`."""
    if found.target is None:
        raise ConfigError(found.problem)
    if not found.name:
        raise ConfigError("It has no metadata.name. Add it.")
    if found.target.priority:
        raise ConfigError(
            "spec.priority: A control plane has none: the policy with more labels counts. Remove it, and select more."
        )
    if found.caps is not None:
        raise ConfigError("spec.caps: A control plane has none for labels. Apply it to the clusters by kubectl.")
    if found.mesh is not None:
        raise ConfigError("spec.mesh: A control plane makes no objects of a mesh. Remove it, or apply this by kubectl.")
    selector = _equal(found.target.pod_selector, "podSelector")
    namespace = found.namespace
    if above := _equal(found.namespace_selector, "namespaceSelector"):
        if set(above) != {_NAMESPACE_NAME}:
            raise ConfigError(
                "spec.namespaceSelector: A control plane knows the names of namespaces alone. Select by the label "
                f"{_NAMESPACE_NAME}, or apply it to the clusters by kubectl."
            )
        namespace = above[_NAMESPACE_NAME]
    elif not namespace and found.kind == KINDS[0]:
        raise ConfigError("It has no metadata.namespace, so that it would be for all. Add it.")
    if namespace:
        selector = {**selector, NAMESPACE_LABEL: namespace}
    origin = f"{found.kind} {namespace}/{found.name}" if found.namespace else str(found)
    return FleetTrafficPolicy(found.name, found.document, selector, origin)


def _equal(selector: LabelSelector, key: str) -> dict[str, str]:
    """A selector as labels with values. Raises :class:`ConfigError`."""
    labels = dict(selector.match_labels)
    for i, each in enumerate(selector.match_expressions):
        if each.operator is not LabelOperator.IN or len(each.values) != 1:
            raise ConfigError(
                f"spec.{key}.matchExpressions[{i}]: A control plane selects by labels that are equal, not by "
                f"{each.operator.value}. Write matchLabels, in a policy for each value."
            )
        if labels.setdefault(each.key, each.values[0]) != each.values[0]:
            raise ConfigError(f"spec.{key}: No Pod has two values of the label {each.key}. Leave one.")
    return labels
