"""The agents of a kind cluster, as its tests look at them."""

from __future__ import annotations

import json
from typing import Any, Final

from kind_cluster import SYSTEM, Client, KindCluster
from waiting import until

AGENTS: Final = "daemonset/podlane-agent"
_EVERYTHING: Final = """
for name in $(ls /run/netns); do
  ip -netns $name -brief address show dev eth0 | grep -q ' %s/' || continue
  for save in iptables-save ip6tables-save; do ip netns exec $name $save | sed '/^#/d; s/ \\[[0-9]*:[0-9]*\\]$//'; done
  for family in -4 -6; do ip $family -netns $name rule; ip $family -netns $name route show table all; done
  ip -netns $name link
  tc -netns $name qdisc | sed 's/direct_packets_stat [0-9]*//'
  for kind in class filter; do tc -netns $name $kind show dev eth0; done
done
"""
"""What somebody can have put into the network of the Pod with an address; without counters."""


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


def in_the_network_of(pod: Client, cluster: KindCluster) -> str:
    """Rules, routes, interfaces, qdiscs, classes and filters of a Pod, as its node sees them."""
    return cluster.in_node("sh", "-c", _EVERYTHING % pod.document["status"]["podIP"])


def ceils(said: str) -> list[str]:
    """Those of the leaf classes in what is in a Pod's network, the lowest first."""
    words = [line.split() for line in said.splitlines() if line.startswith("class htb") and " leaf " in line]
    return sorted(each[each.index("ceil") + 1] for each in words)


def workload_of(pod: Client, cluster: KindCluster) -> dict[str, Any]:
    """What the agent says of it, asked through the API server; empty if it knows nothing of it."""
    agent = agent_of(cluster)["metadata"]["name"]
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{agent}:15110/proxy/workloads"
    told: dict[str, Any] = json.loads(cluster.kubectl("get", "--raw", path))
    found = (each for each in told["workloads"] if each["name"] == f"{pod.kubectl.namespace}/{pod.pod}")
    return dict(next(found, {}))
