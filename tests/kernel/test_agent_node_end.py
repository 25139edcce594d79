"""The node agent with ``--enforce host``: what a Pod sends and receives is held where no program of the Pod can reach."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, entry, start_agent
from ebpf_judge import require_programs
from lab import connect, serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import state_of
from uploads import http_upload, pushing, receiving
from waiting import until

from datapath.ebpf.hooks import foreign_programs
from podlane.netns import Host

pytestmark = pytest.mark.root
PACKET_SOCKET = Path(__file__).parents[1] / "evasion" / "packet_socket.py"


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


def upload_rate(pod: Host, two: PodsOnNode, name: str) -> float:
    meter = Meter()
    with (
        serving(two.server, receiving(meter)) as port,
        pushing(connect(pod, two.server_ipv4, port), http_upload(name)),
    ):
        return meter.megabits


def held(rate: Callable[[], float], ceil: float) -> None:
    """``rate`` measures Mbit/s; too little of it may be the machine's doing, too much never is."""
    measured = []
    for _ in range(ATTEMPTS):
        measured.append(rate())
        assert measured[-1] < ceil * 1.05
        if measured[-1] > ceil * 0.95:
            return
    pytest.fail(f"{measured} of {ceil} Mbit/s")


def frames_rate(pod: Host, two: PodsOnNode, *options: str) -> float:
    """Mbit/s of UDP frames from a packet socket, as they come to the server."""
    link = two.links[0]
    mac = json.loads(node_of(two).ip("-j", "link", "show", "dev", link.b.interface))[0]["address"]
    with two.server.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("", 9))
        sink.settimeout(10)
        place = ("eth0", mac, str(link.a.ipv4), two.server_ipv4, "9", "20", *options)
        sender = pod.popen([sys.executable, str(PACKET_SOCKET), *place])
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
