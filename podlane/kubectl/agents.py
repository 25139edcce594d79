"""The agents of a cluster, as their Pods describe them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node_agent.settings import ENVIRONMENT
from traffic_policy.pod.mode import Mode
from traffic_policy.settings import ADMIN_PORT, AGENT_PORT, variable

SELECTOR: Final = "app.kubernetes.io/part-of=podlane,app.kubernetes.io/component=agent"
"""Labels of the chart's agents."""
_VERSION: Final = "app.kubernetes.io/version"


@dataclass(frozen=True, slots=True)
class AgentPod:
    """An agent. ``mode`` is that of Pods where nothing says one. ``trouble``: why it does not work, or empty."""

    node: str
    namespace: str
    name: str
    port: int
    mode: Mode
    version: str
    trouble: str = ""


def agents_of(pods: Iterable[Mapping[str, Any]]) -> dict[str, AgentPod]:
    """The agents among Pods, by their nodes; where there are two, as during an upgrade, the one that is ready."""
    found: dict[str, AgentPod] = {}
    for pod in pods:
        made = _agent(pod)
        if made.node and (made.node not in found or not made.trouble):
            found[made.node] = made
    return found


def _agent(pod: Mapping[str, Any]) -> AgentPod:
    about, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    environment = container_environment(pod, "agent")
    port = environment.get(f"{ENVIRONMENT}ADMIN_PORT", "")
    mode = environment.get(f"{ENVIRONMENT}MODE", "")
    return AgentPod(
        spec.get("nodeName", ""),
        about["namespace"],
        about["name"],
        int(port) if port.isdecimal() else AGENT_PORT,
        Mode.AGENT if mode == Mode.AGENT else Mode.NONE,
        about.get("labels", {}).get(_VERSION, ""),
        _trouble(status),
    )


def _trouble(status: Mapping[str, Any]) -> str:
    for each in status.get("containerStatuses", ()):
        if waiting := each.get("state", {}).get("waiting"):
            return str(waiting.get("reason") or "waiting")
        if each.get("ready"):
            return ""
    phase = status.get("phase", "Pending")
    return "not ready" if phase == "Running" else str(phase)


def sidecar_port(pod: Mapping[str, Any]) -> int:
    """The admin port of a Pod's sidecar; 0: it has none."""
    port = container_environment(pod, "podlane").get(variable("admin_port"), "")
    return int(port) if port.isdecimal() else ADMIN_PORT


def container_environment(pod: Mapping[str, Any], name: str) -> dict[str, str]:
    """The variables with a value that a container of a Pod is given."""
    spec = pod.get("spec", {})
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    given = next((each.get("env", ()) for each in containers if each.get("name") == name), ())
    return {each["name"]: each["value"] for each in given if "value" in each}
