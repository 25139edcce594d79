"""Which datapath a workload of the node agent has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD
from node_agent.datapath import ChosenDatapath, NodeDatapath, choose
from node_agent.sources.file import read_workloads
from node_agent.workload import PodClaim, WantedLanes, lanes_of_annotations, lanes_of_policy
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import AgentDatapath, Datapath

HOST = "{total: 10Mbit, classes: [{name: a, rate: 1Mbit, match: {host: a.example.com}}]}"
SNI = "{total: 10Mbit, classes: [{name: a, rate: 1Mbit, match: {sni: a.example.com}}]}"


def lanes(text: str, datapath: Datapath | None = None) -> WantedLanes:
    return lanes_of_policy(parse_policy(text), datapath=datapath)


CHOICES = {
    "a host": (HOST, AgentDatapath.AUTO, None, "ebpf", ""),
    "a server name, which QUIC has too": (SNI, AgentDatapath.AUTO, None, "ebpf", ""),
    "a server name in what clients open": (
        SNI.replace("sni:", "direction: both, sni:"), AgentDatapath.AUTO, None, "ebpf", "",
    ),
    "a server name in TCP": (SNI.replace("sni:", "protocol: tcp, direction: both, sni:"), AgentDatapath.AUTO, None, "ebpf", ""),
    "a server name in QUIC that clients open": (
        SNI.replace("sni:", "protocol: udp, direction: inbound, sni:"), AgentDatapath.AUTO, None, "ebpf", "",
    ),
    "this workload has programs": (HOST, AgentDatapath.STEP_ASIDE, Datapath.EBPF, "ebpf", ""),
    "this workload steps aside": (HOST, AgentDatapath.EBPF, Datapath.STEP_ASIDE, "step-aside", ""),
    "all of the node do": (HOST, AgentDatapath.STEP_ASIDE, None, "step-aside", ""),
    "what clients ask for": (HOST.replace("host:", "direction: inbound, host:"), AgentDatapath.AUTO, None, "ebpf", ""),
    "what clients ask for by UDP": (
        HOST.replace("host: a.example.com", "direction: inbound, protocol: udp, port: 53"),
        AgentDatapath.EBPF, None, "step-aside", "With datapath: ebpf answers",
    ),
    "too many matches, of both directions": (
        HOST.replace(
            "{host: a.example.com}",
            str([{"port": n + 1} for n in range(1000)] + [{"port": n + 1, "direction": "inbound"} for n in range(25)]),
        ),
        AgentDatapath.AUTO, None, "step-aside", "The policy has 1025 matches",
    ),
    "too many matches": (
        HOST.replace("{host: a.example.com}", str([{"port": n + 1} for n in range(1025)])),
        AgentDatapath.AUTO, None, "step-aside", "The policy has 1025 matches",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "node", "asked", "chosen", "reason"), CHOICES.values(), ids=list(CHOICES))
def test_programs_serve_whom_they_can(
    text: str, node: AgentDatapath, asked: Datapath | None, chosen: str, reason: str
) -> None:
    found = choose(NodeDatapath(node), lanes(text, asked), None)
    assert found.datapath == chosen
    assert found.reason.startswith(reason)
    assert bool(found.reason) == bool(reason)


def test_what_is_in_the_way_is_told() -> None:
    node = NodeDatapath(AgentDatapath.EBPF, "libbpf.so.1 is not here")
    assert choose(node, lanes(HOST), None).reason == "libbpf.so.1 is not here"
    assert choose(NodeDatapath(), lanes(HOST), None, "the hook is taken").reason == "the hook is taken"
    aside = choose(node, lanes(HOST, Datapath.STEP_ASIDE), None)
    assert aside == (choose(NodeDatapath(AgentDatapath.STEP_ASIDE, "anything"), lanes(HOST), None))
    assert aside.reason == "", "it is as it was asked for"


def test_beside_a_mesh_programs_serve_all_but_what_its_proxy_marks() -> None:
    for mesh in (ISTIO, ISTIO_AMBIENT, LINKERD):
        assert choose(NodeDatapath(), lanes(HOST), mesh) == ChosenDatapath(Datapath.EBPF)
    marked = replace(lanes(HOST), mesh_marks=True)
    aside = choose(NodeDatapath(), marked, ISTIO)
    assert aside.datapath == "step-aside"
    assert aside.reason.startswith("The marks of Istio's proxy say the class of its connections")
    assert choose(NodeDatapath(), marked, None).datapath == "ebpf", "nobody marks"
    by_port = [{"host": f"n{n}.example.com", "port": 80} for n in range(513)]
    many = lanes(HOST.replace("{host: a.example.com}", str(by_port)))
    assert choose(NodeDatapath(), many, LINKERD).datapath == "ebpf"
    assert choose(NodeDatapath(), many, ISTIO).reason == (
        "The policy has 513 matches (beside Istio 513 of them, by name and port, count twice); "
        "datapath: ebpf takes 1024."
    )


def test_at_the_nodes_end_programs_tell_downloads_by_name() -> None:
    limited = lanes(
        HOST.replace("match:", "ingress: {rate: 1Mbit}, match:").replace("{total:", "{ingress: {total: 5Mbit}, total:")
    )
    assert choose(NodeDatapath(), limited, None).datapath == "step-aside"
    assert choose(NodeDatapath(), limited, None, at_node=True).datapath == "ebpf"


@pytest.mark.parametrize(
    ("said", "asked"), [("ebpf", Datapath.EBPF), ("step-aside", Datapath.STEP_ASIDE), ("relay", None)]
)
def test_an_annotation_asks_for_one(said: str, asked: Datapath | None) -> None:
    given = {"podlane.io/egress-bandwidth": "10M", "podlane.io/datapath": said}
    assert lanes_of_annotations(given).datapath is asked


def test_an_entry_without_a_policy_asks_for_one(tmp_path: Path) -> None:
    file = tmp_path / "workloads.yaml"
    file.write_text("workloads: [{name: a, netns: a, labels: {}, datapath: ebpf}, {name: b, netns: b}]")
    found = read_workloads(file, fleet=True).workloads
    claims = [found[name].claim for name in ("a", "b")]
    document = parse_policy(SNI).to_document()
    assert [claim and claim.lanes(document).datapath for claim in claims] == [Datapath.EBPF, None]
    assert claims[0] is not None
    assert claims[1] is not None
    assert claims[0].settings_key != claims[1].settings_key
    pod = PodClaim({}, {"podlane.io/datapath": "step-aside"})
    assert pod.lanes(document).datapath is Datapath.STEP_ASIDE
