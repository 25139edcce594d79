"""What others hold Pods to beside their lanes, as the agent sees it on its node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import PodsOnNode, RunningAgent, entry, launch_agent, pods_on_node, write_workloads

from datapath.network_namespace import NetworkNamespace
from node_agent.neighbours import limits_of_others
from node_agent.place import NodeEnds
from podlane.netns import Host, Lab

pytestmark = pytest.mark.root
POLICY = {"total": "10Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": {"port": 80}}]}
TBF = ["tbf", "rate", "1gbit", "burst", "1mb", "latency", "10ms"]


@pytest.fixture
def two() -> Iterator[PodsOnNode]:
    with Lab("test") as lab:
        yield pods_on_node(lab, 2)


def node_of(two: PodsOnNode) -> Host:
    return two.server_link.b.host


def seen(two: PodsOnNode, number: int, *, annotated: bool = True) -> tuple[str, ...]:
    with (
        NetworkNamespace(node_of(two).namespace.path) as node,
        NetworkNamespace(two.pods[number].namespace.path) as pod,
    ):
        return limits_of_others(NodeEnds(namespaces=(node,)), pod, "eth0", annotated=annotated)


def test_what_cnis_plugin_lays_is_told_of_its_pod_alone(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    node, end = node_of(two), two.links[0].b.interface
    assert (seen(two, 0), seen(two, 1)) == ((), ())
    node.run(["tc", "qdisc", "add", "dev", end, "root", *TBF])
    node.ip("link", "add", "bwp0123456789a", "type", "ifb")
    node.run(["tc", "qdisc", "add", "dev", end, "ingress"])
    match = ["u32", "match", "u32", "0", "0"]
    node.run(
        [
            "tc",
            "filter",
            "add",
            "dev",
            end,
            "parent",
            "ffff:",
            "protocol",
            "all",
            *match,
            "action",
            "mirred",
            "egress",
            "redirect",
            "dev",
            "bwp0123456789a",
        ]
    )
    received, sent = seen(two, 0)
    assert received.startswith("A tbf of others at the node's end of its link holds what it receives to 1Gbit")
    assert "kubernetes.io/ingress-bandwidth" in received
    assert "holds what it sends" in sent
    assert seen(two, 1) == ()
    path = tmp_path / "workloads.yaml"
    write_workloads(path, *(entry(pod, POLICY) for pod in two.pods))
    agents.append(launch_agent(tmp_path, "--workloads", str(path), "--datapath", "step-aside", host=node))
    for pod in two.pods:
        agents[0].until_state(pod, "programmed")
    assert agents[0].workload(two.pods[0])["warnings"] == [received, sent]
    assert agents[0].workload(two.pods[1])["warnings"] == []


def cilium(two: PodsOnNode) -> str:
    """What Cilium leaves at the first Pod's link, and the default route; gives the uplink."""
    node, end, uplink = node_of(two), two.links[0].b.interface, two.server_link.b.interface
    node.ip("link", "set", end, "name", "lxc0123")
    node.run(["tc", "qdisc", "add", "dev", "lxc0123", "clsact"])
    node.run(["tc", "filter", "add", "dev", "lxc0123", "ingress", "prio", "1", "bpf", "bytecode", "1,6 0 0 0"])
    node.ip("route", "add", "default", "dev", uplink)
    return uplink


def test_cilium_without_its_bandwidth_manager_is_not_told(two: PodsOnNode) -> None:
    cilium(two)
    assert seen(two, 0) == ()


@pytest.mark.nightly  # the kernels of the gate may have no fq: it does not pretend to try this
def test_cilium_is_told_where_its_manager_paces(two: PodsOnNode) -> None:
    uplink = cilium(two)
    if "unknown" in node_of(two).run(["tc", "qdisc", "replace", "dev", uplink, "root", "fq"], check=False).stderr:
        pytest.skip("this kernel has no fq")
    (told,) = seen(two, 0)
    assert f"fq at {uplink}" in told
    assert "Remove the annotation kubernetes.io/egress-bandwidth" in told
    assert seen(two, 0, annotated=False) == (), "its manager holds the Pod to nothing"
    assert seen(two, 1) == ()
