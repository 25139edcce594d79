"""The container and the volumes injected into a Pod, as plain data of core/v1. Pure.

The container is a native sidecar: an init container with ``restartPolicy: Always`` (Kubernetes 1.29 and later,
https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/). The kubelet starts the next containers when its
startup probe has succeeded, and stops it after the application. A sidecar that does not become ready keeps the
application from starting.

It runs as root, though the image does not: added capabilities reach a process of another user only by file
capabilities, which ``allowPrivilegeEscalation: false`` (no_new_privs) disables, or as ambient ones, which Kubernetes
cannot set. Root here has NET_ADMIN, SETGID for the relay, and nothing else (BPF for some policies, and with PERFMON for
datapath: ebpf): it may not even read files of others.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from injector.pod.defaults import InjectionDefaults
from traffic_policy.pod.annotations import SHARED_POLICY_KEY, shared_policy_file
from traffic_policy.settings import variable

NAME: Final = "podlane"
_POD_VOLUME: Final = "podlane-pod"
_POLICY_VOLUME: Final = "podlane-policy"
_RUN_VOLUME: Final = "podlane-run"
RESERVED_VOLUMES: Final = (_POD_VOLUME, _POLICY_VOLUME, _RUN_VOLUME)
CAPABILITY: Final = "NET_ADMIN"
"""The required capability, as Kubernetes writes it."""
GROUP_CAPABILITY: Final = "SETGID"
"""Also required by the relay, whose sockets are told from others by a group that nobody knows
(:mod:`datapath.own_group`)."""
SOCKET_CAPABILITY: Final = "BPF"
"""Also required if a policy limits received traffic in classes that depend on names
(:mod:`tc_core.bpf.socket_program`)."""
PROGRAM_CAPABILITIES: Final = ("BPF", "PERFMON")
"""Also required by datapath: ebpf: without PERFMON the kernel takes no programs that compare pointers, as ours do."""

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
"""It queries the supervisor, which restarts the proxy itself: a proxy that is not ready is no reason to restart both.
Infrequent, since each probe starts an interpreter."""
_STARTUP: Final = {
    "exec": {"command": [*_READY, "--wait", "4s"]},
    "periodSeconds": 1,
    "timeoutSeconds": 5,
    "failureThreshold": 24,
}
"""The first start may take two minutes, with modules to load on a busy node, before the kubelet restarts it. The probe
waits itself: the next container starts at the moment when the sidecar is ready, not with the next period."""
_MARGIN: Final = 5
"""Seconds between the end of the drain and the kubelet's SIGKILL, for removing what was installed."""


@dataclass(frozen=True, slots=True)
class SidecarIdentity:
    """The container's privileges: its capabilities, its group, and its mesh (None: none)."""

    capabilities: tuple[str, ...] = (CAPABILITY,)
    group: int = 0
    mesh: str | None = None


def drain_seconds(period: int) -> int:
    """The grace period for connections within a Pod's terminationGracePeriodSeconds; half of it if that is short."""
    return max(period - _MARGIN, period // 2)


def sidecar(
    defaults: InjectionDefaults,
    resources: Mapping[str, Mapping[str, str]],
    drain: int,
    shared: str | None,
    identity: SidecarIdentity,
) -> dict[str, Any]:
    """The sidecar's container; ``drain`` is in seconds, ``shared`` is the ConfigMap's name."""
    command = ["podlane", "sidecar", "--annotations", f"{_POD_FOLDER}/annotations"]
    mounts: list[dict[str, Any]] = [{"name": _POD_VOLUME, "mountPath": _POD_FOLDER, "readOnly": True}]
    if shared is not None:
        command += ["--shared-policy", _POLICY_FOLDER]
        mounts.append({"name": _POLICY_VOLUME, "mountPath": _POLICY_FOLDER, "readOnly": True})
    mounts.append({"name": _RUN_VOLUME, "mountPath": "/run"})  # legacy iptables locks /run/xtables.lock
    # An empty volume where the API server would mount the application's token: it skips containers that have a mount
    # there already (plugin/pkg/admission/serviceaccount).
    mounts.append({"name": _RUN_VOLUME, "mountPath": _TOKEN_FOLDER, "subPath": "no-token", "readOnly": True})
    container: dict[str, Any] = {"name": NAME, "image": defaults.image}
    if defaults.image_pull_policy is not None:
        container["imagePullPolicy"] = defaults.image_pull_policy
    container["command"] = command
    container["env"] = _environment(defaults, drain, identity.mesh)
    if resources:
        container["resources"] = {part: dict(found) for part, found in resources.items()}
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
    # In memory, so that the cluster autoscaler does not count it as local data that keeps the Pod on its node.
    result.append({"name": _RUN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    return result


def _environment(defaults: InjectionDefaults, drain: int, mesh: str | None) -> list[dict[str, str]]:
    """All variables are explicit: a Service named podlane-admin would set PODLANE_ADMIN_PORT to a URL."""
    settings = {variable("grace"): f"{drain}s", **defaults.settings}
    if mesh is not None:
        settings[variable("mesh")] = mesh
    return [{"name": name, "value": settings[name]} for name in sorted(settings)]


def _security(identity: SidecarIdentity) -> dict[str, Any]:
    """All fields are explicit: the Pod's own security context (such as runAsNonRoot) must not apply to this container.

    In the group of Istio's proxy, its rules let the sidecar's traffic pass; the files it reads are world-readable.
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
