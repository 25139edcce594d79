"""``datapath: ebpf``: what clients open towards the Pod, told apart by programs at the ingress hook."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from inbound_world import BLOCK, FAMILIES, GET, POLICY, World, answering, said_to, sent_in
from lab import serving
from sidecars import NO_SYS_ADMIN, RunningSidecar, refused_sidecar, start_sidecar, state_of
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

OUT, TLS, API, OFFICE, PORT, DEFAULT = 1, 2, 3, 4, 5, 255
TCP_POLICY = "\n".join(line for line in POLICY.splitlines() if "protocol: udp" not in line)


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture(params=FAMILIES)
def world(request: pytest.FixtureRequest, topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, request.param, "ebpf")


@pytest.fixture
def ipv4(topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, "ipv4", "ebpf")


def start(world: World, sources: str = "203.0.113.0/24") -> RunningSidecar:
    return world.sidecar(TCP_POLICY.replace("SOURCES", sources))


def counted(sidecar: RunningSidecar, name: str, expected: dict[str, int]) -> None:
    until(f"{expected} in {name}", lambda: sidecar.connections(name) == expected)


def test_clients_are_told_apart_by_what_they_say(world: World) -> None:
    clean = state_of(world.pod)
    start_nginx(world.pod, world.folder / "nginx")
    sidecar = start(world)
    said = world.curl("https://x.example.com/who", "--http1.1", name="x.example.com:443")
    assert said == f"x.example.com|x.example.com|HTTP/1.1|{world.client}\n"
    counted(sidecar, "tls", {"tls": 1})
    said = world.curl(f"http://{world.in_url}/who", "-H", "Host: api.example.com")
    assert said == f"|api.example.com|HTTP/1.1|{world.client}\n"
    said = world.curl("http://api.example.com:8080/who", "--http2-prior-knowledge", name="api.example.com:8080")
    assert said == f"|api.example.com|HTTP/2.0|{world.client}\n"
    counted(sidecar, "api", {"http1": 1, "http2": 1})
    world.curl(f"http://{world.in_url}/who", "-H", "Host: other.example.org")
    counted(sidecar, "default", {"http1": 1})
    assert sidecar.connections("out") == {}, "that is for what the Pod opens"
    assert sidecar.stop() == 0
    assert state_of(world.pod).replace(clean, "") == ""


def test_without_sys_admin_clients_are_told_apart_beside_limits_for_what_arrives(ipv4: World) -> None:
    """Then the programs are filters, and the one for what arrives comes before that which takes packets to limits."""
    clean = state_of(ipv4.pod)
    policy = TCP_POLICY.replace("SOURCES", "203.0.113.0/24") + "\ningress: {total: 500Mbit}\n"
    sidecar = start_sidecar(ipv4.pod, policy, ipv4.folder, "--datapath", "ebpf", wrapped=NO_SYS_ADMIN)
    assert json.loads(sidecar.get("/classes"))["datapath"] == "ebpf"
    filters = ipv4.pod.run(["tc", "filter", "show", "dev", "eth0", "ingress"]).stdout
    assert 0 <= filters.find("podlane_ingress:") < filters.find("mirred")
    with serving(ipv4.pod, answering, 80):
        with ipv4.connect(80) as client:
            said_to(client, GET)
            answers_go_in(ipv4, client, API)
            sidecar.stop(signal.SIGKILL)
            again = start_sidecar(ipv4.pod, policy, ipv4.folder, "--datapath", "ebpf", wrapped=NO_SYS_ADMIN)
            answers_go_in(ipv4, client, API)
        again.reload(TCP_POLICY.replace("SOURCES", "198.51.100.0/24"))
        with ipv4.connect(80) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in (GET[:10], GET[10:]):
                said_to(client, piece)
            counted(again, "api", {"http1": 1})
            answers_go_in(ipv4, client, API)
    assert again.stop() == 0
    assert state_of(ipv4.pod) == clean


def answers_go_in(world: World, client: socket.socket, class_id: int) -> None:
    before = sent_in(world.pod, class_id)
    for _ in range(20):
        client.sendall(b"more")
        client.recv(1000)
    assert sent_in(world.pod, class_id) >= before + 20


@pytest.mark.parametrize("pieces", [1, 2], ids=["in one segment", "in two"])
def test_answers_are_in_the_class_of_the_name(world: World, pieces: int) -> None:
    sidecar = start(world)
    with serving(world.pod, answering, 80), world.connect(80) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (GET,) if pieces == 1 else (GET[:10], GET[10:]):
            assert said_to(client, piece) == f"{world.client} {world.address}"
        counted(sidecar, "api", {"http1": 1})
        answers_go_in(world, client, API)


def test_ports_and_clients_networks_decide_as_well(world: World) -> None:
    start(world, f'["{world.client}"]')
    for port, class_id in ((9000, OFFICE), (9001, PORT), (7001, DEFAULT)):
        with serving(world.pod, answering, port), world.connect(port) as client:
            said_to(client, b"\0no HTTP\n")
            answers_go_in(world, client, class_id)


def test_a_server_that_speaks_first_goes_by_port_until_its_client_has_said_a_name(ipv4: World) -> None:
    def speaking_first(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"hello\r\n")
            while data := connection.recv(BLOCK):
                connection.sendall(data)

    start(ipv4)
    with serving(ipv4.pod, speaking_first, 9001), ipv4.connect(9001) as client:
        assert client.recv(100) == b"hello\r\n"
        assert sent_in(ipv4.pod, PORT) >= 2
        client.sendall(GET)
        assert client.recv(100) == GET
        answers_go_in(ipv4, client, API)


def test_connections_that_are_older_go_by_port(ipv4: World) -> None:
    with serving(ipv4.pod, answering, 9001), ipv4.connect(9001) as client:
        said_to(client, b"\0")
        start(ipv4)
        said_to(client, GET)
        answers_go_in(ipv4, client, PORT)


def test_what_a_server_of_ours_is_sent_does_not_decide_about_what_we_open(ipv4: World) -> None:
    """A server's answer is no client's request, also where a program of the Pod listens."""
    sidecar = start(ipv4)

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(GET)
        while connection.recv(BLOCK):
            pass

    with serving(ipv4.outside, answer, 8081), ipv4.pod.namespace.entered():
        client = socket.create_connection((ipv4.client, 8081))
        with client:
            client.sendall(b"\0\0")
            assert client.recv(1000) == GET
            before = sent_in(ipv4.pod, DEFAULT)
            client.sendall(bytes(100_000))
            until("it to leave", lambda: sent_in(ipv4.pod, DEFAULT) > before)
    counted(sidecar, "api", {})


def test_udp_that_clients_send_is_refused(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("SOURCES", "203.0.113.0/24"))
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--datapath", "ebpf")
    assert (code, "direction" in said) == (2, True)
