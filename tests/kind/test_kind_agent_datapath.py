"""What reads first bytes in a kind cluster's Pods: programs in the kernel where it takes them, the agent where not, or where
a policy has more than they can read."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from kind_agents import agents_container, in_the_network_of, until_in_force, workload_of
from kind_cluster import CEIL, LANES, SIZE, SYSTEM, Client, KindCluster, Server, classes
from kubectl import Kubectl, RefusedError
from waiting import until

from datapath.ebpf import features

pytestmark = pytest.mark.timeout(300, method="signal")

SERVED: Final = {"sni": ["served.example.com"], "direction": "inbound"}
"""A name that may come by QUIC from clients, which programs do not read."""
BEYOND_PROGRAMS: Final = json.dumps([
    {"name": name, "rate": "1Mbit", "ceil": f"{CEIL}Mbit", "match": match}
    for name, match in {**LANES, "served": SERVED}.items()
])  # fmt: skip
SHAPED: Final = {"podlane.io/egress-bandwidth": "100M"}
SENT: Final = (("video.example.com", "http"), ("secret.example.com", "tls"), ("other.example.com", "bulk"))


def started(lanes: Kubectl, name: str, annotations: dict[str, str]) -> Client:
    pod = Client.start(lanes, name, annotations)
    until_in_force(pod)
    return pod


def agents_log(cluster: KindCluster) -> list[dict[str, Any]]:
    said = cluster.kubectl.within(SYSTEM)("logs", "daemonset/podlane-agent")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_a_pod_is_held_by_programs_where_the_kernel_takes_them(
    agents: KindCluster, lanes: Kubectl, server: Server
) -> None:
    """It is asked here: a node in kind has the machine's kernel."""
    kernel = features.probe()
    pod = started(lanes, "programs", SHAPED | {"podlane.io/classes": classes()})
    told, there = workload_of(pod, agents), in_the_network_of(pod, agents)
    print(kernel, told["datapath"], told["datapath_reason"])
    if kernel.available:
        assert (told["datapath"], told["datapath_reason"]) == ("ebpf", "")
        assert "NFQUEUE" not in there, "nothing is shown to the agent"
    else:
        assert told["datapath"] == "step-aside"
        assert told["datapath_reason"]
        assert "NFQUEUE" in there
        said = [each for each in agents_log(agents) if "takes no programs in the kernel" in each["event"]]
        assert [each["reason"] for each in said] == [told["datapath_reason"]]
    for host, port in SENT:
        assert pod.is_held(server, SIZE, host, port)
    assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL


def test_programs_decide_also_while_there_is_no_agent(agents: KindCluster, lanes: Kubectl, server: Server) -> None:
    """It is stopped, by a signal: it does nothing, and is not replaced for half a minute."""
    if not features.probe().available:
        pytest.skip("the kernel takes no programs")
    pod = Client.of(lanes, "programs")
    there = in_the_network_of(pod, agents)
    agents.kill(agents_container(agents), "SIGSTOP")
    try:
        for host, port in SENT[:2]:
            assert pod.is_held(server, SIZE, host, port)
        assert pod.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL
    finally:
        agents.kill(agents_container(agents), "SIGCONT")
    until("the agent to answer", lambda: answers(pod, agents), patience=60)
    assert in_the_network_of(pod, agents) == there


def answers(pod: Client, cluster: KindCluster) -> bool:
    try:
        return workload_of(pod, cluster).get("datapath") == "ebpf"
    except RefusedError:
        return False


def test_a_policy_that_programs_cannot_serve_steps_aside_and_that_is_told(
    agents: KindCluster, lanes: Kubectl, server: Server
) -> None:
    pod = Client.start(lanes, "aside", SHAPED | {"podlane.io/classes": BEYOND_PROGRAMS})
    until_in_force(pod, "shared by video, secret, bulk, served, default.")
    told = workload_of(pod, agents)
    assert told["datapath"] == "step-aside"
    assert told["datapath_reason"] != ""
    if features.probe().available:
        assert "QUIC" in told["datapath_reason"]
    assert "NFQUEUE" in in_the_network_of(pod, agents)
    for host, port in SENT:
        assert pod.is_held(server, SIZE, host, port)
    lanes("delete", "deployment", "aside", "--wait=false")
    lanes("delete", "deployment", "programs", "--wait=false")
