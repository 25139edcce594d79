"""Detects the service mesh of a Pod, and what Podlane's containers need with it. Pure.

Istio's sidecar is a container named ``istio-proxy``, or an init container of that name with ``restartPolicy: Always``;
its rules are installed by the init container ``istio-init``, or by a CNI plugin, shown by ``istio-validation``. The
containers' arguments show how it intercepts, and for which group. Of the ambient mode the Pod has only a label or an
annotation; its rules exist before any container runs, so the sidecar finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from injector.pod import pods
from traffic_policy.settings import Mesh

ISTIO_ID: Final = 1337
"""Istio's default gid (https://istio.io/latest/docs/ops/deployment/application-requirements/)."""
SETUID: Final = "SETUID"
"""The capability to make sockets with the uid of Linkerd's proxy, by which its rules know it."""

_INTERCEPTION: Final = "ISTIO_META_INTERCEPTION_MODE"
_NO_INTERCEPTION: Final = "NONE"
_GENERATOR: Final = "ISTIO_META_GENERATOR"
_TEMPLATES: Final = "inject.istio.io/templates"
_WITHOUT_REDIRECTION: Final = ("gateway", "grpc-agent", "grpc-simple", "waypoint")
_PORT_OPTIONS: Final = ("-p", "--envoy-port", "-z", "--inbound-capture-port", "-e", "--inbound-tunnel-port")
"""Options of istio-iptables with the ports on which Envoy listens (`pilot-agent istio-iptables --help`)."""
_AMBIENT_LABEL: Final = "istio.io/dataplane-mode"
_AMBIENT_ANNOTATION: Final = "ambient.istio.io/redirection"


@dataclass(frozen=True, slots=True)
class PodMesh:
    """The settings of the injected containers that depend on the mesh.

    ``setting``: the sidecar's ``PODLANE_MESH``, None to detect it. ``redirects``: the mesh redirects inbound
    connections, so the relay cannot. ``capabilities`` are for the relay. ``ports``: those configured for the mesh's
    proxy.
    """

    title: str = ""
    setting: str | None = None
    group: int = 0
    capabilities: tuple[str, ...] = ()
    redirects: bool = False
    ports: tuple[int, ...] = ()


def mesh_of(pod: Mapping[str, Any], asked: str | None) -> PodMesh:
    """The mesh ``asked`` for by annotation or by default (None: auto), or detected in the Pod."""
    if asked == Mesh.NONE:
        return PodMesh(setting=Mesh.NONE.value)
    if asked == Mesh.ISTIO:
        return _istio(pod)
    if asked == Mesh.LINKERD:
        return _LINKERD
    if pods.has_istio(pod):
        return _istio(pod) if _intercepts(pod) else PodMesh(setting=asked)
    if pods.other_mesh(pod) == "Linkerd":
        return _LINKERD
    return PodMesh("Istio (ambient)", asked, redirects=True) if _is_ambient(pod) else PodMesh(setting=asked)


_LINKERD: Final = PodMesh("Linkerd", Mesh.LINKERD.value, capabilities=(SETUID,), redirects=True)


def _istio(pod: Mapping[str, Any]) -> PodMesh:
    if _is_ambient(pod) and not pods.has_istio(pod):
        return PodMesh("Istio (ambient)", Mesh.AUTO.value, redirects=True)
    groups = (pods.mapping(proxy.get("securityContext")).get("runAsGroup") for proxy in _proxies(pod))
    group = next((g for g in groups if isinstance(g, int) and not isinstance(g, bool) and g > 0), ISTIO_ID)
    return PodMesh("Istio", Mesh.ISTIO.value, group=group, redirects=True, ports=tuple(_ports(pod)))


def _proxies(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (c for c in pods.all_containers(pod) if pods.name_of(c) == pods.ISTIO_PROXY)


def _intercepts(pod: Mapping[str, Any]) -> bool:
    """Whether connections are redirected to Envoy at all.

    Applications may also address it explicitly. A gateway is Envoy alone, and the agent for proxyless gRPC only fetches
    configuration: Istio's templates (gateway, waypoint, grpc-agent, grpc-simple) have no istio-init.
    """
    templates = str(pods.annotations_of(pod).get(_TEMPLATES, ""))
    if any(name.strip() in _WITHOUT_REDIRECTION for name in templates.split(",")):
        return False
    for proxy in _proxies(pod):
        settings = {pods.name_of(each): pods.mapping(each).get("value") for each in pods.listed(proxy.get("env"))}
        if settings.get(_INTERCEPTION) == _NO_INTERCEPTION or settings.get(_GENERATOR) == "grpc":
            return False
        if any(role in pods.listed(proxy.get("args"))[:2] for role in ("router", "waypoint")):
            return False
    return True


def _ports(pod: Mapping[str, Any]) -> Iterator[int]:
    for container in pods.all_containers(pod):
        if pods.name_of(container) not in pods.ISTIO_INIT:
            continue
        words = [word for word in pods.listed(container.get("args")) if isinstance(word, str)]
        for option, value in pairwise(words):
            if option in _PORT_OPTIONS and value.isdecimal():
                yield int(value)


def _is_ambient(pod: Mapping[str, Any]) -> bool:
    return (
        pods.labels_of(pod).get(_AMBIENT_LABEL) == "ambient"
        or pods.annotations_of(pod).get(_AMBIENT_ANNOTATION) == "enabled"
    )
