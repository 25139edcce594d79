"""Names that connections of real Pods have, as the agent tells a control plane that asks: by programs, and stepping aside."""

from __future__ import annotations

import queue
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import PodsOnNode, RunningAgent
from ebpf_judge import require_programs
from fleet_server import FleetCa, FleetServer, fleet_server
from lab import serving
from test_agent_control_plane import desired, join, told
from waiting import until
from webserver import start_nginx

from fleet_api.agent_pb2 import ToAgent, Watch
from podlane.netns import Host
from traffic_policy.match_key import document_key
from traffic_policy.policy_file import policy_from_document

pytestmark = pytest.mark.root
POLICY = {
    "total": "100Mbit",
    "classes": [
        {"name": "api", "rate": "1Mbit", "match": [{"sni": ["api.example.com"]}, {"host": ["*.api.example.com"]}]},
        {"name": "web", "rate": "1Mbit", "match": [{"port": [80]}]},
        {"name": "tls", "rate": "1Mbit", "match": [{"port": [8443]}]},
    ],
}
MATCHES = [match for each in policy_from_document(POLICY).to_document()["classes"] for match in each["match"]]


@pytest.fixture(name="ca")
def _ca() -> FleetCa:
    return FleetCa()


@pytest.fixture
def server(ca: FleetCa) -> Iterator[FleetServer]:
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as made:
        yield made


FLOOD = """
import socket, sys
for number in range(600):
    with socket.create_connection((sys.argv[1], 80)) as made:
        made.sendall(b"GET / HTTP/1.1\\r\\nHost: %d.evil.example\\r\\nConnection: close\\r\\n\\r\\n" % number)
        while made.recv(65536):
            pass
"""


class Heard:
    """What an agent has said of names, added up."""

    def __init__(self, server: FleetServer) -> None:
        self._server = server
        self.names: Counter[tuple[str, ...]] = Counter()
        self.hits: Counter[tuple[str, int]] = Counter()
        self.messages = 0

    def listen(self) -> None:
        """Take all that is there."""
        keys = {document_key(match): number for number, match in enumerate(MATCHES)}
        while True:
            try:
                message = self._server.heard.get_nowait()
            except queue.Empty:
                return
            if message.WhichOneof("message") != "names":
                continue
            self.messages += 1
            for each in message.names.names:
                assert (each.policy, each.direction) == ("all", "outbound")
                key = (each.workload, each.name, each.protocol, str(each.port), each.lane, each.decided)
                self.names[key] += each.connections
            for each in message.names.matches:
                self.hits[each.lane, keys.get(each.match, -1)] += each.connections


def get(pod: Host, server: str, name: str) -> None:
    pod.run(["curl", "-sS", "-o", "/dev/null", "-H", f"Host: {name}", f"http://{server}/"], check=False)


def hello(pod: Host, server: str, name: str, port: int) -> None:
    """Say a ClientHello, whatever the answer is."""
    resolve = f"{name}:{port}:{server}"
    pod.run(["curl", "-s", "-m", "0.5", "--resolve", resolve, f"https://{name}:{port}/"], check=False)


def test_names_and_hits_are_told_to_who_asks(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    require_programs()
    start_nginx(two.server, tmp_path / "nginx")
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    server.says.put(told(desired(3, all=(POLICY, {}))))
    server.next("applied")
    assert [agent.workload(each)["datapath"] for each in ("front", "back")] == ["ebpf", "step-aside"]
    heard = Heard(server)
    address = two.server_ipv4
    with serving(two.server, lambda connection: connection.recv(1 << 16), 8443):
        for pod in two.pods:
            for _ in range(3):
                get(pod, address, "eu.api.example.com")
            for _ in range(2):
                get(pod, address, "www.example.com")
            hello(pod, address, "api.example.com", 443)
            hello(pod, address, "Pypi.Example.org", 443)
            hello(pod, address, "db.example.org", 8443)
        heard.listen()
        assert heard.messages == 0, "nobody has asked for names"
        server.says.put(ToAgent(watch=Watch(names_every=1)))
        wanted = {
            (workload, *rest): count
            for workload in ("front", "back")
            for rest, count in {
                ("eu.api.example.com", "http1", "80", "api", "name"): 3,
                ("www.example.com", "http1", "80", "web", "port"): 2,
                ("api.example.com", "tls", "443", "api", "name"): 1,
                ("pypi.example.org", "tls", "443", "default", "default"): 1,
                ("db.example.org", "tls", "8443", "tls", "port"): 1,
            }.items()
        }

        def all_names() -> bool:
            heard.listen()
            by_place: Counter[tuple[str, ...]] = Counter()
            for (_, *rest), count in heard.names.items():
                by_place[tuple(rest)] += count
            both: Counter[tuple[str, ...]] = Counter()
            for (_, *rest), count in wanted.items():
                both[tuple(rest)] += count
            return by_place == both

        # Programs are looked at each five seconds. What both Pods have seen is told once, of one of them.
        until("the names of both", all_names, patience=30)
        assert heard.hits == {("api", 0): 2, ("api", 1): 6, ("web", 2): 4, ("tls", 3): 2, ("default", -1): 2}

        # A name is put into a lane: from now on it is there, also where programs decide.
        sorted_in = {**POLICY, "classes": [*POLICY["classes"]]}
        sorted_in["classes"][0] = {**POLICY["classes"][0], "match": [{"sni": ["api.example.com", "pypi.example.org"]}]}
        server.says.put(told(desired(4, all=(sorted_in, {}))))
        server.next("applied")
        for pod in two.pods:
            hello(pod, address, "pypi.example.org", 443)
        place = ("pypi.example.org", "tls", "443", "api", "name")
        until(
            "it in its lane",
            lambda: heard.listen() or sum(n for (_, *rest), n in heard.names.items() if tuple(rest) == place) == 2,
            patience=30,
        )
        server.says.put(ToAgent(watch=Watch()))
        get(two.pods[0], address, "late.example.com")
        server.next("report")
        before = heard.messages
        server.next("health", 15)
        heard.listen()
        assert heard.messages == before


def test_a_program_that_invents_names_is_bounded(
    two: PodsOnNode, server: FleetServer, ca: FleetCa, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    require_programs()
    start_nginx(two.server, tmp_path / "nginx")
    agent = join(tmp_path, two, server.port, ca)
    agents.append(agent)
    server.says.put(told(desired(3, all=(POLICY, {}))))
    server.next("applied")
    front, back = two.pods
    front.run([sys.executable, "-c", FLOOD, two.server_ipv4])
    get(back, two.server_ipv4, "honest.example.com")
    server.says.put(ToAgent(watch=Watch(names_every=1)))
    heard = Heard(server)
    until(
        "the honest name",
        lambda: heard.listen() or any(key[1] == "honest.example.com" for key in heard.names),
        patience=30,
    )
    until("all connections", lambda: heard.listen() or heard.hits["web", 2] == 601, patience=30)
    assert sum(key[1].endswith(".evil.example") for key in heard.names) <= 32 * heard.messages
