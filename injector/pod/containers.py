"""The container and the volumes that are put into a Pod, as plain data of core/v1. Pure.

The container is a native sidecar: an init container with ``restartPolicy: Always`` (Kubernetes 1.29 and later,
https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/). The kubelet starts what follows when its
startup probe has succeeded, and stops it after the application. A sidecar that cannot get ready keeps the application
from starting.

Why root, when the image is not: capabilities that are added reach a process of another user only by file capabilities,
which ``allowPrivilegeEscalation: false`` (no_new_privs) turns off, or as ambient ones, which Kubernetes cannot give.
Root here has NET_ADMIN and nothing else (BPF for some policies): it may not even read files of others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.defaults import InjectionDefaults
from traffic_policy.pod.annotations import SHARED_POLICY_KEY, shared_policy_file
from traffic_policy.pod.quantities import Resources
from traffic_policy.settings import variable

NAME: Final = "podlane"
_POD_VOLUME: Final = "podlane-pod"
_POLICY_VOLUME: Final = "podlane-policy"
_RUN_VOLUME: Final = "podlane-run"
RESERVED_VOLUMES: Final = (_POD_VOLUME, _POLICY_VOLUME, _RUN_VOLUME)
CAPABILITY: Final = "NET_ADMIN"
"""The one that is needed, as Kubernetes writes it."""
SOCKET_CAPABILITY: Final = "BPF"
"""Where a policy limits what arrives in classes that names tell apart, beside it
(:mod:`tc_core.bpf.socket_program`)."""

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_POD_FOLDER: Final = "/etc/podlane/pod"
_POLICY_FOLDER: Final = "/etc/podlane/policy"
_TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_READY: Final = ["podlane", "ready"]
_LIVENESS: Final = {
    "exec": {"command": [*_READY, "--alive"]},
    "periodSeconds": 30,
    "timeoutSeconds": 5,
    "failureThreshold": 3,
}
"""It asks the supervisor, which sees to the proxy by itself: a proxy that is not ready is no reason to start both anew.
Seldom, since each probe starts an interpreter."""
_STARTUP: Final = {
    "exec": {"command": _READY},
    "periodSeconds": 1,
    "timeoutSeconds": 5,
    "failureThreshold": 120,
}
"""The first start may take two minutes, with modules to load on a busy node, before the kubelet starts it once more.
The probe starts an interpreter: 0.1 s of CPU, which a small limit stretches."""
_MARGIN: Final = 5
"""Seconds between the end of the drain and the kubelet's SIGKILL, for removing what was installed."""


@dataclass(frozen=True, slots=True)
class SidecarIdentity:
    """As whom the container runs: with these capabilities, in this group, and told of this mesh (None: of none)."""

    capabilities: tuple[str, ...] = (CAPABILITY,)
    group: int = 0
    mesh: str | None = None


def drain_seconds(period: int) -> int:
    """How long connections may go on, of a Pod's terminationGracePeriodSeconds; where that is short, half of it."""
    return max(period - _MARGIN, period // 2)


def sidecar(
    defaults: InjectionDefaults, resources: Resources, drain: int, shared: str | None, identity: SidecarIdentity
) -> dict[str, Any]:
    """The sidecar's container; ``drain`` is in seconds, ``shared`` is the ConfigMap's name."""
    command = ["podlane", "sidecar", "--annotations", f"{_POD_FOLDER}/annotations"]
    mounts: list[dict[str, Any]] = [{"name": _POD_VOLUME, "mountPath": _POD_FOLDER, "readOnly": True}]
    if shared is not None:
        command += ["--shared-policy", _POLICY_FOLDER]
        mounts.append({"name": _POLICY_VOLUME, "mountPath": _POLICY_FOLDER, "readOnly": True})
    mounts.append({"name": _RUN_VOLUME, "mountPath": "/run"})  # legacy iptables locks /run/xtables.lock
    # Nothing, where the API server would mount the application's token: it leaves out containers that mount something
    # there already (plugin/pkg/admission/serviceaccount).
    mounts.append({"name": _RUN_VOLUME, "mountPath": _TOKEN_FOLDER, "subPath": "no-token", "readOnly": True})
    container: dict[str, Any] = {"name": NAME, "image": defaults.image}
    if defaults.image_pull_policy is not None:
        container["imagePullPolicy"] = defaults.image_pull_policy
    container["command"] = command
    container["env"] = _environment(defaults, drain, identity.mesh)
    if found := _resources(defaults, resources):
        container["resources"] = found
    container["volumeMounts"] = mounts
    container["securityContext"] = _security(identity)
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"  # the reason, in `kubectl describe pod`
    container["restartPolicy"] = "Always"
    container["startupProbe"] = copy.deepcopy(_STARTUP)
    container["livenessProbe"] = copy.deepcopy(_LIVENESS)
    if defaults.settings[variable("admin_address")] not in _LOOPBACK:
        container["ports"] = [{"name": "podlane-admin", "containerPort": defaults.admin_port, "protocol": "TCP"}]
    return container


def volumes(shared: str | None) -> list[dict[str, Any]]:
    fields = [{"path": "annotations", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"}}]
    result: list[dict[str, Any]] = [{"name": _POD_VOLUME, "downwardAPI": {"items": fields}}]
    if shared is not None:
        items = [{"key": SHARED_POLICY_KEY, "path": shared_policy_file(shared)}]
        result.append({"name": _POLICY_VOLUME, "configMap": {"name": shared, "items": items}})
    # In memory, so that the cluster autoscaler does not take it for data that keeps the Pod on its node.
    result.append({"name": _RUN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    return result


def _environment(defaults: InjectionDefaults, drain: int, mesh: str | None) -> list[dict[str, str]]:
    """All written out: a Service named podlane-admin would set PODLANE_ADMIN_PORT to a URL, as Services do."""
    settings = {variable("grace"): f"{drain}s", **defaults.settings}
    if mesh is not None:
        settings[variable("mesh")] = mesh
    return [{"name": name, "value": settings[name]} for name in sorted(settings)]


def _resources(defaults: InjectionDefaults, own: Resources) -> dict[str, dict[str, str]]:
    """What the Pod's annotations ask for, else the defaults, which never contradict them."""
    result: dict[str, dict[str, str]] = {}
    for resource in ("cpu", "memory"):
        request, limit = getattr(own, f"{resource}_request"), getattr(own, f"{resource}_limit")
        usual_request = defaults.quantity(f"{resource}_request")
        usual_limit = defaults.quantity(f"{resource}_limit")
        if request is None:
            request = usual_request if limit is None or usual_request is None else min(usual_request, limit, key=_value)
        if limit is None:
            limit = usual_limit if request is None or usual_limit is None else max(usual_limit, request, key=_value)
        for part, quantity in (("requests", request), ("limits", limit)):
            if quantity is not None:
                result.setdefault(part, {})[resource] = quantity.text
    return dict(sorted(result.items(), reverse=True))


def _value(quantity: Any) -> Any:
    return quantity.value


def _security(identity: SidecarIdentity) -> dict[str, Any]:
    """Written out in full: what the Pod sets for all of its containers (runAsNonRoot, say) must not reach this one.

    In the group of Istio's proxy its rules let pass what we send; what the container reads is readable to all.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": list(identity.capabilities), "drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsGroup": identity.group,
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
