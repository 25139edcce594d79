"""The node agent with ``--enforce host``: what a Pod sends and receives is held where no program of the Pod can reach."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, cleanup, entry, launch_agent, pods_on_node, start_agent, write_workloads
from downloads import endless, reading
from ebpf_judge import require_programs
from evasion_page import rows
from lab import connect, serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import state_of
from uploads import http_upload, pushing, receiving
from waiting import until

from datapath.ebpf.clsact import ClsactHook
from datapath.ebpf.hooks import Point, TcxHook, foreign_programs, hook_at
from datapath.ebpf.libbpf import BpfError
from datapath.ebpf.policy_maps import HashKeys, compile_table
from datapath.ebpf.program import EGRESS, JUDGE, TO_POD, load
from datapath.routing.table import RoutingTable
from podlane.netns import Host, Lab
from tc_core.compile.mark_tree import ROOT_HANDLE
from tc_core.compile.packet_tree import ifb_name
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy

pytestmark = pytest.mark.root
EVASION = Path(__file__).parents[1] / "evasion"
PACKET_SOCKET, XDP_SOCKET = EVASION / "packet_socket.py", EVASION / "xdp_socket.py"


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


def by_host(name: str = "a", ceil: str = "4Mbit", total: str = "8Mbit", **more: Any) -> dict[str, Any]:
    return {
        "total": total,
        "classes": [{"name": name, "rate": "1Mbit", "ceil": ceil, "match": {"host": "web.example.com"}}],
        "default": {"rate": "1Mbit", "ceil": "2Mbit"},
        **more,
    }


def node_of(two: PodsOnNode) -> Host:
    return two.server_link.b.host


def left_at(node: Host) -> tuple[str, ...]:
    """All that could be left at the node's ends of links."""
    links = {each["ifname"]: each.get("ifalias", "") for each in json.loads(node.ip("-j", "link"))}
    programs = [foreign_or_ours(node, name) for name in links]
    queues = node.run(["tc", "qdisc"]).stdout
    return json.dumps(links, sort_keys=True), queues, str(programs)


def foreign_or_ours(node: Host, interface: str) -> int:
    """The number of programs at tcx."""
    with node.namespace.entered():
        index = socket.if_nametoindex(interface)
        return len(foreign_programs(index, ours=frozenset()))


def start(folder: Path, two: PodsOnNode, *entries: dict[str, Any]) -> RunningAgent:
    return start_agent(folder, *entries, datapath="auto", node=node_of(two))


def arriving(host: Host, meter: Meter) -> float:
    """Mbit/s at a host's interface. (What its program reads also waits for packets that were lost.)"""
    assert meter.settled.wait(30)
    began, before = time.monotonic(), bytes_at(host)
    assert meter.done.wait(30)
    return (bytes_at(host) - before) * 8 / (time.monotonic() - began) / 1e6


def bytes_at(host: Host) -> int:
    return int(json.loads(host.ip("-j", "-s", "link", "show", "dev", "eth0"))[0]["stats64"]["rx"]["bytes"])


def upload_rate(pod: Host, two: PodsOnNode, name: str) -> float:
    meter = Meter()
    with (
        serving(two.server, receiving(meter)) as port,
        pushing(connect(pod, two.server_ipv4, port), http_upload(name)),
    ):
        return arriving(two.server, meter)


def held(rate: Callable[[], float], ceil: float) -> None:
    """``rate`` measures Mbit/s; too little of it may be the machine's doing, too much never is."""
    measured = []
    for _ in range(ATTEMPTS):
        measured.append(rate())
        assert measured[-1] < ceil * 1.05
        if measured[-1] > ceil * 0.95:
            return
    pytest.fail(f"{measured} of {ceil} Mbit/s")


def frames_rate(pod: Host, two: PodsOnNode, *options: str, program: Path = PACKET_SOCKET) -> float:
    """Mbit/s of UDP frames from a packet socket, or another such program, as they come to the server."""
    link = two.links[0]
    mac = json.loads(node_of(two).ip("-j", "link", "show", "dev", link.b.interface))[0]["address"]
    with two.server.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("", 9))
        sink.settimeout(10)
        place = ("eth0", mac, str(link.a.ipv4), two.server_ipv4, "9", "20", *options)
        sender = pod.popen([sys.executable, str(program), *place])
        meter = Meter()
        while not meter.done.is_set():
            meter.count(len(sink.recv(2048)) + 42)
        sender.kill()
        sender.wait()
        return meter.megabits


@pytest.mark.parametrize("options", [("--bypass",), ("--bypass", "--priority", "0x10101"), ()])
def test_frames_that_go_past_the_queues_of_the_pod_are_held(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent], options: tuple[str, ...]
) -> None:
    one, _ = two.pods
    agents.append(start(tmp_path, two, entry(one, by_host())))
    agents[0].until_state(one, "programmed")
    held(lambda: frames_rate(one, two, *options), 2.0)
    if "--bypass" in options:
        assert rows("From inside the Pod")["AF_PACKET with PACKET_QDISC_BYPASS, enforce: host"] == "held"


def test_af_xdp_is_held(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """In copy mode, which takes CAP_NET_RAW alone; veth has no other without a program in the other namespace."""
    one, _ = two.pods
    agents.append(start(tmp_path, two, entry(one, by_host())))
    agents[0].until_state(one, "programmed")
    held(lambda: frames_rate(one, two, program=XDP_SOCKET), 2.0)
    assert rows("From inside the Pod")["AF_XDP, enforce: host"] == "held"


def test_what_a_pod_sends_is_held_at_the_nodes_end(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, _ = two.pods
    untouched = state_of(one), left_at(node_of(two))
    agent = start(tmp_path, two, entry(one, by_host()))
    agents.append(agent)
    agent.until_state(one, "programmed")
    assert state_of(one) == untouched[0], "nothing is inside the Pod"
    for name, ceil in (("web.example.com", 4.0), ("other.example.com", 2.0)):
        held(lambda name=name: upload_rate(one, two, name), ceil * PAYLOAD_SHARE)  # type: ignore[misc]
    agent.write()
    until("the end of its lanes", lambda: (state_of(one), left_at(node_of(two))) == untouched)
    assert programs_at(two) == []


def programs_at(two: PodsOnNode, number: int = 0) -> list[int]:
    """The ids of our programs for a Pod: for what it sends, for what it receives."""
    interface = two.links[number].b.interface
    found = []
    with node_of(two).namespace.entered():
        for device, name, parent in ((ifb_name(interface), EGRESS, int(ROOT_HANDLE)), (interface, TO_POD, None)):
            with suppress(OSError):
                index = socket.if_nametoindex(device)
                hook = hook_at(index, name, Point.EGRESS) if parent is None else ClsactHook(index, name, parent)
                if (program := hook.program()) is not None:
                    found.append(program)
    return found


def sent(agent: RunningAgent, pod: Host, name: str) -> int:
    return int(agent.classes(pod)[name]["bytes"])


def test_a_killed_agent_is_missed_by_nobody_and_the_next_one_adopts(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    untouched = left_at(node_of(two))
    entries = (entry(one, by_host("up")), entry(other, by_host("b")))
    first = start(tmp_path, two, entry(one, by_host("gone")), entries[1])
    agents.append(first)
    first.until_in_force(one, by_host("gone"))
    first.write(*entries)  # so that class ids are not those of a fresh policy
    first.until_in_force(one, by_host("up"))
    first.until_state(other, "programmed")
    assert first.workload(one)["enforce"] == "host"
    meter = Meter()
    with (
        serving(two.server, receiving(meter)) as port,
        pushing(connect(one, two.server_ipv4, port), http_upload("web.example.com")),
    ):
        until("the upload in its class", lambda: sent(first, one, "up") > 300_000)
        before = left_at(node_of(two)), programs_at(two), programs_at(two, 1)
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        meter.wait_for_more()
        again = start(tmp_path, two, *entries)
        agents.append(again)
        again.until_in_force(one, by_host("up"))
        again.until_state(other, "programmed")
        assert (left_at(node_of(two)), programs_at(two), programs_at(two, 1)) == before, "nothing was written"
        counted = sent(again, one, "up")
        until("the old upload in its class", lambda: sent(again, one, "up") > counted + 100_000)
        again.write(entry(one, by_host("other")), entries[1])
        again.until_in_force(one, by_host("other"))
        until("the old upload in the class that its name has now", lambda: sent(again, one, "other") > 300_000)
        assert sent(again, one, "default") < 10_000
    again.stop(signal.SIGKILL)
    two.links[0].a.host.ip("link", "del", "eth0")  # as when a Pod ends while there is no agent
    one.namespace.delete()
    last = start(tmp_path, two, entries[1])
    agents.append(last)
    last.until_state(other, "programmed")
    gone = ifb_name(two.links[0].b.interface)
    until("the end of what was left of it", lambda: gone not in node_of(two).ip("link"))
    assert ifb_name(two.links[1].b.interface) in node_of(two).ip("link")
    other.ip("link", "del", "eth0")  # and with one
    other.namespace.delete()
    last.write()
    until("the end of its lanes", lambda: "ifb" not in node_of(two).ip("link"))
    assert json.loads(untouched[0]).keys() > json.loads(left_at(node_of(two))[0]).keys()


def test_cleanup_leaves_nothing(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, _ = two.pods
    untouched = state_of(one), left_at(node_of(two))
    agents.append(start(tmp_path, two, entry(one, RECEIVES)))
    agents[0].until_state(one, "programmed")
    assert len(programs_at(two)) == 2
    agents[0].stop()
    assert len(programs_at(two)) == 2
    assert "removed from 1 network namespaces" in cleanup(tmp_path, host=node_of(two))
    assert (state_of(one), left_at(node_of(two))) == untouched
    assert programs_at(two) == []


RECEIVES: dict[str, Any] = {
    "total": "50Mbit",
    "ingress": {"total": "20Mbit"},
    "classes": [
        {
            "name": "named",
            "rate": "1Mbit",
            "ingress": {"rate": "1Mbit", "ceil": "4Mbit"},
            "match": {"host": "web.example.com"},
        },
        {"name": "free", "rate": "1Mbit", "match": {"host": "free.example.com"}},
        {"name": "ported", "rate": "1Mbit", "ingress": {"rate": "1Mbit", "ceil": "8Mbit"}, "match": {"port": 9001}},
    ],
    "default": {"ingress": {"rate": "1Mbit", "ceil": "2Mbit"}},
}


def download_rate(pod: Host, two: PodsOnNode, name: str, port: int) -> float:
    meter = Meter()
    with serving(two.server, endless, port):
        client = connect(pod, two.server_ipv4, port)
        client.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        with reading(client, meter):
            return arriving(pod, meter)


def test_downloads_are_held_without_a_device_in_the_pod(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, _ = two.pods
    untouched = state_of(one)
    agent = start(tmp_path, two, entry(one, RECEIVES))
    agents.append(agent)
    agent.until_state(one, "programmed")
    assert agent.workload(one)["enforce"] == "host"
    for name, port, ceil in (
        ("web.example.com", 9000, 4.0),
        ("web.example.com", 9001, 4.0),  # the first match wins
        ("free.example.com", 9001, 2.0),  # as it does if it has no limit
        ("other.example.com", 9001, 8.0),
        ("other.example.com", 9000, 2.0),
    ):
        held(lambda n=name, p=port: download_rate(one, two, n, p), ceil * PAYLOAD_SHARE)  # type: ignore[misc]
    assert state_of(one) == untouched


def test_the_pods_end_where_the_nodes_cannot_be(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """Also when others come to the node's end later."""
    one, other = two.pods
    node = node_of(two)
    untouched = left_at(node)
    node.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            two.links[1].b.interface,
            "root",
            "tbf",
            "rate",
            "1gbit",
            "burst",
            "1mb",
            "latency",
            "10ms",
        ]
    )
    agent = start(tmp_path, two, entry(one, by_host()), entry(other, by_host()))
    agents.append(agent)
    for pod in two.pods:
        agent.until_state(pod, "programmed")
    place = agent.workload(one)
    assert (place["enforce"], place.get("enforce_reason")) == ("host", None)
    place = agent.workload(other)
    assert place["enforce"] == "pod"
    assert "Others have traffic control at" in place["enforce_reason"]
    assert "tbf" in place["enforce_reason"]
    node.run(["tc", "qdisc", "del", "dev", two.links[1].b.interface, "root"])
    interface = two.links[0].b.interface
    if "clsact" not in node.run(["tc", "qdisc", "show", "dev", interface]).stdout:
        node.run(["tc", "qdisc", "add", "dev", interface, "clsact"])
    node.run(
        [
            "tc",
            "filter",
            "add",
            "dev",
            interface,
            "ingress",
            "protocol",
            "ip",
            "prio",
            "5",
            "bpf",
            "bytecode",
            "1,6 0 0 0",
        ]
    )
    until("its own end", lambda: agent.workload(one).get("enforce") == "pod", patience=60)
    assert "prio 5 bpf" in agent.workload(one)["enforce_reason"]
    assert programs_at(two) == []
    node.run(["tc", "filter", "del", "dev", interface, "ingress"])
    node.run(["tc", "qdisc", "del", "dev", interface, "clsact"])
    assert left_at(node) == untouched
    held(lambda: upload_rate(one, two, "web.example.com"), 4.0 * PAYLOAD_SHARE)


def test_a_program_of_others_at_the_nodes_end_is_left_alone(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """As Cilium's, where the kernel has tcx."""
    one, node = two.pods[0], node_of(two)
    maps = compile_table(RoutingTable.from_policy(parse_policy("total: 1Mbit")), ClassIds.assign([]), HashKeys.draw())
    with node.namespace.entered(), load(maps, names=(JUDGE,)) as loaded:
        hook = TcxHook(socket.if_nametoindex(two.links[0].b.interface), JUDGE)
        try:
            hook.attach(loaded.program(JUDGE))
        except BpfError:
            pytest.skip("tcx is of Linux 6.6")
    agents.append(start(tmp_path, two, entry(one, by_host())))
    agents[0].until_state(one, "programmed")
    place = agents[0].workload(one)
    assert (place["enforce"], JUDGE in place["enforce_reason"]) == ("pod", True)
    with node.namespace.entered():
        assert hook.attached()


def test_lanes_move_to_the_other_end(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """What was at the end that is not used any more goes."""
    one, node = two.pods[0], node_of(two)
    untouched = state_of(one), left_at(node)
    for enforce in ("pod", "host"):
        options = ("--workloads", str(tmp_path / "workloads.yaml"), "--enforce", enforce)
        write_workloads(tmp_path / "workloads.yaml", entry(one, by_host()))
        agents.append(launch_agent(tmp_path, *options, host=node))
        agents[-1].until_state(one, "programmed")
        assert agents[-1].workload(one)["enforce"] == enforce
        at = state_of(one) != untouched[0], left_at(node) != untouched[1]
        assert at == (enforce == "pod", enforce == "host")
        agents[-1].stop()


def test_a_policy_that_only_the_pods_end_can_honour(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, node = two.pods[0], node_of(two)
    untouched = state_of(one), left_at(node)
    agent = start(tmp_path, two, entry(one, by_host()))
    agents.append(agent)
    agent.until_state(one, "programmed")
    assert state_of(one) == untouched[0]
    dns = {"name": "b", "rate": "1Mbit", "match": {"port": 53, "protocol": "udp", "direction": "inbound"}}
    agent.write(entry(one, by_host(classes=[dns])))
    until("its own end", lambda: agent.workload(one).get("enforce") == "pod")
    assert agent.workload(one)["enforce_reason"].startswith("At the node's end only programs decide. With datapath")
    assert left_at(node) == untouched[1]
    agent.write(entry(one, by_host()))
    until("the node's", lambda: agent.workload(one).get("enforce") == "host")
    assert state_of(one) == untouched[0]


def test_pods_behind_a_bridge(lab: Lab, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """As the usual CNI plugin makes them: the node's ends are ports of a bridge."""
    two = pods_on_node(lab, 2)
    node, (one, other) = node_of(two), two.pods
    node.ip("link", "add", "cni0", "type", "bridge")
    node.ip("link", "set", "cni0", "up")
    node.ip("address", "add", "10.99.0.1/24", "dev", "cni0")
    for number, link in enumerate(two.links, 2):
        node.ip("address", "flush", "dev", link.b.interface)
        node.ip("link", "set", link.b.interface, "master", "cni0")
        link.a.host.ip("address", "flush", "dev", "eth0")
        link.a.host.add_address("eth0", f"10.99.0.{number}/24")
        link.a.host.ip("route", "replace", "default", "via", "10.99.0.1")
    two.server.route("10.99.0.0/24", two.server_link.b)
    agent = start(tmp_path, two, entry(one, by_host()), entry(other, by_host()))
    agents.append(agent)
    for pod in two.pods:
        agent.until_state(pod, "programmed")
        assert agent.workload(pod)["enforce"] == "host"
    held(lambda: upload_rate(one, two, "web.example.com"), 4.0 * PAYLOAD_SHARE)
    with serving(other, swallow, 8080), connect(one, "10.99.0.3", 8080) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")

        def goes_in() -> bool:
            client.sendall(bytes(20_000))
            return sent(agent, one, "a") > 100_000

        until("what one Pod sends to another in its class", goes_in)


def swallow(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass
