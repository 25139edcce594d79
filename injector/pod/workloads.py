"""The location of Pods and Pod templates in Kubernetes objects. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.pods import annotations_of, labels_of, mapping, metadata_of
from traffic_policy.pod.annotations import INJECT_LABEL, PREFIX

Path = tuple[str | int, ...]

_TEMPLATE: Final[Path] = ("spec", "template")
_PODS: Final[Mapping[tuple[str, str], Path]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
    ("argoproj.io", "Rollout"): _TEMPLATE,
    ("apps.openshift.io", "DeploymentConfig"): _TEMPLATE,
}
"""The path to the Pod in the object, by API group and kind."""
_TOLD: Final = 3
"""Misplaced annotations that are named."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A Pod or its template: ``path`` leads to it from the document's root; ``name`` as kubectl writes it.

    ``around`` is the object that it is in, and ``place`` where in it, as in ``spec.template``; empty for a Pod.
    """

    path: Path
    name: str
    namespace: str
    pod: Mapping[str, Any]
    around: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class Thing:
    """One Kubernetes object and the path to it.

    ``group`` is empty for core/v1; ``name`` may be a ``generateName`` prefix; ``namespace`` is as written.
    """

    path: Path
    data: Mapping[str, Any]
    group: str
    kind: str
    name: str
    namespace: str


def things(document: Any, path: Path = ()) -> Iterator[Thing]:
    """The objects in a document: itself, or the items of a List."""
    data = mapping(document)
    kind = str(data.get("kind", ""))
    if kind.endswith("List") and isinstance(data.get("items"), list):
        for i, item in enumerate(data["items"]):
            yield from things(item, (*path, "items", i))
    elif data:
        group, slash, _ = str(data.get("apiVersion", "")).rpartition("/")
        about = metadata_of(data)
        name = str(about.get("name") or about.get("generateName") or "")
        yield Thing(path, data, group if slash else "", kind, name, str(about.get("namespace") or ""))


def workload(thing: Thing) -> Workload | None:
    """The Pod in an object, or None if there is none."""
    inner = _PODS.get((thing.group, thing.kind))
    if inner is None:
        return None
    pod: Any = thing.data
    for key in inner:
        pod = mapping(pod).get(str(key))
    if not isinstance(pod, Mapping) or not isinstance(pod.get("spec"), Mapping):
        return None
    name, place = f"{thing.kind}/{thing.name}", ".".join(map(str, inner))
    return Workload((*thing.path, *inner), name, thing.namespace, pod, thing.data, place)


def misplaced(found: Workload) -> Iterator[str]:
    """A warning of annotations and labels on the object around a template that nobody reads there."""
    if not found.place:
        return
    around, inside = annotations_of(found.around), annotations_of(found.pod)
    names = [name[:100] for name in around if isinstance(name, str) and name.startswith(PREFIX) and name not in inside]
    if INJECT_LABEL in labels_of(found.around) and INJECT_LABEL not in labels_of(found.pod):
        names.append(f"label {INJECT_LABEL}")
    if names:
        yield (
            f"{', '.join(names[:_TOLD])}: in metadata of {found.name[:100]} this counts for nothing. "
            f"Write it in {found.place}.metadata."
        )


def has_containers(thing: Thing) -> bool:
    """Whether there is anything in the object that looks like a Pod's containers."""
    stack: list[Any] = [thing.data]
    while stack:
        found = stack.pop()
        if isinstance(found, Mapping):
            containers = found.get("containers")
            if isinstance(containers, list) and any("image" in mapping(each) for each in containers):
                return True
            stack += found.values()
        elif isinstance(found, list):
            stack += found
    return False
