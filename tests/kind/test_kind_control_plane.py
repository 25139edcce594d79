"""The chart's control plane in a kind cluster, and its agents there, which join by the tokens of their ServiceAccounts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from kind_agents import ceils, in_the_network_of, told, until_in_force
from kind_cluster import CEIL, LANES, LANES_NAMESPACE, SIZE, SYSTEM, Client, KindCluster, Server, deployment
from kind_fleet import AGENTS_FOLDER, Fleet
from kubectl import Kubectl
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

LABEL: Final = "app=fleet"
"""Of the Pods that the policy is for."""


def policy(ceil: int = CEIL) -> dict[str, Any]:
    """The lanes of the other tests, as a control plane has them."""
    lanes = [{"name": name, "rate": "1Mbit", "ceil": f"{ceil}Mbit", "match": match} for name, match in LANES.items()]
    return {"total": "100Mbit", "classes": lanes}


@pytest.fixture(scope="module")
def fleet(installed: KindCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A control plane with SQLite on a volume of the node, and the node's agent connected to it."""
    with Fleet.started(installed, tmp_path_factory.mktemp("fleet")) as started:
        yield started


@pytest.fixture(scope="module")
def namespace(fleet: Fleet) -> Kubectl:
    """One whose Pods are the agent's."""
    fleet.cluster.need_namespace(LANES_NAMESPACE, {"podlane.io/mode": "agent"})
    return fleet.cluster.kubectl.within(LANES_NAMESPACE)


@pytest.fixture(scope="module")
def pod(namespace: Kubectl) -> Client:
    """A Pod that says nothing about limits."""
    return Client.of_owner(namespace, deployment("fleet", {}))


def in_sync(fleet: Fleet) -> bool:
    agents = fleet.agents()
    print(agents)
    return [each["state"] for each in agents] == ["in-sync"]


def test_the_agent_joins_by_its_service_account(fleet: Fleet) -> None:
    (node,) = (each["metadata"]["name"] for each in fleet.cluster.kubectl.list("nodes"))
    (agent,) = until("an agent", fleet.agents, patience=60)
    assert (agent["node"], agent["cluster"]) == (node, "east")
    until("what is desired to be in force", lambda: in_sync(fleet), patience=60)


def test_a_policy_reaches_a_pod_and_is_in_force(fleet: Fleet, pod: Client, server: Server) -> None:
    assert "htb" not in in_the_network_of(pod, fleet.cluster)
    assert pod.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
    said = fleet.apply("web", policy(), LABEL)
    print(said)
    until_in_force(pod)
    there = in_the_network_of(pod, fleet.cluster)
    print(there)
    assert ceils(there) == ["100Mbit", *(["8Mbit"] * len(LANES))]
    for host, port in (("video.example.com", "http"), ("secret.example.com", "tls"), ("other.example.com", "bulk")):
        assert pod.is_held(server, SIZE, host, port)
    assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL
    until("its agent to say so", lambda: in_sync(fleet), patience=60)


def test_a_pod_with_limits_of_its_own_keeps_these(namespace: Kubectl, pod: Client, server: Server) -> None:  # noqa: ARG001
    own = deployment("own", {"podlane.io/egress-bandwidth": f"{2 * CEIL}M"})
    own["spec"]["template"]["metadata"]["labels"] = {"app": "own"}
    made = Client.of_owner(namespace, own)
    until_in_force(made, f"{2 * CEIL}Mbit shared by default.")
    assert made.is_held(server, 2 * SIZE, "video.example.com", "http", ceil=2 * CEIL)
    namespace("delete", "deployment", "own", "--wait=false")


def test_a_restart_of_the_control_plane_changes_nothing(fleet: Fleet, pod: Client, server: Server) -> None:
    before, events = in_the_network_of(pod, fleet.cluster), told(pod, "LanesProgrammed")
    with pod.asking(server):
        fleet.restart()
        until("the agent to be connected again", lambda: in_sync(fleet), patience=90)
    assert in_the_network_of(pod, fleet.cluster) == before
    assert told(pod, "LanesProgrammed") == events
    assert pod.is_held(server, SIZE, "secret.example.com", "tls")
    fleet.apply("web", policy(2 * CEIL), LABEL)
    until(
        "the new limits",
        lambda: ceils(in_the_network_of(pod, fleet.cluster)).count("16Mbit") == len(LANES),
        patience=60,
    )
    assert pod.is_held(server, 2 * SIZE, "video.example.com", "http", ceil=2 * CEIL)


def test_without_the_control_plane_a_new_agent_goes_on(fleet: Fleet, pod: Client, server: Server) -> None:
    """It has what it was told last on its node."""
    system = fleet.cluster.kubectl.within(SYSTEM)
    before = in_the_network_of(pod, fleet.cluster)
    system("scale", "statefulset/podlane-control-plane", "--replicas=0")
    until("its end", lambda: "podlane-control-plane-0" not in system("get", "pods", "--output=name"), patience=60)
    try:
        system("rollout", "restart", "daemonset/podlane-agent")
        system("rollout", "status", "daemonset/podlane-agent", "--timeout=120s", timeout=150)
        assert in_the_network_of(pod, fleet.cluster) == before
        assert pod.is_held(server, 2 * SIZE, "video.example.com", "http", ceil=2 * CEIL)
    finally:
        system("scale", "statefulset/podlane-control-plane", "--replicas=1")
    system("rollout", "status", "statefulset/podlane-control-plane", "--timeout=120s", timeout=150)
    until("the agent to be connected again", lambda: in_sync(fleet), patience=90)


def test_an_uninstallation_leaves_the_volumes_claim_alone(fleet: Fleet, pod: Client, server: Server) -> None:
    """Lanes go with the agents, and what agents have noted on the node: what they were told, and their certificates."""
    cluster, system = fleet.cluster, fleet.cluster.kubectl.within(SYSTEM)
    assert "data" in json.loads(system("get", "configmap", "podlane-fleet-ca", "--output=json"))
    assert cluster.in_node("ls", AGENTS_FOLDER) != ""
    cluster.helm("uninstall", "podlane", "--wait", "--timeout=120s")
    left = in_the_network_of(pod, cluster)
    assert not [word for word in ("htb", "NFQUEUE", "PODLANE") if word in left], left
    assert pod.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
    for folder in ("/run/podlane/agent", AGENTS_FOLDER):
        assert cluster.in_node("ls", folder) == ""
    kinds = "clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingwebhookconfiguration"
    assert "podlane" not in cluster.kubectl("get", kinds, "--output=name")
    owned = "statefulset,daemonset,deployment,job,service,serviceaccount,role,rolebinding,networkpolicy,pod"
    until("all of the chart to be gone", lambda: "podlane" not in system("get", owned, "--output=name"), patience=60)
    assert system("get", "persistentvolumeclaim", "--output=name").split() == [
        "persistentvolumeclaim/state-podlane-control-plane-0"
    ]
    pod.kubectl("delete", "deployment", "fleet", "--wait=false")
