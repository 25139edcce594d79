"""Connections that clients open towards the Pod: told apart by what they say, answered in their classes, with real programs.

The Pod's program is nginx or a few lines of Python; clients are curl, openssl and sockets on the topology's server. One
contract for both datapaths; what only the relay has is at the end, what only stepping aside has in
:mod:`test_inbound_aside`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import socket
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from downloads import endless
from inbound_world import (
    BLOCK,
    DATAPATHS,
    FAMILIES,
    GET,
    LIMITED,
    NAMES,
    POLICY,
    PORTS_ALONE,
    World,
    answering,
    downloading,
    ended,
    refused,
    said_to,
    sent_in,
)
from lab import connect, listen, serving
from meter import ATTEMPTS, PAYLOAD_SHARE
from sidecars import state_of
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.covering]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DATAPATHS)
def world(request: pytest.FixtureRequest, topology: PodNodeServer, tmp_path: Path, family: str) -> World:
    return World(topology, tmp_path, family, request.param)


@pytest.fixture(params=DATAPATHS)
def ipv4(request: pytest.FixtureRequest, topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, "ipv4", request.param)


@pytest.fixture
def relay(topology: PodNodeServer, tmp_path: Path, family: str) -> World:
    return World(topology, tmp_path, family, "relay")


@pytest.fixture
def relay4(topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, "ipv4", "relay")


# --- classes ---------------------------------------------------------------------------------------------------------


def test_connections_are_told_apart_and_the_program_sees_its_client(world: World) -> None:
    start_nginx(world.pod, world.folder / "nginx")
    sidecar = world.sidecar(POLICY.replace("SOURCES", "203.0.113.0/24"))

    said = world.curl("https://x.example.com/who", "--http1.1", name="x.example.com:443")
    assert said == f"x.example.com|x.example.com|HTTP/1.1|{world.client}\n"
    assert sidecar.connections("tls") == {"tls": 1}

    said = world.curl(f"http://{world.in_url}/who", "-H", "Host: api.example.com")
    assert said == f"|api.example.com|HTTP/1.1|{world.client}\n"
    said = world.curl("http://api.example.com:8080/who", "--http2-prior-knowledge", name="api.example.com:8080")
    assert said == f"|api.example.com|HTTP/2.0|{world.client}\n"
    assert sidecar.connections("api") == {"http1": 1, "http2": 1}
    assert sidecar.connections("out") == {}, "that is for what the Pod opens"

    said = world.curl(f"http://{world.in_url}/who", "-H", "Host: other.example.org")
    assert said == f"|other.example.org|HTTP/1.1|{world.client}\n"
    assert sidecar.connections("default") == {"http1": 1}
    assert sidecar.stop() == 0


def test_where_names_come_first_a_port_decides_as_it_does_in_the_kernel(world: World) -> None:
    """The first bytes are looked at, and do not tell; a client's network is a criterion, too."""
    sidecar = world.sidecar(POLICY.replace("SOURCES", f'["{world.client}"]'))
    with serving(world.pod, answering, 9000), serving(world.pod, answering, 9001):
        for port, name in ((9000, "office"), (9001, "port")):
            with world.connect(port) as client:
                assert said_to(client, b"no HTTP\n" * 100).split("\n")[0] == f"{world.client} {world.local}"
            assert sidecar.connections(name) == {"opaque": 1}


def test_port_classes_never_meet_the_proxy(world: World) -> None:
    sidecar = world.sidecar(PORTS_ALONE)
    with serving(world.pod, answering, 9000), world.connect(9000) as client:
        assert said_to(client) == f"{world.client} {world.address}"
        before = sent_in(world.pod, 1)
        for _ in range(20):
            said_to(client)
        assert sent_in(world.pod, 1) >= before + 20
    udp = socket.AF_INET if world.family == "ipv4" else socket.AF_INET6
    with world.pod.namespace.entered():
        program = socket.socket(udp, socket.SOCK_DGRAM)
    with world.outside.namespace.entered():
        asking = socket.socket(udp, socket.SOCK_DGRAM)
    with program, asking:
        program.bind((world.address, 7000))
        asking.connect((world.address, 7000))
        program.settimeout(10)
        asking.settimeout(10)
        for _ in range(20):
            asking.send(b"?")
            _, client_address = program.recvfrom(10)
            program.sendto(b"!", client_address)
            assert asking.recv(10) == b"!"
    assert sent_in(world.pod, 2) >= 20
    assert "capture=False" in sidecar.log.read_text()
    assert sidecar.connections("port") == {}


def test_whoever_looks_is_told_who_opened_a_connection(world: World) -> None:
    log = world.folder / "access.jsonl"
    sidecar = world.sidecar(NAMES, "--access-log", "connections", "--access-log-file", str(log))
    with serving(world.pod, answering, 80), world.connect(80) as client:
        assert said_to(client) == f"{world.client} {world.local}"
        [seen] = json.loads(sidecar.get("/connections"))["connections"]
        assert (seen["class"], seen["name"]) == ("api", "api.example.com")
        assert (seen["client"]["address"], seen["client"]["port"]) == (world.client, client.getsockname()[1])
        assert (seen["destination"]["address"], seen["destination"]["port"]) == (world.address, 80)
    until("a line", lambda: log.read_text())
    line = json.loads(log.read_text())
    assert line["network"]["direction"] == "ingress"
    assert (line["source"]["ip"], line["destination"]["ip"]) == (world.client, world.address)


def test_what_the_pod_opens_itself_is_not_touched(world: World) -> None:
    sidecar = world.sidecar(NAMES)
    with serving(world.outside, answering, 80), connect(world.pod, world.client, 80) as client:
        assert said_to(client) == f"{world.address} {world.client}"
    with serving(world.pod, answering, 80):
        for address in ("127.0.0.1", world.address):
            with connect(world.pod, address, 80) as client:
                assert said_to(client) == f"{address} {address}"
    assert sidecar.connections("api") == sidecar.connections("default") == {}


# --- what is left alone ----------------------------------------------------------------------------------------------


def test_a_closed_port_refuses_and_loopbacks_programs_stay_out_of_reach(world: World) -> None:
    world.sidecar(NAMES)
    with listen(world.pod, world.loopback, 9090) as private:
        assert refused(lambda: world.connect(9090))
        assert refused(lambda: world.connect(9091))
        assert refused(lambda: world.connect(15106)), "not even the relay's listener"
        private.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            private.accept()


@pytest.mark.parametrize("option", ["ports", "cidrs"])
def test_what_is_excluded_is_neither_captured_nor_in_a_class(world: World, option: str) -> None:
    value = "80,9000-9100" if option == "ports" else f"192.0.2.0/24,{world.client}"
    sidecar = world.sidecar(POLICY.replace("SOURCES", "0.0.0.0/0"), f"--exclude-inbound-{option}", value)
    with serving(world.pod, answering, 80), serving(world.pod, answering, 9000):
        for port in (80, 9000):
            with world.connect(port) as client:
                assert said_to(client) == f"{world.client} {world.address}"
    assert sidecar.connections("api") == {}
    assert [sent_in(world.pod, n) for n in range(1, 7)] == [0] * 6


def test_silent_ports_do_not_wait_for_the_client(ipv4: World) -> None:
    ipv4.sidecar(NAMES, "--detection-timeout", "30s")

    def greeting(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"220 hello\r\n")

    with serving(ipv4.pod, greeting, 25), ipv4.connect(25) as client:
        client.settimeout(5)
        assert client.recv(100) == b"220 hello\r\n"


# --- nothing is lost -------------------------------------------------------------------------------------------------


def test_bodies_arrive_whole_in_both_directions(world: World) -> None:
    web = start_nginx(world.pod, world.folder / "nginx")
    sidecar = world.sidecar(NAMES)
    body = world.folder / "body"
    body.write_bytes(random.Random(5).randbytes(20_000_000))
    world.curl(f"http://{world.in_url}/copy", "-H", "Host: api.example.com", "-H", "Expect:", "-T", str(body))
    assert hashlib.sha256((web.root / "copy").read_bytes()).digest() == hashlib.sha256(body.read_bytes()).digest()
    got = world.folder / "got"
    world.curl(f"http://{world.in_url}/copy", "-H", "Host: api.example.com", "-o", str(got))
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(body.read_bytes()).digest()
    assert sidecar.connections("api") == {"http1": 2}


def test_each_side_may_end_first(ipv4: World) -> None:
    ipv4.sidecar(NAMES)

    def counting(connection: socket.socket) -> None:
        with connection:
            total = 0
            while data := connection.recv(BLOCK):
                total += len(data)
            connection.sendall(f"{total}".encode())

    def hanging_up(connection: socket.socket) -> None:
        with connection:
            connection.recv(len(GET), socket.MSG_WAITALL)
            connection.sendall(b"bye")
            connection.shutdown(socket.SHUT_WR)
            total = 0
            while data := connection.recv(BLOCK):
                total += len(data)
            totals.append(total)

    totals: list[int] = []
    with serving(ipv4.pod, counting, 80), ipv4.connect(80) as client:
        client.sendall(GET + bytes(300_000))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == str(len(GET) + 300_000).encode()
        assert client.recv(100) == b""
    with serving(ipv4.pod, hanging_up, 80):
        with ipv4.connect(80) as client:
            client.sendall(GET)
            assert client.recv(100) == b"bye"
            assert client.recv(100) == b""
            client.sendall(bytes(300_000))
        until("all to have arrived", lambda: totals == [300_000])


def test_a_client_may_use_its_port_again_at_once(world: World) -> None:
    """Its earlier connection may still be there behind the proxy; then another port stands for it."""
    world.sidecar(NAMES)
    reset = struct.pack("ii", 1, 0)
    family = socket.AF_INET if world.family == "ipv4" else socket.AF_INET6
    with serving(world.pod, answering, 80):
        for attempt in range(40):
            with world.outside.namespace.entered():
                client = socket.socket(family)
            with client:
                client.settimeout(10)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind((world.client, 50_123))
                client.connect((world.address, 80))
                assert said_to(client).split()[0] == world.client
                if attempt % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                else:  # the far side ends first, so that the wait is not ours
                    client.shutdown(socket.SHUT_WR)
                    assert client.recv(1) == b""


def test_thousands_of_short_connections_all_work(ipv4: World) -> None:
    """As many as a client has ports left: closed ones wait for a minute on either side of the proxy."""
    start_nginx(ipv4.pod, ipv4.folder / "nginx")
    sidecar = ipv4.sidecar(NAMES, "--log-level", "info")
    done = ipv4.outside.run(
        ["wrk", "-t1", "-c50", "-d3s", "-H", "Host: api.example.com", "-H", "Connection: close", f"http://{ipv4.address}/who"]
    ).stdout  # fmt: skip
    assert "Socket errors" not in done
    assert "Non-2xx" not in done
    served = int(re.search(r"(\d+) requests in", done)[1])  # type: ignore[index]
    print(f"{served} connections in 3 s")
    assert served > 300, "a collapse"
    assert sidecar.connections("api")["http1"] >= served


# --- life ------------------------------------------------------------------------------------------------------------


@pytest.mark.measure
@pytest.mark.parametrize(
    ("datapath", "options"),
    [("relay", ()), ("relay", ("--workers", "2")), ("step-aside", ())],
    ids=["relay", "two workers", "step-aside"],
)
def test_answers_are_held_to_their_class(
    topology: PodNodeServer, tmp_path: Path, datapath: str, options: tuple[str, ...]
) -> None:
    ipv4 = World(topology, tmp_path, "ipv4", datapath)
    ipv4.sidecar(LIMITED, *options)
    best = {"a": 0.0, "b": 0.0}
    with serving(ipv4.pod, endless, 80):
        for _ in range(ATTEMPTS):
            with ExitStack() as stack:
                meters = {n: stack.enter_context(downloading(ipv4, f"{n}.example.com", 80, seconds=3.0)) for n in best}
                measured = {n: meters[n].megabits / (ceil * PAYLOAD_SHARE) for n, ceil in (("a", 4), ("b", 40))}
            print({name: f"{share:.3f} of what headers leave" for name, share in measured.items()})
            assert max(measured.values()) <= 1.05
            best = {name: max(best[name], share) for name, share in measured.items()}
            if min(best.values()) >= 0.95:
                return
    pytest.fail(f"not within 5 % of the ceil in {ATTEMPTS} attempts: {best}")


def test_a_live_connection_follows_a_new_policy(ipv4: World) -> None:
    sidecar = ipv4.sidecar(LIMITED)
    with serving(ipv4.pod, endless, 80), downloading(ipv4, "a.example.com", 80) as meter:
        until("bytes", lambda: meter.total > 100_000)
        sidecar.reload(LIMITED.replace("host: a.", "host: z.").replace("host: b.", "host: a."))
        before = sent_in(ipv4.pod, 2)
        until("answers in the other class", lambda: sent_in(ipv4.pod, 2) > before + 20)
        seen = meter.total
        until("more bytes on the same connection", lambda: meter.total > seen + 100_000)
    until("the end", lambda: sidecar.classes()["b"]["connections"]["active"] == 0)


def test_an_upgraded_connection_passes(ipv4: World) -> None:
    """Bytes are bytes: what follows the first ones is nobody's business."""
    ipv4.sidecar(NAMES)

    def upgrading(connection: socket.socket) -> None:
        with connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            while data := connection.recv(BLOCK):
                connection.sendall(data[::-1])

    with serving(ipv4.pod, upgrading, 80), ipv4.connect(80) as client:
        client.sendall(GET[:-2] + b"Upgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        for frame in (b"\x81\x05hello", b"\x00\xff" * 50):
            client.sendall(frame)
            assert client.recv(len(frame), socket.MSG_WAITALL) == frame[::-1]


# --- the relay alone -------------------------------------------------------------------------------------------------


def test_a_program_on_the_pods_address_alone_is_served_directly(relay: World) -> None:
    """On loopback there may be another, which nobody outside was meant to reach."""
    sidecar = relay.sidecar(NAMES)
    with listen(relay.pod, relay.loopback, 9090) as private, listen(relay.pod, relay.address, 9090) as public:
        until("the rules to leave the port alone", lambda: "ports=[9090" in sidecar.log.read_text())
        with relay.connect(9090) as client:
            public.settimeout(10)
            private.settimeout(0.0)
            accepted, (peer, *_) = public.accept()
            with accepted:
                assert peer == relay.client
                assert accepted.getsockname()[0] == relay.address
                client.sendall(GET)
                assert accepted.recv(1000) == GET
            with pytest.raises(BlockingIOError):
                private.accept()
    assert sidecar.connections("api") == {}
    until("the port to be captured again", lambda: "ports=[]" in sidecar.log.read_text())
    with serving(relay.pod, answering, 9090), relay.connect(9090) as client:
        assert said_to(client) == f"{relay.client} {relay.local}"


def test_before_the_rules_have_followed_a_second_program_is_not_mistaken_for_the_first(relay4: World) -> None:
    sidecar = relay4.sidecar(NAMES)
    relay4.pod.run(["iptables", "-t", "mangle", "-I", "PODLANE-IN-SYN", "1", "-p", "tcp", "--dport", "9090", "-j", "PODLANE-IN-CAPTURE"])  # fmt: skip
    relay4.pod.run(["iptables", "-t", "mangle", "-I", "PODLANE-IN-SYN", "2", "-p", "tcp", "--dport", "9090", "-j", "TPROXY", "--on-port", "15106", "--on-ip", "127.0.0.1"])  # fmt: skip
    with listen(relay4.pod, "127.0.0.1", 9090) as private, listen(relay4.pod, relay4.address, 9090):
        with relay4.connect(9090) as client:
            client.sendall(GET)
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        private.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            private.accept()
    assert sidecar.process.poll() is None


def test_the_end_lets_answers_out_and_leaves_no_trace(relay: World) -> None:
    before = state_of(relay.pod)
    sidecar = relay.sidecar(NAMES)
    go = threading.Event()

    def slow(connection: socket.socket) -> None:
        with connection:
            connection.recv(1000)
            go.wait(20)
            connection.sendall(bytes(500_000))

    with serving(relay.pod, slow, 80), relay.connect(80) as client:
        client.sendall(GET)
        until("the request to be relayed", lambda: sidecar.connections("api") == {"http1": 1})
        sidecar.process.send_signal(signal.SIGTERM)
        until("the drain", lambda: "draining" in sidecar.log.read_text())
        until("new connections to go directly", lambda: _goes_directly(relay))
        go.set()
        total = 0
        while data := client.recv(BLOCK):
            total += len(data)
        assert total == 500_000
    assert sidecar.process.wait(30) == 0
    assert state_of(relay.pod) == before


def _goes_directly(relay: World) -> bool:
    with serving(relay.pod, answering, 81), relay.connect(81) as client:
        return said_to(client) == f"{relay.client} {relay.address}"


def test_a_killed_sidecar_ends_its_connections_and_the_next_one_takes_over(relay4: World) -> None:
    before = state_of(relay4.pod)
    first = relay4.sidecar(NAMES)
    with serving(relay4.pod, answering, 80):
        with relay4.connect(80) as client:
            said_to(client)
            first.process.kill()
            first.process.wait(10)
            assert ended(client), "at once, not when somebody's patience ends"
        second = relay4.sidecar(NAMES)
        assert "adopted=True" in second.log.read_text()
        with relay4.connect(80) as client:
            assert said_to(client).split()[0] == relay4.client
        assert second.connections("api") == {"http1": 1}
        assert second.stop() == 0
    assert state_of(relay4.pod) == before


def test_a_policy_may_gain_and_lose_inbound_names(relay4: World) -> None:
    """What was captured goes on; the rules it needed go when it has ended."""
    sidecar = relay4.sidecar(PORTS_ALONE)
    with serving(relay4.pod, answering, 80):
        sidecar.reload(NAMES)
        with relay4.connect(80) as client:
            assert said_to(client) == f"{relay4.client} 127.0.0.1"
            sidecar.reload(PORTS_ALONE)
            assert said_to(client) == f"{relay4.client} 127.0.0.1"
            with relay4.connect(80) as direct:
                assert said_to(direct) == f"{relay4.client} {relay4.address}"
            assert "from 127.0.0.0/8 iif lo" in relay4.pod.ip("rule")
        until("the route to be gone", lambda: "127.0.0.0/8" not in relay4.pod.ip("rule"))
        until("the listener to be gone", lambda: "15106" not in relay4.pod.run(["ss", "-ltn"]).stdout)
    assert sidecar.stop() == 0
