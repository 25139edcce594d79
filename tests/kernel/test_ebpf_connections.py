"""``/connections`` with ``datapath: ebpf``: what the kernel's sockets and their verdicts tell, by real clients and servers."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, entry, start_agent
from ebpf_judge import require_programs
from lab import connect, serving
from sidecars import NO_SYS_ADMIN, RunningSidecar, start_sidecar
from waiting import until
from webserver import WebServer, in_url, start_nginx

from datapath.ebpf.hooks import Point, hook_at
from datapath.ebpf.libbpf import map_of_program
from datapath.ebpf.program import EGRESS, FLOWS
from podlane.netns import Host
from podlane.netns.topology import PodNodeServer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # as its tests see it
from first_bytes import hello, records, sni

pytestmark = pytest.mark.root

POLICY = """
total: 1Gbit
classes:
  - {name: sni, rate: 10Mbit, match: {sni: "*.api.example.com"}}
  - {name: host, rate: 10Mbit, match: {host: web.example.com}}
  - {name: port, rate: 10Mbit, match: {port: "9000-9100"}}
  - {name: clients, rate: 10Mbit, match: {host: web.example.com, direction: inbound}}
"""
REQUEST = b"POST / HTTP/1.1\r\nHost: %b\r\n\r\n"
BODY = 100_000
Document = dict[str, Any]


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def start(topology: PodNodeServer, folder: Path, *, wrapped: tuple[str, ...] = ()) -> RunningSidecar:
    return start_sidecar(topology.pod, POLICY, folder, "--datapath", "ebpf", wrapped=wrapped)


def listed(sidecar: RunningSidecar, query: str = "") -> Document:
    return json.loads(sidecar.get(f"/connections{query}"))  # type: ignore[no-any-return]


def one(sidecar: RunningSidecar, client: socket.socket) -> Document:
    """What is listed of this connection of the Pod's."""
    port = client.getsockname()[1]
    [found] = [
        each for each in listed(sidecar)["connections"]
        if port in (each["client"]["port"], each["destination"]["port"])
    ]  # fmt: skip
    return found  # type: ignore[no-any-return]


def swallow(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@contextmanager
def slow_upload(pod: Host, body: Path, url: str, address: str) -> Iterator[None]:
    host, _, port = url.split("/")[2].partition(":")
    command = ["curl", "-sS", "-k", "--http1.1", "-H", "Expect:", "--limit-rate", "50k", "-T", str(body)]
    process = pod.popen([*command, "--resolve", f"{host}:{port}:{in_url(address)}", url], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.usefixtures("web")
def test_connections_have_their_class_name_and_bytes(topology: PodNodeServer, tmp_path: Path, family: str) -> None:
    sidecar = start(topology, tmp_path)
    body = tmp_path / "body"
    body.write_bytes(random.Random(4).randbytes(20_000_000))
    address = topology.server_ipv4 if family == "IPv4" else topology.server_ipv6
    own = topology.pod_link.a.ipv4 if family == "IPv4" else topology.pod_link.a.ipv6
    with ExitStack() as stack:
        stack.enter_context(serving(topology.server, swallow, 9050))
        for url in ("https://X.api.example.com:443/f", "http://web.example.com:80/f"):
            stack.enter_context(slow_upload(topology.pod, body, url, address))
        client = stack.enter_context(connect(topology.pod, address, 9050))
        client.sendall(bytes(BODY))

        def all_there() -> list[Document]:
            shown = listed(sidecar)
            sent = [each for each in shown["connections"] if (each["bytes_up"] or 0) >= BODY]
            return sent if len(sent) == shown["active"] == 3 else []

        found = {each["class"]: each for each in until("three uploads", all_there)}
    told = {name: (each["name"], each["protocol"], each["destination"]["port"]) for name, each in found.items()}
    assert told == {
        "sni": ("x.api.example.com", "tls", 443),
        "host": ("web.example.com", "http1", 80),
        "port": (None, None, 9050),
    }
    for each in found.values():
        assert (each["destination"]["address"], each["client"]["address"]) == (str(address), str(own))
        assert (each["direction"], each["state"]) == ("outbound", "decided")
        assert 0 <= each["age_seconds"] < 60
    assert found["port"]["bytes_up"] == BODY
    assert found["port"]["bytes_down"] == 0
    assert found["sni"]["bytes_down"] > 500, "what the server has said of itself"
    until("their end", lambda: listed(sidecar) == {"active": 0, "order": "newest", "connections": []})


def test_the_class_is_that_of_the_policy_in_force(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80), connect(topology.pod, topology.server_ipv4, 80) as client:
        assert (one(sidecar, client)["state"], one(sidecar, client)["name"]) == ("detecting", None)
        client.sendall(REQUEST % b"web.example.com")
        assert (one(sidecar, client)["class"], one(sidecar, client)["name"]) == ("host", "web.example.com")
        sidecar.reload(
            POLICY.replace("host: web.example.com}}", "host: other.example.com}}").replace('"9000-9100"', "80")
        )
        client.sendall(b"more")
        assert (one(sidecar, client)["class"], one(sidecar, client)["name"]) == ("port", "web.example.com")


def test_names_that_user_space_has_read(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    data = records(hello(sni(b"x.api.example.com")))
    with serving(topology.server, swallow, 443), connect(topology.pod, topology.server_ipv4, 443) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(data[:20])
        client.sendall(data[20:])
        until("its name", lambda: one(sidecar, client)["name"] == "x.api.example.com")
        client.sendall(b"more")
        found = until("its class", lambda: (f := one(sidecar, client))["class"] == "sni" and f)
        assert (found["protocol"], found["state"]) == ("tls", "decided")


def test_what_clients_open(topology: PodNodeServer, tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(bytes(BODY))
        swallow(connection)

    sidecar = start(topology, tmp_path)
    asked = REQUEST % b"web.example.com"
    with serving(topology.pod, answer, 8000), connect(topology.server, str(topology.pod_link.a.ipv4), 8000) as client:
        client.sendall(asked)
        got = 0
        while got < BODY:
            got += len(client.recv(65536))
        found = until("its bytes", lambda: (f := one(sidecar, client))["bytes_down"] == BODY and f)
        assert (found["class"], found["name"], found["direction"]) == ("clients", "web.example.com", "inbound")
        assert found["client"] == {"address": topology.server_ipv4, "port": client.getsockname()[1]}
        assert found["destination"] == {"address": str(topology.pod_link.a.ipv4), "port": 8000}
        assert found["bytes_up"] == len(asked)


def test_of_many_those_that_were_asked_for(topology: PodNodeServer, tmp_path: Path) -> None:
    """More than fit into one question; and one by a socket of IPv6 to an address of IPv4."""
    sidecar = start(topology, tmp_path)
    with ExitStack() as stack:
        stack.enter_context(serving(topology.server, swallow, 9000))
        clients = [stack.enter_context(connect(topology.pod, topology.server_ipv4, 9000)) for _ in range(119)]
        with topology.pod.namespace.entered():
            clients.append(stack.enter_context(socket.socket(socket.AF_INET6)))
        clients[-1].connect((f"::ffff:{topology.server_ipv4}", 9000))
        for number in (5, 50, 119):
            clients[number].sendall(bytes(1000 * number))
        ports = [client.getsockname()[1] for client in clients]

        def largest() -> list[tuple[int, int]]:
            shown = listed(sidecar, "?order=largest&limit=3")
            assert (shown["active"], shown["order"]) == (120, "largest")
            return [(each["client"]["port"], each["bytes_up"]) for each in shown["connections"]]

        until("their bytes", lambda: largest() == [(ports[n], 1000 * n) for n in (119, 50, 5)])
        newest = listed(sidecar, "?limit=60")
        assert [newest["active"], len(newest["connections"])] == [120, 60]
        assert all(each["bytes_up"] is not None for each in newest["connections"])
        assert {each["destination"]["address"] for each in newest["connections"]} == {topology.server_ipv4}
        ages = [each["age_seconds"] for each in listed(sidecar)["connections"]]
        assert len(ages) == 120
        assert ages == sorted(ages)


def test_a_connection_that_is_older_than_the_programs(topology: PodNodeServer, tmp_path: Path) -> None:
    with serving(topology.server, swallow, 9000), connect(topology.pod, topology.server_ipv4, 9000) as client:
        sidecar = start(topology, tmp_path)
        client.sendall(bytes(BODY))
        found = until("its bytes", lambda: (f := one(sidecar, client))["bytes_up"] == BODY and f)
        assert (found["class"], found["age_seconds"], found["direction"]) == ("port", None, "outbound")


def test_a_sidecar_lists_with_its_three_capabilities(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path, wrapped=NO_SYS_ADMIN)
    with serving(topology.server, swallow, 9000), connect(topology.pod, topology.server_ipv4, 9000) as client:
        client.sendall(bytes(BODY))
        until("its bytes", lambda: one(sidecar, client)["bytes_up"] == BODY)
        sidecar.stop(signal.SIGKILL)
        again = start(topology, tmp_path, wrapped=NO_SYS_ADMIN)
        assert "whose maps this process may not open: that takes CAP_SYS_ADMIN" in again.get("/connections")
        again.reload(POLICY.replace('"9000-9100"', "9000"))
        client.sendall(bytes(BODY))
        until("its bytes", lambda: one(again, client)["bytes_up"] == 2 * BODY)


def test_without_cap_bpf_the_kernel_refuses_and_it_is_said(topology: PodNodeServer, tmp_path: Path) -> None:
    start(topology, tmp_path)
    with topology.pod.namespace.entered():
        program = hook_at(socket.if_nametoindex("eth0"), EGRESS, Point.EGRESS).ours()
    assert program is not None
    flows = map_of_program(program, FLOWS)
    assert flows is not None
    ask = (
        "import sys; from datapath.ebpf.socket_list import list_connections; from datapath.connection_list import Order;"
        "from traffic_policy.marks import ClassIds;"
        "print(list_connections(int(sys.argv[1]), ClassIds.assign([]), lambda *_: None, 5, Order.NEWEST))"
    )
    try:
        done = topology.pod.popen(
            ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all", sys.executable, "-c", ask, str(flows)],
            pass_fds=(flows,), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = done.communicate(timeout=30)[1]
    finally:
        os.close(program)
        os.close(flows)
    assert "ConnectionListError: The kernel does not list the connections with their verdicts" in said
    assert "It takes CAP_BPF" in said


OF_AN_AGENT = {
    "total": "100Mbit",
    "classes": [{"name": "a", "rate": "1Mbit", "ceil": "4Mbit", "match": {"host": "web.example.com"}}],
}


@pytest.mark.parametrize("end", ["pod", "host"])
def test_an_agent_lists_those_of_each_workload(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent], end: str
) -> None:
    node = two.server_link.b.host if end == "host" else None
    agent = start_agent(tmp_path, *(entry(pod, OF_AN_AGENT) for pod in two.pods), datapath="auto", node=node)
    agents.append(agent)
    for pod in two.pods:
        assert agent.until_state(pod, "programmed")["datapath"] == "ebpf"
    first = REQUEST % b"web.example.com"

    def of(pod: Host) -> list[tuple[str, str, int]]:
        document = json.loads(agent.get(f"/connections?workload={pod.namespace.name}"))
        return [(each["class"], each["name"], each["bytes_up"]) for each in document["connections"]]

    with serving(two.server, swallow, 80), connect(two.pods[0], two.server_ipv4, 80) as client:
        client.sendall(first)
        until("its connection", lambda: of(two.pods[0]) == [("a", "web.example.com", len(first))])
        assert of(two.pods[1]) == []
    until("its end", lambda: of(two.pods[0]) == [])
