"""Where in Kubernetes objects there are Pods, or templates for them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.pods import listed, mapping, metadata_of

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
}
"""By API group and kind: where in the object the Pod is."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A Pod or its template: ``path`` leads to it from the document's root; ``name`` as kubectl writes it."""

    path: Path
    name: str
    namespace: str
    pod: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Thing:
    """One Kubernetes object and the path to it."""

    path: Path
    data: Mapping[str, Any]

    @property
    def group(self) -> str:
        """The API group; empty for core/v1."""
        group, slash, _ = str(self.data.get("apiVersion", "")).rpartition("/")
        return group if slash else ""

    @property
    def kind(self) -> str:
        """As in ``kind``."""
        return str(self.data.get("kind", ""))

    @property
    def name(self) -> str:
        """The name, or what it will begin with."""
        about = metadata_of(self.data)
        return str(about.get("name") or about.get("generateName") or "")

    @property
    def namespace(self) -> str:
        """As written; empty where it is not."""
        return str(metadata_of(self.data).get("namespace") or "")


def things(document: Any, path: Path = ()) -> Iterator[Thing]:
    """The objects in a document: itself, or the items of a List."""
    data = mapping(document)
    if str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        for i, item in enumerate(listed(data["items"])):
            yield from things(item, (*path, "items", i))
    elif data:
        yield Thing(path, data)


def workload(thing: Thing) -> Workload | None:
    """The Pod in an object, or None where there is none."""
    inner = _PODS.get((thing.group, thing.kind))
    if inner is None:
        return None
    pod: Any = thing.data
    for key in inner:
        pod = mapping(pod).get(str(key))
    if not isinstance(pod, Mapping) or not isinstance(pod.get("spec"), Mapping):
        return None
    return Workload((*thing.path, *inner), f"{thing.kind}/{thing.name}", thing.namespace, pod)
