"""The agents of a kind cluster, as its tests look at them."""

from __future__ import annotations

from typing import Any, Final

from kind_cluster import SYSTEM, Client, KindCluster
from waiting import until

AGENTS: Final = "daemonset/podlane-agent"


def agents_running(cluster: KindCluster) -> list[dict[str, Any]]:
    """Their Pods, those that are ending included."""
    pods = cluster.kubectl.within(SYSTEM).list("pods")
    return [p for p in pods if p["metadata"]["labels"].get("app.kubernetes.io/component") == "agent"]


def agent_of(cluster: KindCluster) -> dict[str, Any]:
    """The Pod of the one agent that is not ending."""
    (pod,) = [p for p in agents_running(cluster) if "deletionTimestamp" not in p["metadata"]]
    return pod


def agents_container(cluster: KindCluster) -> dict[str, Any]:
    """The status of its container; empty while there is none."""
    (status,) = agent_of(cluster)["status"].get("containerStatuses", [{}])
    return dict(status)


def told(pod: Client, reason: str) -> list[str]:
    """Messages of the agent's Events about a Pod."""
    return [event["message"] for event in pod.events(reason)]


def until_in_force(pod: Client, words: str = "shared by video, secret, bulk, default.") -> None:
    until(f"lanes {words}", lambda: any(words in said for said in told(pod, "LanesProgrammed")), patience=60)
