"""The agent and a control plane, on the real kernel: what is desired is in force, whoever is away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, free_port, launch_agent, write_workloads
from fleet_server import FleetCa, FleetServer, fleet_server
from waiting import until

from fleet_api.agent_pb2 import MinutesQuestion, Question, ToAgent, Watch
from fleet_api.desired import DesiredState, FleetPolicy, message_of
from node_agent.fleet.identity import IdentityFiles, request_for
from podlane.netns import Host

pytestmark = pytest.mark.root
TOKEN = "default-abc-secret"


def lanes(name: str, ceil: str = "4Mbit") -> dict[str, Any]:
    """A policy with one class."""
    matching = {"name": name, "rate": "1Mbit", "ceil": ceil, "match": {"port": 443}}
    return {"total": "100Mbit", "classes": [matching]}


def desired(revision: int, **policies: tuple[Mapping[str, Any], Mapping[str, str]]) -> DesiredState:
    """Policies by name: a document and a selector each."""
    made = {
        name: FleetPolicy(name, revision, json.dumps(document), selector)
        for name, (document, selector) in policies.items()
    }
    return DesiredState(revision, made)


def told(state: DesiredState, base: DesiredState | None = None) -> ToAgent:
    return ToAgent(desired=message_of(state, base))


def ceil_of(pod: Host, rate: str) -> bool:
    """Whether a class in the Pod's kernel has this ceil, as tc writes it."""
    return f"ceil {rate}" in pod.run(["tc", "class", "show", "dev", "eth0"]).stdout


@pytest.fixture(name="ca")
def _ca() -> FleetCa:
    return FleetCa()


@pytest.fixture
def server(ca: FleetCa) -> Iterator[FleetServer]:
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as made:
        yield made


def join(folder: Path, two: PodsOnNode, port: int, ca: FleetCa, token: str = TOKEN) -> RunningAgent:
    """An agent for two Pods without a policy of their own."""
    front, back = two.pods
    write_workloads(
        folder / "workloads.yaml",
        {"name": "front", "netns": front.namespace.name, "labels": {"tier": "front", "team": "a"}},
        {"name": "back", "netns": back.namespace.name, "labels": {"tier": "back"}, "datapath": "step-aside"},
    )
    return launch_agent(
        folder, "--workloads", str(folder / "workloads.yaml"), "--control-plane", f"127.0.0.1:{port}",
        "--join-token", f"{token}.{ca.digest}", "--cluster", "c1", "--name", "n1", "--data", str(folder / "data"),
    )  # fmt: skip


def test_what_is_desired_is_in_force_and_stays(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    front, back = two.pods
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    hello = server.next("hello")
    assert (hello.revision, hello.hash, hello.node_labels["kubernetes.io/os"]) == (0, b"", "linux")
    assert "htb" in hello.abilities
    [asked] = ca.asked
    assert (asked.join_token, asked.cluster, asked.node) == (TOKEN, "c1", "n1")
    assert json.loads(agent.get("/workloads"))["workloads"] == [], "nobody has asked for anything"

    first = desired(7, all=(lanes("any", "5Mbit"), {}), front=(lanes("web", "7Mbit"), {"tier": "front"}))
    server.says.put(told(first))
    applied = server.next("applied")
    assert (applied.revision, applied.hash) == (7, first.hash)
    assert (applied.programmed, applied.failed, applied.waiting) == (2, 0, 0)
    assert ceil_of(front, "7Mbit")
    assert ceil_of(back, "5Mbit")
    assert agent.workload("front")["fleet_policy"] == "front"
    assert agent.workload("back")["datapath"] == "step-aside", "its entry says so"

    # A change, of which one workload has nothing, and one that the agent cannot honour.
    second = desired(9, all=(lanes("any", "5Mbit"), {}), front=(lanes("web", "9Mbit"), {"tier": "front"}))
    server.says.put(told(second, first))
    assert server.next("applied").revision == 9
    assert ceil_of(front, "9Mbit")
    cannot = {**lanes("web"), "shaper": "cake", "classes": []}
    third = desired(10, all=(lanes("any", "6Mbit"), {}), front=(cannot, {"tier": "front"}))
    server.says.put(told(third, second))
    applied = server.next("applied")
    assert (applied.revision, applied.programmed, applied.failed) == (10, 1, 1)
    [failure] = applied.failures
    assert (failure.workload, failure.policy) == ("front", "front")
    assert "What was in force stays so. The control plane's policy front cannot be honoured." in failure.reason
    assert "shaper" in failure.reason
    assert ceil_of(front, "9Mbit")
    assert ceil_of(back, "6Mbit")

    # The server goes, and all stays.
    server.server.stop(0).wait()
    until("the loss is told", lambda: "The control plane is not connected" in agent.get("/healthz"))
    assert ceil_of(back, "6Mbit")
    assert "podlane_agent_control_plane_connected 0.0" in agent.get("/metrics")
    assert "podlane_agent_control_plane_revision 10.0" in agent.get("/metrics")


def test_a_restart_without_a_control_plane_has_all_in_force(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    front, back = two.pods
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    state = desired(3, all=(lanes("any", "5Mbit"), {}), team=(lanes("ours", "8Mbit"), {"team": "a"}))
    server.says.put(told(state))
    assert server.next("applied").programmed == 2
    server.server.stop(0).wait()
    assert agent.stop(signal.SIGKILL) < 0
    for pod in two.pods:
        pod.run(["tc", "qdisc", "del", "dev", "eth0", "root"])  # as after a reboot
    agents.append(join(tmp_path, two, free_port(), ca))
    agents[-1].until_state("front", "programmed")
    agents[-1].until_state("back", "programmed")
    assert ceil_of(front, "8Mbit")
    assert ceil_of(back, "5Mbit")
    assert len(ca.asked) == 1, "it has its certificate still"
    node = json.loads(agents[-1].get("/node"))["control_plane"]
    assert (node["connected"], node["revision"]) == (False, 3)
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "data").iterdir()} == {0o600}


def test_a_damaged_state_is_asked_for_again_and_nothing_is_lost_meanwhile(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    state = desired(3, all=(lanes("any", "5Mbit"), {}))
    server.says.put(told(state))
    server.next("applied")
    assert agent.stop(signal.SIGKILL) < 0
    kept = tmp_path / "data" / "desired"
    kept.write_bytes(kept.read_bytes().replace(b"5Mbit", b"6Mbit"))
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as other:
        agents.append(join(tmp_path, two, other.port, ca))
        assert other.next("hello").revision == 0
        assert "is damaged" in agents[-1].log.read_text()
        assert all(ceil_of(pod, "5Mbit") for pod in two.pods), "nobody knows yet that they are to have nothing"
        other.says.put(told(desired(4, back=(lanes("any", "3Mbit"), {"tier": "back"}))))
        assert other.next("applied").programmed == 1
        front, back = two.pods
        assert ceil_of(back, "3Mbit")
        until("the other's end", lambda: "htb" not in front.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout)


def test_a_hash_that_differs_is_resolved_by_all_of_it(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    agents.append(join(tmp_path, two, server.port, ca))
    server.next("hello")
    state = desired(3, all=(lanes("any", "5Mbit"), {}))
    server.says.put(told(state))
    assert server.next("applied").revision == 3
    change = told(desired(5, all=(lanes("any", "6Mbit"), {})), state)
    change.desired.hash = bytes(32)
    server.says.put(change)
    assert server.next("hello").revision == 0
    server.says.put(told(desired(5, all=(lanes("any", "6Mbit"), {}))))
    # Numbers of workloads may have changed meanwhile, and are told first.
    assert next(said for said in iter(lambda: server.next("applied"), None) if said.revision != 3).revision == 5
    assert ceil_of(two.pods[0], "6Mbit")
    # All of it with a wrong hash: it is refused, the agent keeps what it has and comes again.
    for _ in range(2):
        change = told(desired(6, all=(lanes("any", "7Mbit"), {})))
        change.desired.hash = bytes(32)
        server.says.put(change)
    refusal = next(said for said in iter(lambda: server.next("applied"), None) if said.revision != 5)
    assert (refusal.revision, "another hash" in refusal.refusal) == (6, True)
    assert ceil_of(two.pods[0], "6Mbit")


def test_figures_health_and_answers(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    agents.append(join(tmp_path, two, server.port, ca))
    server.says.put(told(desired(3, all=(lanes("any", "50Mbit"), {}))))
    server.next("applied")
    assert server.next("health", 15).programmed in (0, 2)
    server.says.put(ToAgent(watch=Watch(workloads=["front", "gone"])))
    pod = two.pods[0]
    send = "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(1000), (sys.argv[1], 9))"

    def sums() -> dict[tuple[str, str], Any]:
        pod.run([sys.executable, "-c", send, two.server_ipv4])
        report = server.next("report")
        assert {each.direction for each in report.lanes} <= {"egress"}
        found = {(each.policy, each.lane): each for each in report.lanes}
        return found if found and found["all", "default"].bytes >= 1000 else {}

    found = until("the bytes", sums)
    assert found["all", "default"].workloads == 2
    assert found["all", "any"].ceil == 100_000_000
    details = until("its details", lambda: server.next("report").workloads)
    assert [each.workload for each in details] == ["front"]
    assert {each.lane for each in details[0].lanes} == {"any", "default"}
    server.says.put(ToAgent(watch=Watch(workloads=["front"], others=True)))
    details = until("details of all", lambda: len(found := server.next("report").workloads) == 2 and found)
    assert len({each.workload for each in details}) == 2
    server.says.put(ToAgent(watch=Watch()))
    until("silence", lambda: not server.next("report").workloads)

    server.says.put(ToAgent(question=Question(id=4, effective_policy="front")))
    server.says.put(ToAgent(question=Question(id=5, effective_policy="gone")))
    server.says.put(ToAgent(question=Question(id=6, diagnosis=True)))
    answer = server.next("answer")
    document = json.loads(answer.document)
    assert (answer.id, document["fleet_policy"], document["policy"]["total"]) == (4, "all", "100Mbit")
    refused = server.next("answer")
    assert (refused.id, refused.document, "no workload gone" in refused.refusal) == (5, "", True)
    assert json.loads(server.next("answer").document)["workloads"]["programmed"] == 2
    server.says.put(ToAgent(question=Question(id=7, minutes=MinutesQuestion(workloads=["front"]))))
    minutes = json.loads(server.next("answer").document)
    assert [each["workload"] for each in minutes["workloads"]] in ([], ["front"]), "looked at once a minute"


def test_a_certificate_is_renewed_on_the_stream(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    ca.renew_in = 0.0
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    renew = server.next("renew")
    before = json.loads((tmp_path / "data" / "identity.json").read_text())
    ca.renew_in = 3600.0
    server.says.put(ToAgent(credentials=ca.issue(renew.csr)))
    kept = tmp_path / "data" / "identity.json"
    after = until("the next one", lambda: (now := json.loads(kept.read_text()))["chain"] != before["chain"] and now)
    assert after["key"] != before["key"]
    assert after["token"] == before["token"]


_SEND = """
import socket, sys
socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        socket.sendto(bytes(1200), (sys.argv[1], 443))
    except OSError:
        pass
"""
_COUNT = """
import json, signal, socket, sys, time
counts = {}
def end(*_):
    print(json.dumps(counts), flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("0.0.0.0", 443))
print("ready", flush=True)
while True:
    size = len(receiver.recv(2000))
    tick = int(time.monotonic() * 4)
    counts[tick] = counts.get(tick, 0) + size
"""


@contextmanager
def sending(two: PodsOnNode, pod: Host) -> Iterator[list[int]]:
    """A Pod sends as fast as it may; afterwards, bytes that have arrived in each quarter of a second."""
    seen: list[int] = []
    receiver = two.server.popen([sys.executable, "-c", _COUNT], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout.readline() == "ready\n"
    sender = pod.popen([sys.executable, "-c", _SEND, two.server_ipv4])
    try:
        yield seen
    finally:
        receiver.terminate()
        counts = {int(tick): size for tick, size in json.loads(receiver.communicate(timeout=60)[0]).items()}
        sender.kill()
        sender.wait(30)
    seen += [counts.get(tick, 0) for tick in range(min(counts), max(counts) + 1)]


def test_no_packet_is_unshaped_while_the_control_plane_is_away_and_the_certificate_ends(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """What is long in an outage, the life of a certificate, is not waited for: its end is put on the disk."""
    front, _ = two.pods
    agents.append(join(tmp_path, two, server.port, ca))
    state = desired(3, all=({**lanes("any", "2Mbit"), "total": "2Mbit"}, {}))
    server.says.put(told(state))
    assert server.next("applied").programmed == 2
    with sending(two, front) as seen:
        server.server.stop(0).wait()
        assert agents[-1].stop(signal.SIGKILL) < 0
        files = IdentityFiles(tmp_path / "data")
        known = files.load()
        assert known is not None
        ca.lifetime = -60.0
        files.save(replace(known, chain=ca.issue(request_for(known.key)).certificate_chain))

        agents.append(join(tmp_path, two, free_port(), ca))
        agents[-1].until_state("front", "programmed")
        until("it says so", lambda: "certificate has expired" in agents[-1].get("/healthz"))
        assert "podlane join-token" in agents[-1].get("/healthz")
        assert ceil_of(front, "2Mbit")

        # The control plane is back, and the agent has a token that nobody has used.
        assert agents[-1].stop(signal.SIGKILL) < 0
        ca.lifetime = 3600.0
        with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as back:
            agents.append(join(tmp_path, two, back.port, ca, token="default-def-secret"))
            hello = back.next("hello", patience=60)
            assert (hello.revision, hello.hash) == (3, state.hash), "it has all that it was told"
            agents[-1].until_state("front", "programmed")
    assert len(seen) > 8
    assert 0 < max(seen) <= 2_000_000 / 8 / 4 * 1.5 + 32_768, seen
