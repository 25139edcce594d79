"""The CNI plugin that the agent chains on a kind cluster's node: lanes before a Pod's first packet, and Pods without an agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from kind_agents import AGENTS, agents_running, told
from kind_cluster import (
    CEIL,
    SIZE,
    SYSTEM,
    Client,
    KindCluster,
    Server,
    application,
    completed,
    deployment,
    held,
    job_spec,
    last_words,
    lone_pod,
    rate_of,
    rolled_out,
    upload,
)
from kubectl import Kubectl
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

NOWHERE: Final = "agent.nodeSelector.kubernetes\\.io/os=none"
"""Of the chart: agents for no node."""
WITH_PLUGIN: Final = ("agent.enabled=true", "agent.cni.enabled=true")


def plugins(cluster: KindCluster) -> list[dict[str, Any]]:
    """Those of the node's network configuration."""
    listed: list[dict[str, Any]] = json.loads(cluster.in_node("sh", "-c", "cat /etc/cni/net.d/*.conflist"))["plugins"]
    return listed


def chained(cluster: KindCluster, on_failure: str) -> bool:
    return plugins(cluster)[-1].get("onFailure") == on_failure


@pytest.fixture(scope="module")
def node(agents: KindCluster) -> Iterator[KindCluster]:
    """Its agent chains the plugin; afterwards agents are as they were, and the plugin is not in use any more."""
    before = plugins(agents)
    agents.upgrade(*WITH_PLUGIN)
    rolled_out(agents.kubectl.within(SYSTEM), AGENTS)
    until("the plugin", lambda: chained(agents, "open"), patience=60)
    yield agents
    agents.upgrade("agent.enabled=true")
    until("the node's own plugins", lambda: plugins(agents) == before, patience=90)
    rolled_out(agents.kubectl.within(SYSTEM), AGENTS)


@contextmanager
def no_agent(cluster: KindCluster, on_failure: str) -> Iterator[None]:
    """The node's agent is away during the block, with the plugin in use as it was configured."""
    configured = (*WITH_PLUGIN, f"agent.cni.onFailure={on_failure}")
    cluster.upgrade(*configured)
    rolled_out(cluster.kubectl.within(SYSTEM), AGENTS)
    until("the plugin", lambda: chained(cluster, on_failure), patience=60)
    cluster.upgrade(*configured, NOWHERE)
    until("the end of the agent", lambda: not agents_running(cluster), patience=90)
    try:
        yield
    finally:
        cluster.upgrade(*configured)
        rolled_out(cluster.kubectl.within(SYSTEM), AGENTS)


def sending(server: Server) -> dict[str, Any]:
    """A container whose first act is an upload, and its last one to tell the rate."""
    return application("sh", "-c", f"{upload(server, SIZE, 'video.example.com', 'http')} >/dev/termination-log")


def test_the_first_packet_of_a_pod_is_in_its_lane(node: KindCluster, lanes: Kubectl, server: Server) -> None:
    assert plugins(node)[-1]["type"] == "podlane-cni"
    lanes.create({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first"}, "spec": job_spec("first", sending(server)),
    })  # fmt: skip
    assert held(rate_of(last_words(completed(lanes, "first").status_of("app")), SIZE))


def test_pods_of_others_begin_as_ever(node: KindCluster, elsewhere: Kubectl, server: Server) -> None:  # noqa: ARG001
    pod = Client.of_owner(elsewhere, deployment("other"))
    assert pod.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
    elsewhere("delete", "deployment", "other", "--wait=false")


def test_open_lets_pods_begin_without_an_agent(node: KindCluster, lanes: Kubectl, server: Server) -> None:
    with no_agent(node, "open"):
        pod = Client.of_owner(lanes, deployment("unheld"))
        assert pod.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
    until("its lanes", lambda: told(pod, "LanesProgrammed"), patience=60)
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    lanes("delete", "deployment", "unheld", "--wait=false")


def test_closed_has_pods_wait_for_an_agent(node: KindCluster, lanes: Kubectl, server: Server) -> None:
    """The Event of the Pod says why; what is exempted begins, and what runs already may end."""
    going = Client.of_owner(lanes, deployment("going"))
    with no_agent(node, "closed"):
        lanes.create(lone_pod("waits", containers=[sending(server)], restartPolicy="Never"))
        pod = Client(lanes, "waits")
        failed = until("the Event that says why", lambda: pod.events("FailedCreatePodSandBox"), patience=60)
        print(failed[0]["message"])
        assert "agent" in failed[0]["message"]
        assert pod.document["status"]["phase"] == "Pending"
        exempt = node.kubectl.within("kube-system")
        exempt.create(lone_pod("exempt"))
        exempt("wait", "--for=condition=Ready", "pod/exempt", "--timeout=60s", timeout=90)
        exempt("delete", "pod", "exempt", "--grace-period=1")
        lanes("delete", "deployment", "going")
        until(
            "the end of a Pod that was held",
            lambda: going.pod not in lanes("get", "pods", "--output=name"),
            patience=60,
        )
    lanes("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/waits", "--timeout=120s", timeout=150)
    assert held(rate_of(last_words(pod.status_of("app")), SIZE)), "from its first packet on"
    lanes("delete", "pod", "waits", "--wait=false")


def test_after_a_restart_of_the_node_pods_come_back_in_their_lanes(
    node: KindCluster, lanes: Kubectl, server: Server
) -> None:
    """With "closed": all Pods wait for the agent, which is itself a Pod."""
    node.upgrade(*WITH_PLUGIN, "agent.cni.onFailure=closed")
    rolled_out(node.kubectl.within(SYSTEM), AGENTS)
    until("the plugin", lambda: chained(node, "closed"), patience=60)
    pod = Client.of_owner(lanes, deployment("back"))
    restarts = pod.status_of("app")["restartCount"]
    node.restart_node()
    until("the Pod to run again", lambda: pod.has_come_back(restarts), patience=180)
    server.until_ready()
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    rolled_out(node.kubectl.within(SYSTEM), AGENTS)
    lanes("delete", "deployment", "back", "--wait=false")
