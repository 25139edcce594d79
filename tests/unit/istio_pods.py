"""Pods as Istio's webhook makes them (of its release 1.2x), with what matters here in full, and in its order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

IMAGE = "istio/proxyv2:1.27.0"


@dataclass(frozen=True)
class Form:
    """One way in which Istio injects."""

    mode: str = "REDIRECT"
    native: bool = False
    hold: bool = False
    cni: bool = False


FORMS = {
    "classic": Form(),
    "hold": Form(hold=True),
    "native": Form(native=True),
    "tproxy": Form(mode="TPROXY"),
    "cni": Form(cni=True),
    "cni-native": Form(cni=True, native=True),
}


def _iptables(form: Form) -> dict[str, Any]:
    arguments = ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", form.mode]
    arguments += ["-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:info"]
    security = {"allowPrivilegeEscalation": False, "privileged": False}
    if form.cni:
        return {
            "name": "istio-validation",
            "image": IMAGE,
            "args": [*arguments, "--run-validation", "--skip-rule-apply"],
            "securityContext": {
                **security,
                "capabilities": {"drop": ["ALL"]},
                "runAsGroup": 1337,
                "runAsNonRoot": True,
                "runAsUser": 1337,
            },
        }
    capabilities = {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    security = {**security, "capabilities": capabilities, "runAsGroup": 0, "runAsNonRoot": False, "runAsUser": 0}
    return {"name": "istio-init", "image": IMAGE, "args": arguments, "securityContext": security}


def _proxy(form: Form) -> dict[str, Any]:
    tproxy = form.mode == "TPROXY"

    def probe(**times: int) -> dict[str, Any]:
        return {"httpGet": {"path": "/healthz/ready", "port": 15021}, "timeoutSeconds": 3, **times}

    capabilities: dict[str, Any] = {"add": ["NET_ADMIN"]} if tproxy else {}
    made: dict[str, Any] = {
        "name": "istio-proxy",
        "image": IMAGE,
        "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--proxyLogLevel=warning"],
        "env": [
            {"name": "CA_ADDR", "value": "istiod.istio-system.svc:15012"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "ISTIO_META_INTERCEPTION_MODE", "value": form.mode},
        ],
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": probe(failureThreshold=4, periodSeconds=15),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {**capabilities, "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 1337,
            "runAsNonRoot": not tproxy,
            "runAsUser": 0 if tproxy else 1337,
        },
        "startupProbe": probe(failureThreshold=600, periodSeconds=1),
    }
    if form.native:
        made["restartPolicy"] = "Always"
    elif form.hold:
        made["lifecycle"] = {"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}}
    return made


def _named(items: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [item for item in items if item["name"] == name]


def _in_order(
    items: Sequence[dict[str, Any]], first: Sequence[str] = (), last: Sequence[str] = ()
) -> list[dict[str, Any]]:
    rest = [item for item in items if item["name"] not in (*first, *last)]
    return [
        *(item for name in first for item in _named(items, name)),
        *rest,
        *(item for name in last for item in _named(items, name)),
    ]


def with_istio(pod: dict[str, Any], form: Form) -> dict[str, Any]:
    """The Pod after Istio's webhook: containers added and put in its order, HTTP probes led through its agent."""
    made = copy.deepcopy(pod)
    spec = made["spec"]
    made["metadata"]["annotations"]["sidecar.istio.io/status"] = '{"containers":["istio-proxy"],"revision":"default"}'
    for container in spec["containers"]:
        probe = container.get("readinessProbe", {})
        if "httpGet" in probe:
            probe["httpGet"] = {"path": f"/app-health/{container['name']}/readyz", "port": 15020}
    init = [*spec.get("initContainers", []), _iptables(form)]
    if form.native:
        spec["initContainers"] = _in_order([*init, _proxy(form)], ("istio-init", "istio-validation", "istio-proxy"))
    else:
        spec["initContainers"] = _in_order(init, ("istio-validation",), ("istio-init",))
        containers = [*spec["containers"], _proxy(form)]
        spec["containers"] = _in_order(containers, ("istio-proxy",)) if form.hold else containers
    spec.setdefault("volumes", []).append({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}})
    return made
