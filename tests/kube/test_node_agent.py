"""The node's agent with a real API server: Pods, their annotations and labels, and what becomes of their lanes."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from agents import RunningAgent
from cluster import Cluster
from kubectl import Kubectl
from manifests import AGENT, limits
from node_pods import Node, NodePod
from sidecars import state_of
from waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def kubectl(cluster: Cluster) -> Kubectl:
    return cluster.namespace()


def until_classes(agent: RunningAgent, pod: NodePod, *names: str) -> None:
    agent.until_in_force(pod.workload, {"classes": [{"name": name} for name in names]})


def test_a_pod_gets_its_lanes_follows_its_annotations_and_is_forgotten(
    node: Node, kubectl: Kubectl, start: Any
) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    until_classes(agent, pod, "a")
    metrics = agent.get("/metrics")
    assert f'namespace="{kubectl.namespace}",pod="web",class="a"' in metrics
    assert pod.until_event("LanesProgrammed", "50Mbit shared by a, default.")["type"] == "Normal"
    pod.annotate(classes=limits("b", "c")["podlane.io/classes"])
    until_classes(agent, pod, "b", "c")
    pod.until_event("LanesProgrammed", "shared by b, c, default.")
    pod.delete()
    until("the end of the workload", lambda: not agent.workload(pod.workload))


@pytest.mark.parametrize("way", [{"datapath": "ebpf"}, {"on_failure": "closed"}], ids=["datapath", "on-failure"])
def test_a_change_for_which_lanes_begin_anew_is_told(
    node: Node, kubectl: Kubectl, start: Any, way: dict[str, str]
) -> None:
    """It adopts its own then, of which no earlier agent has told."""
    start("--datapath", "step-aside")
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    pod.until_event("LanesProgrammed", "shared by a, default.")
    pod.annotate(classes=limits("b")["podlane.io/classes"], **way)
    pod.until_event("LanesProgrammed", "shared by b, default.")


def test_the_label_none_takes_the_lanes_away_and_agent_brings_them_back(
    node: Node, kubectl: Kubectl, start: Any
) -> None:
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    untouched = state_of(pod.host)
    agent = start()
    until_classes(agent, pod, "a")
    pod.label("none")
    until("the end of its lanes", lambda: state_of(pod.host) == untouched)
    assert not agent.workload(pod.workload)
    pod.label("agent")
    until_classes(agent, pod, "a")


def test_what_is_wrong_is_told_on_the_pod_and_what_was_in_force_stays(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", limits("a", total="10Mbit"), AGENT)
    other = node.pod(kubectl, "other", limits("b"), AGENT)
    agent.until_state(pod.workload, "refused")
    told = pod.until_event("LanesRefused", "podlane.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity.")
    assert told["type"] == "Warning"
    until_classes(agent, other, "b")
    pod.annotate(egress_bandwidth="10M")
    until_classes(agent, pod, "a")
    pod.annotate(clases="[]")
    pod.until_event("LanesRefused", "What was in force stays so. podlane.io/clases: There is no such annotation.")
    assert agent.workload(pod.workload)["state"] == "programmed"
    host = kubectl.create(
        {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "host", "labels": AGENT, "annotations": limits("a")},
            "spec": {"nodeName": node.name, "hostNetwork": True, "containers": [{"name": "a", "image": "a"}]},
        }
    )  # fmt: skip
    refused = agent.until_state(f"{kubectl.namespace}/{host['metadata']['name']}", "refused")
    assert "hostNetwork" in refused["reason"]


def test_only_who_asks_for_the_agent_gets_lanes(node: Node, cluster: Cluster, kubectl: Kubectl, start: Any) -> None:
    theirs = cluster.namespace(AGENT)
    agent = start()
    plain = node.pod(kubectl, "plain", limits("a"))
    with_sidecar = node.pod(
        theirs, "injected", limits("a"), initContainers=[{"name": "podlane", "image": "p", "restartPolicy": "Always"}]
    )
    unlimited = node.pod(theirs, "unlimited", {})
    none = node.pod(theirs, "none", limits("a"), {"podlane.io/mode": "none"})
    held = node.pod(theirs, "held", limits("a"))
    until_classes(agent, held, "a")
    assert not any(agent.workload(each.workload) for each in (plain, with_sidecar, unlimited, none))
    theirs("annotate", "namespace", theirs.namespace, "podlane.io/egress-bandwidth=70M")
    until("the namespace's default", lambda: agent.workload(unlimited.workload).get("state") == "programmed",
          patience=60)  # fmt: skip
    assert agent.workload(unlimited.workload)["policy"]["total"] == "70Mbit"
    assert not agent.workload(none.workload)


def test_shared_policies_are_followed(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    pod = node.pod(kubectl, "web", {"podlane.io/policy": "lanes"}, AGENT)
    pod.until_event("LanesRefused", "has no ConfigMap lanes with the key policy.yaml")

    def policy(name: str) -> str:
        return f"total: 20Mbit\nclasses: [{{name: {name}, rate: 1Mbit, match: {{port: 25}}}}]"

    kubectl("create", "configmap", "lanes", f"--from-literal=policy.yaml={policy('one')}")
    until("the policy", lambda: agent.workload(pod.workload)["state"] == "programmed", patience=60)
    until_classes(agent, pod, "one")


def test_a_process_that_ends_is_not_the_end_of_its_pod(node: Node, kubectl: Kubectl, start: Any) -> None:
    """As where no name of the network namespace is to be had: the path is that of a process."""
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    second = pod.start()
    pod.host.namespace.delete()
    agent = start()
    until_classes(agent, pod, "a")
    first = pod.processes[0]
    assert agent.workload(pod.workload)["network_namespace"] == f"/proc/{first.pid}/ns/net"
    pod.kill(first)
    path = f"/proc/{second.pid}/ns/net"
    until("another path", lambda: agent.workload(pod.workload)["network_namespace"] == path)

    def in_force() -> bool:
        with suppress(HTTPError):  # they may be adopted again at this moment
            return agent.classes(pod.workload).keys() == {"a", "default"}
        return False

    until("its lanes", in_force)


def test_a_pod_of_the_same_name_is_another_one(node: Node, kubectl: Kubectl, start: Any) -> None:
    agent = start()
    first = node.pod(kubectl, "web", limits("a"), AGENT)
    until_classes(agent, first, "a")
    first.delete()
    second = node.pod(kubectl, "web", limits("b"), AGENT)
    until_classes(agent, second, "b")
    assert agent.workload(second.workload)["network_namespace"] == str(second.host.namespace.path)


def test_how_long_a_pod_sends_before_it_is_held(node: Node, kubectl: Kubectl, start: Any) -> None:
    """Without the CNI plugin; the figure of docs/how-to/agent-kubernetes.md. The limit only says that it ends."""
    start()
    took = []
    for i in range(5):
        pod = node.pod(kubectl, f"web-{i}", limits("a"), AGENT)
        began = time.monotonic()
        until("its lanes", lambda p=pod: "1:101" in p.host.run(["tc", "class", "show", "dev", "eth0"]).stdout)
        took.append(time.monotonic() - began)
    print(f"unshaped from the first process on, seconds: {', '.join(f'{each:.2f}' for each in took)}")
    assert max(took) < 15


def test_an_api_server_that_is_away_changes_nothing(node: Node, cluster: Cluster, kubectl: Kubectl, start: Any) -> None:
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    first = start()
    until_classes(first, pod, "a")
    before = state_of(pod.host)
    cluster.stop_apiserver()
    try:
        until("that it is noticed", lambda: "what the API server says is not known now" in first.log.read_text())
        assert state_of(pod.host) == before
        assert first.workload(pod.workload)["state"] == "programmed"
    finally:
        cluster.restart_apiserver()
    pod.annotate(classes=limits("b")["podlane.io/classes"])
    until_classes(first, pod, "b")
    pod.until_event("LanesProgrammed", "shared by b, default.")
    assert first.stop() == 0
    again = start()
    until_classes(again, pod, "b")
    pod.annotate(classes=limits("c")["podlane.io/classes"])
    pod.until_event("LanesProgrammed", "shared by c, default.")
    told = [each["message"] for each in pod.events() if each["reason"] == "LanesProgrammed"]
    assert len(set(told)) == len(told) == 3, "what is adopted is not told again"


def test_an_agent_that_starts_without_an_api_server_leaves_what_it_finds(
    node: Node, cluster: Cluster, kubectl: Kubectl, start: Any
) -> None:
    pod = node.pod(kubectl, "web", limits("a"), AGENT)
    first = start()
    until_classes(first, pod, "a")
    before = state_of(pod.host)
    first.stop(signal.SIGKILL)
    cluster.stop_apiserver()
    with ThreadPoolExecutor(1) as pool:
        try:
            seen = first.log.stat().st_size
            starting = pool.submit(start)

            def port() -> re.Match[str] | None:
                said = first.log.read_text()[seen:]
                return re.search(r"admin server listens.* port=(\d+)[\s\S]*what the API server says is not known", said)

            found = until("that it is noticed", port)
            assert state_of(pod.host) == before
            with pytest.raises(HTTPError, match="503"):
                urlopen(f"http://127.0.0.1:{found[1]}/readyz", timeout=10)
        finally:
            cluster.restart_apiserver()
        until_classes(starting.result(60), pod, "a")
    assert state_of(pod.host) == before
