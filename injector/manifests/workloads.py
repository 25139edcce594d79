"""The location of Pods and Pod templates in Kubernetes objects. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.pods import mapping, metadata_of

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


@dataclass(frozen=True, slots=True)
class Workload:
    """A Pod or its template: ``path`` leads to it from the document's root; ``name`` as kubectl writes it."""

    path: Path
    name: str
    namespace: str
    pod: Mapping[str, Any]


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
    return Workload((*thing.path, *inner), f"{thing.kind}/{thing.name}", thing.namespace, pod)


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
