"""The node's agent with TrafficPolicies and ClusterTrafficPolicies of a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agents import RunningAgent
from cluster import Cluster
from kubectl import Kubectl
from manifests import AGENT, limits
from node_pods import Node, NodePod
from policy_objects import cluster_traffic_policy, lane, traffic_policy
from sidecars import state_of
from waiting import until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("policies")]


@pytest.fixture
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    made = cluster.namespace(AGENT)
    yield made
    made("delete", "ctpol", "--all")


def until_total(agent: RunningAgent, pod: NodePod, total: str, *names: str) -> dict[str, Any]:
    """Wait until this is in force."""

    def found() -> dict[str, Any] | None:
        policy = agent.workload(pod.workload).get("policy") or {}
        classes = tuple(each["name"] for each in policy.get("classes", ()))
        return agent.workload(pod.workload) if (policy.get("total"), classes) == (total, names) else None

    return until(f"{total} in force", found)


def here(kubectl: Kubectl) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}}


def test_a_policy_comes_changes_and_goes(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    web, db = node.pod(kubectl, "web", {}, {"app": "web"}), node.pod(kubectl, "db", {}, {"app": "db"})
    untouched = state_of(web.host)
    kubectl.create(traffic_policy("web", classes=[lane("mail")], podSelector={"matchLabels": {"app": "web"}}))
    found = until_total(agent, web, "100Mbit", "mail")
    assert found["cluster_policy"] == f"TrafficPolicy {kubectl.namespace}/web, generation 1"
    assert not agent.workload(db.workload)
    web.until_event("LanesProgrammed", "100Mbit shared by mail, default.")
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "50Mbit"}}')
    assert until_total(agent, web, "50Mbit", "mail")["cluster_policy"].endswith("generation 2")
    kubectl("delete", "tpol", "web")
    until("the end of its lanes", lambda: state_of(web.host) == untouched)


def test_what_is_nearer_wins_within_the_caps(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {})
    kubectl.create(cluster_traffic_policy("base", "9Mbit", **here(kubectl)))
    until_total(agent, pod, "9Mbit")
    kubectl.create(traffic_policy("web", classes=[lane("mail")]))
    until_total(agent, pod, "100Mbit", "mail")
    pod.annotate(egress_bandwidth="80M")
    until_total(agent, pod, "80Mbit", "mail")
    kubectl.create(cluster_traffic_policy("guard", caps={"total": "20Mbit"}, **here(kubectl)))
    found = until_total(agent, pod, "20Mbit", "mail")
    assert "total is 20Mbit instead of 80Mbit, by the caps of ClusterTrafficPolicy guard." in found["warnings"]
    pod.until_event("LanesProgrammed", "total is 20Mbit instead of 80Mbit")
    kubectl("delete", "tpol", "web")
    until_total(agent, pod, "20Mbit")


def test_labels_are_followed(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {})
    kubectl.create(traffic_policy("all", "10Mbit"))
    kubectl.create(traffic_policy("special", "20Mbit", podSelector={"matchLabels": {"special": "yes"}}))
    until_total(agent, pod, "10Mbit")
    kubectl("label", "pod", "web", "special=yes")
    until_total(agent, pod, "20Mbit")
    kubectl("label", "pod", "web", "special-")
    until_total(agent, pod, "10Mbit")


def test_one_that_cannot_be_honoured_leaves_what_was_in_force(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {})
    kubectl.create(traffic_policy("web", classes=[lane("mail")]))
    until_total(agent, pod, "100Mbit", "mail")
    hidden = [lane("mail"), lane("hidden")]
    kubectl.apply_document(traffic_policy("web", classes=hidden))
    pod.until_event("LanesRefused", "What was in force stays so. TrafficPolicy web: classes[1].match[0]: This match")
    assert agent.workload(pod.workload)["state"] == "programmed"
    kubectl.apply_document(traffic_policy("web", classes=[lane("mail"), lane("web", port=80)]))
    until_total(agent, pod, "100Mbit", "mail", "web")


def test_an_api_server_that_is_away_changes_nothing(node: Node, cluster: Cluster, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {})
    kubectl.create(traffic_policy("web", classes=[lane("mail")]))
    until_total(agent, pod, "100Mbit", "mail")
    before = state_of(pod.host)
    cluster.stop_apiserver()
    try:
        until("that it is noticed", lambda: "what the API server says is not known now" in agent.log.read_text())
        assert state_of(pod.host) == before
    finally:
        cluster.restart_apiserver()
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "50Mbit"}}')
    until_total(agent, pod, "50Mbit", "mail")


def test_pods_of_their_nodes_network_are_not_meant(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {})
    kubectl.create(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host"},
            "spec": {"nodeName": node.name, "hostNetwork": True, "containers": [{"name": "a", "image": "a"}]},
        }
    )  # fmt: skip
    kubectl.create(traffic_policy("all"))
    until_total(agent, pod, "100Mbit")
    assert not agent.workload(f"{kubectl.namespace}/host")


def test_a_pods_own_policy_has_no_reference_to_another(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    kubectl("create", "configmap", "lanes", "--from-literal=policy.yaml=total: 7Mbit")
    pod = node.pod(kubectl, "web", {"podlane.io/policy": "lanes"})
    other = node.pod(kubectl, "other", limits("a"))
    kubectl.create(traffic_policy("all"))
    assert until_total(agent, pod, "7Mbit").get("cluster_policy") is None
    assert until_total(agent, other, "50Mbit", "a")["cluster_policy"].startswith("TrafficPolicy")
