"""TrafficPolicies in a kind cluster, as docs/how-to/traffic-policies.md tells them: agents and sidecars hold Pods to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from kind_agents import ceils, in_the_network_of, told, workload_of
from kind_cluster import CEIL, LANES, SIZE, SYSTEM, Client, KindCluster, Server, rolled_out
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

NEW_CEIL: Final = 24
OPERATOR: Final = "deployment/podlane-operator"


def policy(app: str, *, ceil: int = CEIL, rate: str = "1Mbit") -> dict[str, Any]:
    """For the Pods of an application."""
    classes = [
        {"name": name, "rate": rate, "ceil": f"{ceil}Mbit", "match": [match]}
        for name, match in LANES.items()
        if name != "secret"  # which is looked for in QUIC as well
    ]
    spec = {"podSelector": {"matchLabels": {"app": app}}, "total": "100Mbit", "classes": classes}
    return {"apiVersion": "podlane.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": app}, "spec": spec}


def is_programmed(kubectl: Kubectl, name: str, generation: int, pods: int = 1) -> bool:
    status = kubectl.get("trafficpolicy", name).get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    said = conditions.get("Programmed", {})
    return (
        said.get("status") == "True"
        and said.get("observedGeneration") == generation
        and status["pods"]["programmed"] == pods
    )


@pytest.fixture(scope="module")
def operator(agents: KindCluster) -> Iterator[KindCluster]:
    """The chart with agents and operators, in a cluster without policies."""
    rolled_out(agents.kubectl.within(SYSTEM), OPERATOR)
    yield agents
    agents.kubectl("delete", "trafficpolicies,clustertrafficpolicies", "--all", "--all-namespaces")


def test_a_mistake_is_told_when_a_policy_is_applied(operator: KindCluster, lanes: Kubectl) -> None:
    assert operator
    with pytest.raises(RefusedError, match=r"more than total, 100Mbit, together. Lower them, or raise total"):
        lanes.apply_document(policy("ordered", rate="80Mbit"))


def test_a_pod_of_the_agent_is_held_to_a_policy_while_there_is_one(
    operator: KindCluster, lanes: Kubectl, server: Server
) -> None:
    lanes.apply_document(policy("ordered"))
    until("a policy without Pods to be programmed", lambda: is_programmed(lanes, "ordered", 1, pods=0), patience=60)
    pod = Client.start(lanes, "ordered", {})
    until("one Pod to be programmed", lambda: is_programmed(lanes, "ordered", 1), patience=60)
    assert workload_of(pod, operator)["state"] == "programmed"
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    assert pod.is_held(server, SIZE, "other.example.com", "bulk")
    assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL
    lanes.apply_document(policy("ordered", ceil=NEW_CEIL))
    until("the change to be programmed", lambda: is_programmed(lanes, "ordered", 2), patience=60)
    assert pod.is_held(server, 3 * SIZE, "video.example.com", "http", ceil=NEW_CEIL)
    lanes("delete", "trafficpolicy", "ordered")
    until("the lanes to be gone", lambda: not ceils(in_the_network_of(pod, operator)), patience=60)
    assert pod.upload(server, SIZE, "video.example.com", "http") > 3 * NEW_CEIL
    print(told(pod, "LanesProgrammed"))
    lanes("delete", "deployment", "ordered", "--wait=false")


def test_a_pod_with_a_sidecar_is_held_to_a_policy_and_follows_it(
    operator: KindCluster, shop: Kubectl, server: Server
) -> None:
    """It has no annotation: the policy alone gives it the sidecar."""
    assert operator
    shop.apply_document(policy("governed"))
    pod = Client.start(shop, "governed", {})
    assert [each["name"] for each in pod.document["spec"]["initContainers"]] == ["podlane"]
    until("one Pod to be programmed", lambda: is_programmed(shop, "governed", 1), patience=60)
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL
    shop.apply_document(policy("governed", ceil=NEW_CEIL))
    began = time.monotonic()
    until(
        "the new limit to be in force",
        lambda: pod.lanes()["video"]["ceil_bits_per_second"] == NEW_CEIL * 1_000_000,
        patience=150,  # the kubelet looks at volumes each minute (syncFrequency), and with a jitter
    )
    print(f"in force after {time.monotonic() - began:.1f} s")
    assert pod.is_held(server, 3 * SIZE, "video.example.com", "http", ceil=NEW_CEIL)
    until("the change to be programmed", lambda: is_programmed(shop, "governed", 2), patience=60)
    shop("delete", "trafficpolicy", "governed")
    until("the lanes to be gone", lambda: "video" not in pod.lanes(), patience=150)
    shop("delete", "deployment", "governed", "--wait=false")
