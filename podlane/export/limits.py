"""What the objects of a namespace say about limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from injector.pod.pods import annotations_of, controller_of, labels_of, mapping
from injector.pod.workloads import Thing, Workload, things, workload
from podlane.export.groups import LimitedWorkload
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import TRAFFIC_POLICY
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.pod.annotations import (
    ANNOTATIONS,
    CLASSES,
    DEFAULT_CLASS,
    EGRESS,
    INGRESS,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    POLICY,
    PREFIX,
    SHARED_POLICY_KEY,
)
from traffic_policy.pod.effective import AnnotationsError, effective, has_limits, shared_policy_name
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

SharedText = Callable[[str], str | None]
"""The policy in a ConfigMap of the namespace, by name; None: there is none."""
_LIMITS: Final = (EGRESS, INGRESS, CLASSES, DEFAULT_CLASS, POLICY)
_SETTINGS: Final = tuple(name for name in ANNOTATIONS if name not in _LIMITS)


@dataclass(slots=True)
class NamespaceObjects:
    """What of a namespace matters; ``shared`` has the policies in ConfigMaps, by name."""

    name: str
    rules: NamespaceRules = NO_RULES
    workloads: list[Workload] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class NamespaceLimits:
    """Workloads with their policies; ``problems`` are sentences that say why some have none, ``notes`` what else must
    be known."""

    namespace: str
    workloads: list[LimitedWorkload] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def by_namespace(documents: Iterable[Any], default: str = "") -> dict[str, NamespaceObjects]:
    """The objects in documents by their namespace; ``default`` is that of those that say none. Pods and others that a
    workload among them made are left out. Raises :class:`AnnotationsError` for a namespace with wrong annotations."""
    found = [thing for document in documents for thing in things(document)]
    made: dict[str, NamespaceObjects] = {}
    there = {(each.namespace or default, each.kind, each.name) for each in found if workload(each) is not None}
    for each in found:
        where = each.name if each.kind == "Namespace" else each.namespace or default
        objects = made.setdefault(where, NamespaceObjects(where))
        if (each.group, each.kind) == ("", "Namespace"):
            annotations = {key: text for key, text in annotations_of(each.data).items() if str(key).startswith(PREFIX)}
            objects.rules = NamespaceRules.from_annotations(annotations, labels_of(each.data))
        elif (each.group, each.kind) == ("", "ConfigMap"):
            text = mapping(each.data.get("data")).get(SHARED_POLICY_KEY)
            if isinstance(text, str):
                objects.shared[each.name] = text
        elif (inside := workload(each)) is not None and not _made_by_another(each, where, there):
            objects.workloads.append(inside)
    return {name: objects for name, objects in made.items() if objects.workloads}


def limits_in(objects: NamespaceObjects, shared: SharedText) -> NamespaceLimits:
    """What the Pods of its workloads have."""
    limits = NamespaceLimits(objects.name)
    for each in objects.workloads:
        labels = {key: str(value) for key, value in labels_of(each.pod).items()}
        own = {key: text for key, text in annotations_of(each.pod).items() if isinstance(text, str)}
        annotations = {**objects.rules.missing(own), **own}
        if not has_limits(annotations):
            limits.workloads.append(LimitedWorkload(each.name, labels))
            continue
        try:
            document = _document(annotations, shared)
        except AnnotationsError as error:
            limits.problems.append(f"{each.name} is left out. {error}")
            limits.workloads.append(LimitedWorkload(each.name, labels))
            continue
        if unfit := [*_unfit(document)]:
            limits.problems.append(f"{each.name} is left out: no TrafficPolicy can say it. {' '.join(unfit)}")
            limits.workloads.append(LimitedWorkload(each.name, labels))
            continue
        staying = tuple(name for name in _SETTINGS if name in own)
        limits.workloads.append(LimitedWorkload(each.name, labels, document, staying))
        for name in (KUBERNETES_EGRESS, KUBERNETES_INGRESS):
            if name in own:
                limits.notes.append(
                    f"{each.name} has {name}, which a bandwidth plugin of the cluster may hold it to as well. "
                    "The policy says the same; take the annotation away when it is in force."
                )
    return limits


def _document(annotations: Mapping[str, str], shared: SharedText) -> dict[str, Any]:
    name = shared_policy_name(annotations)
    policy = effective(annotations, shared=None if name is None else shared(name)).policy
    return policy.to_document()


def _unfit(document: Mapping[str, Any]) -> Iterator[str]:
    """What of a policy the grammar of TrafficPolicies has not, or no agent can honour."""
    return map(str, faults(PolicyObject.from_object(TRAFFIC_POLICY, {"metadata": {}, "spec": document})))


def _made_by_another(thing: Thing, where: str, there: Collection[tuple[str, str, str]]) -> bool:
    owner = controller_of(thing.data)
    return owner is not None and (where, str(owner.get("kind")), str(owner.get("name"))) in there
