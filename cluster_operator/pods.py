"""What the operator knows of Pods, Namespaces and reports. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traffic_policy.cluster.objects import PodLabels
from traffic_policy.pod.annotations import (
    EFFECTIVE,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    MODE_LABEL,
    POLICY,
    PREFIX,
    STATUS,
)
from traffic_policy.pod.governed import NOTHING

_ENDED = ("Succeeded", "Failed")
_SIDECAR = "podlane"
"""The name of an injected container."""
_ISTIO_PROXY = "istio-proxy"


@dataclass(frozen=True, slots=True)
class EnvoyOfPod:
    """Istio's proxy in the Pod of this name. ``marks``: it is given what setting marks takes."""

    pod: str
    marks: bool


@dataclass(frozen=True, slots=True)
class SidecarState:
    """The sidecar in a Pod: the Pod's name and ``annotations`` about limits, and whether the container is ready."""

    pod: str
    annotations: Mapping[str, str]
    ready: bool


@dataclass(frozen=True, slots=True)
class WatchedPod:
    """A Pod whose processes may run. ``created`` is RFC 3339; ``obstacle`` says why it has no policy of the cluster;
    empty: nothing keeps it from one. ``placed``: it has a node, and its containers have begun to run."""

    uid: str
    namespace: str
    labels: Mapping[str, str]
    created: str
    placed: bool
    obstacle: str = ""
    own_policy: str = ""
    """The ConfigMap that its annotations name as its policy."""
    sidecar: SidecarState | None = None
    """None: it has none, or one that does not follow policies."""
    envoy: EnvoyOfPod | None = None
    """None: Istio's proxy is not in it."""
    relayed: bool = False
    """Whether it has a sidecar of ours, which takes no marks of others."""


@dataclass(frozen=True, slots=True)
class ReportedPod:
    """What an agent says of a Pod: see ``traffic_policy.cluster.status_schema.REPORT``."""

    policy: str
    generation: int
    state: str
    reason: str
    clamped: str
    others: str = ""


def needed_of_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`watched_pod` reads of a Pod: of ten thousand bytes some hundred."""
    about, spec = _mapping(pod.get("metadata")), _mapping(pod.get("spec"))
    annotations = _mapping(about.get("annotations"))
    kept: dict[str, Any] = {key: about.get(key) for key in ("namespace", "uid", "labels", "creationTimestamp")}
    containers = [_mapping(each) for key in ("initContainers", "containers") for each in spec.get(key) or ()]
    sidecar = any(each.get("name") == _SIDECAR for each in containers)
    envoy = next((each for each in containers if each.get("name") == _ISTIO_PROXY), None)
    if envoy is not None:
        kept["name"] = about.get("name")
    if sidecar:
        kept["name"] = about.get("name")
        said = {name: text for name, text in annotations.items() if _about_limits(name)}
        text = annotations.get(EFFECTIVE, NOTHING if _is_governed(annotations.get(STATUS)) else None)
        if text is not None:
            said[EFFECTIVE] = sys.intern(text)  # many Pods have the same one
        kept["annotations"] = said
    elif POLICY in annotations:
        kept["annotations"] = {POLICY: annotations[POLICY]}
    return {
        "metadata": kept,
        "phase": _mapping(pod.get("status")).get("phase"),
        "host": spec.get("hostNetwork") is True,
        "sidecar": sidecar,
        "envoy": None if envoy is None else _may_mark(spec, envoy),
        "ready": sidecar and _is_ready(_mapping(pod.get("status"))),
    }


def _may_mark(pod: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
    """Whether a container has NET_ADMIN in force: a capability that is added is, for root alone."""
    security = _mapping(container.get("securityContext"))
    user = security.get("runAsUser", _mapping(pod.get("securityContext")).get("runAsUser"))
    added = _mapping(security.get("capabilities")).get("add") or ()
    return user == 0 and (security.get("privileged") is True or not {"NET_ADMIN", "ALL"}.isdisjoint(added))


def _about_limits(name: str) -> bool:
    return (name.startswith(PREFIX) and name != STATUS) or name in (KUBERNETES_EGRESS, KUBERNETES_INGRESS)


def _is_governed(status: object) -> bool:
    """Whether a sidecar follows policies, as the injector has written about it."""
    try:
        return _mapping(json.loads(str(status))).get("governed") is True
    except (ValueError, RecursionError):
        return False


def _is_ready(status: Mapping[str, Any]) -> bool:
    """A native sidecar is among the init containers; it is ready when its startup probe has succeeded."""
    found = (each for key in ("initContainerStatuses", "containerStatuses") for each in status.get(key) or ())
    return any(each.get("name") == _SIDECAR and each.get("ready") is True for each in map(_mapping, found))


def watched_pod(pod: Mapping[str, Any]) -> WatchedPod | None:
    """Of what :func:`needed_of_pod` has left; None: its processes have ended."""
    if pod["phase"] in _ENDED:
        return None
    about = pod["metadata"]
    labels = _mapping(about.get("labels"))
    annotations = _mapping(about.get("annotations"))
    obstacle, sidecar = "", None
    if pod["host"]:
        obstacle = "The Pod uses its node's network (hostNetwork: true), for which policies are not."
    elif pod["sidecar"] and EFFECTIVE in annotations:
        sidecar = SidecarState(str(about.get("name")), annotations, pod["ready"])
    elif pod["sidecar"]:
        obstacle = "Its sidecar was injected without following policies. Create the Pod again."
    elif labels.get(MODE_LABEL) in ("none", "sidecar"):
        obstacle = f"Its label {MODE_LABEL} keeps agents from it."
    own = annotations.get(POLICY, "")
    return WatchedPod(
        str(about["uid"]),
        str(about["namespace"]),
        labels,
        str(about.get("creationTimestamp") or ""),
        pod["phase"] == "Running",
        obstacle,
        str(own),
        sidecar,
        None if pod["envoy"] is None else EnvoyOfPod(str(about.get("name")), pod["envoy"]),
        pod["sidecar"],
    )


def labels_for_selectors(pod: WatchedPod, namespaces: Mapping[str, Mapping[str, str]]) -> PodLabels:
    """``namespaces``: labels by name."""
    return PodLabels(pod.namespace, namespaces.get(pod.namespace, {}), pod.labels)


def reported_pods(report: Mapping[str, Any]) -> dict[str, ReportedPod]:
    """By UID, of a TrafficReport."""
    found = {}
    for each in report.get("pods") or ():
        generation = each.get("generation")
        found[str(each.get("uid"))] = ReportedPod(
            str(each.get("policy")),
            generation if isinstance(generation, int) else 0,
            str(each.get("state")),
            str(each.get("reason", "")),
            str(each.get("clamped", "")),
            str(each.get("others", "")),
        )
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
