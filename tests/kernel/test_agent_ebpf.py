"""The node agent with ``datapath: ebpf``: which workloads have it, what becomes of it when the agent ends, and what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, cleanup, entry, start_agent
from ebpf_judge import require_programs
from lab import connect, serving
from sidecars import state_of
from waiting import until
from webserver import WebServer, start_nginx

from datapath.ebpf.hooks import Point, hook_at
from datapath.ebpf.libbpf import map_id, map_of_program, program_id
from datapath.ebpf.program import EGRESS, SHARED
from podlane.netns import Host

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("web")]


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


def by_host(name: str = "a", ceil: str = "4Mbit", **more: Any) -> dict[str, Any]:
    return {
        "total": "100Mbit",
        "classes": [{"name": name, "rate": "1Mbit", "ceil": ceil, "match": {"host": "web.example.com"}}],
        **more,
    }


def by_sni(**more: Any) -> dict[str, Any]:
    return {
        "total": "100Mbit",
        "classes": [{"name": "a", "rate": "1Mbit", "match": {"sni": "web.example.com", **more}}],
    }


OF_CLIENTS_BY_UDP = {
    "total": "100Mbit",
    "classes": [
        {
            "name": "a",
            "rate": "1Mbit",
            "match": [{"sni": "web.example.com"}, {"port": 53, "protocol": "udp", "direction": "inbound"}],
        }
    ],
}
"""Programs cannot tell such answers apart."""


def start(folder: Path, *entries: dict[str, Any]) -> RunningAgent:
    return start_agent(folder, *entries, datapath="auto")


@pytest.fixture(name="web")
def _web(two: PodsOnNode, tmp_path: Path) -> WebServer:
    return start_nginx(two.server, tmp_path / "nginx")


def program_at(host: Host) -> int | None:
    """The id of our program at a Pod's interface."""
    with host.namespace.entered():
        found = hook_at(socket.if_nametoindex("eth0"), EGRESS, Point.EGRESS).ours()
    if found is None:
        return None
    try:
        return program_id(found)
    finally:
        os.close(found)


def shared_by(pod: Host) -> list[int]:
    """The ids of the maps that the program at a Pod's interface may have in common with others."""
    with pod.namespace.entered():
        found = hook_at(socket.if_nametoindex("eth0"), EGRESS, Point.EGRESS).ours()
    assert found is not None
    ids = []
    for name in SHARED:
        fd = map_of_program(found, name)
        assert fd is not None
        ids.append(map_id(fd))
        os.close(fd)
    os.close(found)
    return ids


def push(pod: Host, two: PodsOnNode, body: Path, size: int, name: str = "web.example.com") -> Any:
    """Start an upload."""
    body.write_bytes(random.Random(3).randbytes(size))
    return pod.popen(["curl", "-sS", "-f", "-T", str(body), "-H", f"Host: {name}", f"http://{two.server_ipv4}/f"])


def swallow(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answer(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(bytes(300_000))


def sent(agent: RunningAgent, pod: Host, name: str) -> int:
    return int(agent.classes(pod)[name]["bytes"])


def test_programs_decide_where_they_can_and_the_others_step_aside(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    untouched = [state_of(pod) for pod in two.pods]
    agent = start(tmp_path, entry(one, by_host()), entry(other, OF_CLIENTS_BY_UDP))
    agents.append(agent)
    agent.until_state(one, "programmed")
    agent.until_state(other, "programmed")
    workload = agent.workload(one)
    assert (workload["datapath"], workload["datapath_reason"]) == ("ebpf", "")
    assert program_at(one) is not None
    assert "PODLANE" not in state_of(one), "no rules are needed"
    assert push(one, two, tmp_path / "body", 300_000).wait(30) == 0
    until("the upload in its class", lambda: sent(agent, one, "a") > 300_000)
    assert sent(agent, one, "default") < 5000
    workload = agent.workload(other)
    assert workload["datapath"] == "step-aside"
    assert workload["datapath_reason"].startswith(
        "With datapath: ebpf answers to clients are told apart with TCP alone"
    )
    assert program_at(other) is None
    metrics = agent.get("/metrics")
    assert 'podlane_agent_datapaths{datapath="ebpf"} 1.0' in metrics
    assert 'podlane_agent_datapaths{datapath="step-aside"} 1.0' in metrics
    document = json.loads(agent.get(f"/classes?workload={one.namespace.name}"))
    assert document["datapath"] == "ebpf"
    agent.write(entry(other, OF_CLIENTS_BY_UDP))
    until("the end of its lanes", lambda: not agent.workload(one) and state_of(one) == untouched[0])
    assert program_at(one) is None


def test_a_workload_chooses_and_changes_its_mind(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, other = two.pods
    blocking = by_host(quic="block")
    blocking["classes"][0]["match"] = [{"host": "web.example.com"}, {"sni": "web.example.com"}]
    agent = start(
        tmp_path, {**entry(one, by_host()), "datapath": "step-aside"}, {**entry(other, by_sni()), "datapath": "ebpf"}
    )
    agents.append(agent)
    for pod, way in ((one, "step-aside"), (other, "ebpf")):
        agent.until_state(pod, "programmed")
        assert (agent.workload(pod)["datapath"], agent.workload(pod)["datapath_reason"]) == (way, "")
    for entries, ways in (
        ((entry(one, by_host()), entry(other, by_sni(protocol="tcp"))), ("ebpf", "ebpf")),
        ((entry(one, by_host()), entry(other, OF_CLIENTS_BY_UDP)), ("ebpf", "step-aside")),
        ((entry(one, by_host()), entry(other, by_sni(direction="both"))), ("ebpf", "ebpf")),
        ((entry(one, by_host()), entry(other, by_sni())), ("ebpf", "ebpf")),
        (
            (entry(one, blocking), {**entry(other, by_sni()), "datapath": "step-aside"}),
            ("ebpf", "step-aside"),
        ),
    ):
        agent.write(*entries)
        for pod, way in zip(two.pods, ways, strict=True):
            until(f"{pod.short_name}: {way}", lambda p=pod, w=way: agent.workload(p)["datapath"] == w)
            assert (program_at(pod) is not None) == (way == "ebpf")
            assert ("PODLANE" in state_of(pod)) == (way != "ebpf")
    sending = push(one, two, tmp_path / "body", 300_000)
    assert sending.wait(30) == 0
    until("the upload in its class", lambda: sent(agent, one, "a") > 300_000)
    agent.write(entry(one, by_host(), "gone"))
    until("the new name", lambda: agent.workload("gone").get("state") == "programmed")


def test_a_killed_agent_is_missed_by_nobody_and_the_next_one_adopts(
    two: PodsOnNode, web: WebServer, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    entries = (entry(one, by_host("up")), entry(other, by_host("b")))
    first = start(tmp_path, entry(one, by_host("gone")), entries[1])
    agents.append(first)
    first.until_in_force(one, by_host("gone"))
    first.write(*entries)  # so that class ids are not those of a fresh policy
    first.until_in_force(one, by_host("up"))
    first.until_state(other, "programmed")
    sending = push(one, two, tmp_path / "body", 30_000_000)
    until("a slow upload", lambda: sent(first, one, "up") > 300_000)
    before = [(state_of(pod), program_at(pod)) for pod in two.pods]
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    assert [(state_of(pod), program_at(pod)) for pod in two.pods] == before, "lanes stay"
    # Without an agent new connections are decided as before.
    small = tmp_path / "small"
    assert push(other, two, small, 300_000).wait(30) == 0
    again = start(tmp_path, *entries)
    agents.append(again)
    again.until_in_force(one, by_host("up"))
    again.until_state(other, "programmed")
    assert sent(again, other, "b") > 300_000
    assert [(state_of(pod), program_at(pod)) for pod in two.pods] == before, "nothing was written that was there"
    counted = sent(again, one, "up")
    until("the old upload in its class", lambda: sent(again, one, "up") > counted + 100_000)
    again.write(entry(one, by_host("up", "90Mbit")), entries[1])
    assert sending.wait(30) == 0
    assert sent(again, one, "default") < 10_000
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def test_sigterm_leaves_the_programs_and_cleanup_leaves_nothing(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    untouched = [state_of(pod) for pod in two.pods]
    agent = start(tmp_path, entry(one, by_host()), entry(other, by_host()))
    agents.append(agent)
    for pod in two.pods:
        agent.until_state(pod, "programmed")
    before = [program_at(pod) for pod in two.pods]
    assert all(before)
    assert agent.stop() == 0
    assert [program_at(pod) for pod in two.pods] == before
    agents.append(start(tmp_path, entry(other, by_host())))  # nobody names the first any more
    until("the end of its lanes", lambda: state_of(one) == untouched[0])
    assert (program_at(one), program_at(other)) == (None, before[1])
    agents[-1].stop(signal.SIGKILL)
    assert "removed from 1 network namespaces" in cleanup(tmp_path)
    assert (program_at(other), state_of(other)) == (None, untouched[1])


def test_a_program_that_is_taken_away_is_put_back(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, _ = two.pods
    agent = start(tmp_path, entry(one, by_host()))
    agents.append(agent)
    agent.until_state(one, "programmed")
    with one.namespace.entered():
        hook_at(socket.if_nametoindex("eth0"), EGRESS, Point.EGRESS).detach()
    until("it is there again", lambda: program_at(one) is not None, patience=60)
    metrics = f'podlane_enforcement_repairs_total{{namespace="",pod="{one.namespace.name}",part="rules"}} 1.0'
    until("a repair is counted", lambda: metrics in agent.get("/metrics"))


def test_what_programs_cannot_read_the_agent_reads(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """A request in two segments; also by the next agent, which goes on with the same ring buffer."""
    one, _ = two.pods
    agents.append(start(tmp_path, entry(one, by_host())))
    agents[0].until_state(one, "programmed")
    program = program_at(one)
    for again in (False, True):
        if again:
            agents[-1].stop(signal.SIGKILL)
            agents.append(start(tmp_path, entry(one, by_host())))
            agents[-1].until_state(one, "programmed")
            assert program_at(one) == program
        agent = agents[-1]
        before = sent(agent, one, "a")
        with serving(two.server, swallow, 9000), connect(one, two.server_ipv4, 9000) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"POST / HTTP/1.1\r\nHo")
            client.sendall(b"st: web.example.com\r\nContent-Length: 9999999\r\n\r\n")

            def goes_in(client: socket.socket = client, agent: RunningAgent = agent, before: int = before) -> bool:
                client.sendall(bytes(20_000))
                return sent(agent, one, "a") > before + 50_000

            until("its class", goes_in)
        counted = f'podlane_connections_total{{namespace="",pod="{one.namespace.name}",class="a",protocol="http1"}}'
        until("it is counted", lambda a=agent, c=counted: c in a.get("/metrics"), patience=60)


FLOOD = """
import socket, sys
for _ in range(200):
    with socket.create_connection((sys.argv[1], 9000)) as client:
        client.sendall(b"G" * 3000)
"""


def test_one_ring_is_for_all_and_who_floods_it_loses_its_own(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """Also what was shown while nobody read, and to lanes that the next agent adopts one after the other."""
    one, other = two.pods
    agents.append(start(tmp_path, entry(one, by_host())))
    agents[0].until_state(one, "programmed")
    agents[0].write(entry(one, by_host()), entry(other, by_host()))
    agents[0].until_state(other, "programmed")
    ids = shared_by(one)
    assert shared_by(other) == ids
    agents[0].stop(signal.SIGKILL)
    with serving(two.server, swallow, 9000), connect(other, two.server_ipv4, 9000) as client:
        one.run([sys.executable, "-c", FLOOD, two.server_ipv4])
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"POST / HTTP/1.1\r\nHo")
        client.sendall(b"st: web.example.com\r\nContent-Length: 9999999\r\n\r\n")
        agents.append(start(tmp_path, entry(one, by_host()), entry(other, by_host())))
        agent = agents[-1]
        for pod in two.pods:
            agent.until_state(pod, "programmed")
        assert (shared_by(one), shared_by(other)) == (ids, ids)

        def goes_in() -> bool:
            client.sendall(bytes(20_000))
            return sent(agent, other, "a") > 50_000

        until("its class", goes_in)
    # The ring of the one that goes stays that of the other, and is that of the next.
    agent.write(entry(other, by_host("renamed")))
    until("the end of its lanes", lambda: not agent.workload(one) and program_at(one) is None)
    agent.write(entry(one, by_host()), entry(other, by_host("renamed")))
    agent.until_state(one, "programmed")
    assert (shared_by(one), shared_by(other)) == (ids, ids)


def test_what_clients_ask_for_decides(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, _ = two.pods
    untouched = state_of(one)
    policy = by_host()
    policy["classes"][0]["match"]["direction"] = "inbound"
    agent = start(tmp_path, entry(one, policy))
    agents.append(agent)
    agent.until_state(one, "programmed")
    assert agent.workload(one)["datapath"] == "ebpf"
    with serving(one, answer, 8080), connect(two.server, str(two.links[0].a.ipv4), 8080) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        until("the answer in its class", lambda: client.recv(1 << 16) and sent(agent, one, "a") > 100_000)
    agent.stop()
    assert "removed from 1 network namespaces" in cleanup(tmp_path)
    assert state_of(one) == untouched
