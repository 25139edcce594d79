"""Accessors for a Pod as unvalidated JSON data: values of the wrong type count as absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from injector.pod.containers import NAME, RESERVED_VOLUMES

INIT_CONTAINERS: Final = "initContainers"
CONTAINERS: Final = "containers"
VOLUMES: Final = "volumes"
PULL_SECRETS: Final = "imagePullSecrets"
_FORMER: Final = "podlane-prepare"
"""What version 0.1 could inject instead of a native sidecar: this init container, and ``podlane`` among the containers.
Both are still removed."""
RESERVED: Final[Mapping[str, tuple[str, ...]]] = {
    INIT_CONTAINERS: (NAME, _FORMER),
    CONTAINERS: (NAME,),
    VOLUMES: RESERVED_VOLUMES,
}
"""Names in the lists of a Pod's spec that are reserved for the injector."""
ISTIO_INIT: Final = ("istio-init", "istio-validation")
ISTIO_PROXY: Final = "istio-proxy"
LINKERD: Final = ("linkerd-init", "linkerd-network-validator", "linkerd-proxy")
"""Its init containers, the last of them if the proxy is a native sidecar."""
OTHER_MESHES: Final = {"linkerd-proxy": "Linkerd", "consul-dataplane": "Consul", "kuma-sidecar": "Kuma"}
"""Proxies of other meshes, by the container's name."""
_OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")
_MIRROR: Final = "kubernetes.io/config.mirror"
"""On the API server's copy of a static Pod (k8s.io/api/core/v1, MirrorPodAnnotationKey)."""


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, (dict, Mapping)) else {}  # dict first: the other takes ten times as long


def listed(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def name_of(item: object) -> str:
    """The item's name; an empty text if it has none."""
    name = mapping(item).get("name")
    return name if isinstance(name, str) else ""


def spec_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(pod.get("spec"))


def metadata_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(pod.get("metadata"))


def annotations_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Pod's annotations; in manifests, values need not be texts."""
    return mapping(metadata_of(pod).get("annotations"))


def with_annotations(pod: Mapping[str, Any], added: Mapping[str, str]) -> Mapping[str, Any]:
    """The Pod with further annotations."""
    if not added:
        return pod
    return {**pod, "metadata": {**metadata_of(pod), "annotations": {**annotations_of(pod), **added}}}


def labels_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Pod's labels; in manifests, values need not be texts."""
    return mapping(metadata_of(pod).get("labels"))


def controller_of(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference of the controller that made an object (k8s.io/apimachinery, metav1.GetControllerOf)."""
    owners = map(mapping, listed(metadata_of(found).get("ownerReferences")))
    return next((owner for owner in owners if owner.get("controller") is True), None)


def all_containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Init containers and containers, without ephemeral ones."""
    for key in (INIT_CONTAINERS, CONTAINERS):
        yield from (mapping(item) for item in listed(spec_of(pod).get(key)))


def names(pod: Mapping[str, Any], key: str) -> list[str]:
    """The names in one list of the spec, in order."""
    return [name_of(item) for item in listed(spec_of(pod).get(key))]


def is_windows(pod: Mapping[str, Any]) -> bool:
    """By its ``os``, its node selector, or a node affinity of which each alternative requires it."""
    spec = spec_of(pod)
    selected = (mapping(spec.get("nodeSelector")).get(label) for label in _OS_LABELS)
    if "windows" in (mapping(spec.get("os")).get("name"), *selected):
        return True
    affinity = mapping(mapping(spec.get("affinity")).get("nodeAffinity"))
    required = mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = listed(required.get("nodeSelectorTerms"))
    return bool(terms) and all(any(map(_is_for_windows, listed(mapping(t).get("matchExpressions")))) for t in terms)


def _is_for_windows(requirement: object) -> bool:
    """Whether a NodeSelectorRequirement leaves Windows, and not Linux."""
    about = mapping(requirement)
    values = listed(about.get("values"))
    if about.get("key") not in _OS_LABELS:
        return False
    if about.get("operator") == "In":
        return "windows" in values and "linux" not in values
    return about.get("operator") == "NotIn" and "linux" in values and "windows" not in values


def is_mirror(pod: Mapping[str, Any]) -> bool:
    """Whether this is a mirror of a static Pod: changing it has no effect."""
    return _MIRROR in annotations_of(pod)


def has_istio(pod: Mapping[str, Any]) -> bool:
    return any(name_of(c) in (ISTIO_PROXY, *ISTIO_INIT) for c in all_containers(pod))


def other_mesh(pod: Mapping[str, Any]) -> str | None:
    """The name of another mesh whose proxy is in the Pod."""
    return next((OTHER_MESHES[n] for c in all_containers(pod) if (n := name_of(c)) in OTHER_MESHES), None)


def termination_grace(pod: Mapping[str, Any]) -> int:
    """terminationGracePeriodSeconds; 30 by default (k8s.io/api/core/v1, PodSpec)."""
    value = spec_of(pod).get("terminationGracePeriodSeconds")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 30
