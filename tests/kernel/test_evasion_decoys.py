"""Hostile programs that show one name to us and another one to the server: who is in the wrong class, and how fast."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import evasion_page
import pytest
from lab import serving
from quic_world import QUIC, make_certificate, sent, start_sink
from sidecars import start_sidecar
from waiting import until

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.measure]

PROGRAMS = Path(__file__).parents[1] / "evasion"
FAST, SLOW = "fast.example.com", "slow.example.com"
SLOW_MBIT = 2.0
POLICY = f"""
total: 100Mbit
classes:
  - name: fast
    rate: 50Mbit
    match: [{{sni: {FAST}, direction: both}}, {{host: {FAST}, direction: both}}]
  - name: slow
    rate: 1Mbit
    ceil: {SLOW_MBIT:g}Mbit
    match: [{{sni: {SLOW}, direction: both}}, {{host: {SLOW}, direction: both}}]
  - {{name: port, rate: 5Mbit, ceil: 10Mbit, match: {{port: [80, 443]}}}}
"""
SECONDS = 4
DATAPATHS = ["relay", "step-aside"]
HEAD_END = b"\r\n\r\n"


def result(trick: str, megabits: float) -> str:
    """What the page has to say of a trick that got this far."""
    print(f"\n{trick}: {megabits:.1f} of {SLOW_MBIT:g} Mbit/s")
    return "held" if megabits < 1.5 * SLOW_MBIT else "not held"


def said(trick: str) -> str:
    return evasion_page.rows("From inside the Pod")[trick]


class Server:
    """What a server has noticed."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.bytes = 0


@contextmanager
def tls_server(host: Host, folder: Path, curve: str) -> Iterator[Server]:
    """An OpenSSL server that takes key shares of one curve only. It takes what comes, and sends if it is asked to."""
    certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_ecdh_curve(curve)
    server = Server()
    context.sni_callback = lambda _object, name, _context: server.names.append(name)

    def serve(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True, suppress_ragged_eofs=True) as tls:
            while data := tls.recv(65536):
                server.bytes += len(data)
                while data == b"down\n":
                    tls.sendall(bytes(16384))

    with serving(host, serve, 443):
        yield server


def megabits(topology: PodNodeServer, server: Server, program: str, *arguments: object) -> float:
    """What arrives while a hostile program of the Pod sends."""
    topology.pod.run([sys.executable, str(PROGRAMS / program), *map(str, arguments), str(SECONDS)], timeout=60)
    return server.bytes * 8 / SECONDS / 1e6


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_the_second_hello(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    trick = f"another name after HelloRetryRequest, {datapath}"
    start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    with tls_server(topology.server, tmp_path, "secp384r1") as server:
        got = megabits(topology, server, "hello_retry.py", topology.server_ipv4, 443, FAST, SLOW, "up")
    assert server.names[-1] == SLOW
    assert result(trick, got) == said(trick)


def downloaded(topology: PodNodeServer, server: Server, first: str, second: str) -> float:
    """The Mbit/s that a client outside gets from a server in the Pod."""
    program = [sys.executable, str(PROGRAMS / "hello_retry.py"), str(topology.pod_link.a.ipv4), "443"]
    done = topology.server.run([*program, first, second, "down", str(SECONDS)], timeout=60)
    assert server.names[-1] == second
    return float(done.stdout)


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_the_second_hello_of_a_client(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    trick = f"another name of a client after HelloRetryRequest, {datapath}"
    start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    with tls_server(topology.pod, tmp_path, "secp384r1") as server:
        assert downloaded(topology, server, FAST, FAST) > 2 * SLOW_MBIT
        got = downloaded(topology, server, FAST, SLOW)
    assert result(trick, got) == said(trick)


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_a_retry_costs_nobody_the_class(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    with tls_server(topology.server, tmp_path, "secp384r1") as server:
        got = megabits(topology, server, "hello_retry.py", topology.server_ipv4, 443, FAST, FAST, "up")
    assert server.names[-1] == FAST
    assert got > 2 * SLOW_MBIT
    assert sidecar.connections("fast")["tls"] == 1


@pytest.mark.parametrize("datapath", DATAPATHS)
@pytest.mark.parametrize("family", ["IPv4", pytest.param("IPv6", marks=pytest.mark.nightly)])
def test_quic_decoys_do_not_change_the_class(
    topology: PodNodeServer, tmp_path: Path, datapath: str, family: str
) -> None:
    trick = "QUIC decoys that never arrive"
    start_sink(topology.server, tmp_path)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    address = {"IPv4": topology.server_ipv4, "IPv6": topology.server_ipv6}[family]
    before = sent(sidecar)
    topology.pod.run(
        [sys.executable, str(PROGRAMS / "quic_decoy.py"), address, str(QUIC), SLOW, FAST, str(SECONDS)], timeout=60
    )
    after = until("bytes in the slow class", lambda: now if (now := sent(sidecar))["slow"] > before["slow"] else None)
    got = sum(after[name] - before[name] for name in ("fast", "slow", "port")) * 8 / SECONDS / 1e6
    assert result(trick, got) == said(trick)


@contextmanager
def http_server(topology: PodNodeServer, wait: float = 0.0) -> Iterator[Server]:
    """A server that asks for the body of a request once it has its head, and takes it. It is busy for ``wait`` seconds
    before it reads."""
    server = Server()

    def serve(client: socket.socket) -> None:
        time.sleep(wait)
        head = b""
        while HEAD_END not in head:
            if not (data := client.recv(65536)):
                return
            head += data
        server.names.append(head.partition(b"\r\nHost: ")[2].partition(b"\r")[0].decode())
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while data := client.recv(65536):
            server.bytes += len(data)

    with serving(topology.server, serve, 80):
        yield server


NIGHTLY = pytest.mark.nightly
# Through the relay those of "mtu" are no decoys, but uploads larger than the path takes, and get lost.
TCP_DECOYS = [
    pytest.param("TCP decoys with a low TTL", "ttl", "IPv4"),
    pytest.param("TCP decoys with a low TTL", "ttl", "IPv6", marks=NIGHTLY),
    pytest.param("TCP decoys with IP options", "options", "IPv4", marks=NIGHTLY),
    pytest.param("TCP decoys with a signature", "signature", "IPv4", marks=NIGHTLY),
    pytest.param("TCP decoys that have no route", "no-route", "IPv4", marks=NIGHTLY),
    pytest.param("TCP decoys larger than the path takes", "mtu", "IPv4"),
    pytest.param("TCP decoys that change while they wait", "waits", "IPv4"),
    pytest.param("TCP decoys that change while they wait", "waits", "IPv6", marks=NIGHTLY),
]
BUSY_S = {"waits": 0.3}
"""For how long the server does not read."""
PATH_MTU = 1280


def tcp_decoy(topology: PodNodeServer, folder: Path, datapath: str, way: str, family: str) -> tuple[list[str], float]:
    """The names that the server has read, and the Mbit/s that the program got."""
    start_sidecar(topology.pod, POLICY, folder, "--datapath", datapath)
    address = {"IPv4": topology.server_ipv4, "IPv6": topology.server_ipv6}[family]
    if way == "mtu":  # of IPv4 alone: routers do not fragment IPv6
        topology.node.ip("link", "set", "server0", "mtu", str(PATH_MTU))
        silent = ["-p", "icmp", "--icmp-type", "fragmentation-needed", "-j", "DROP"]
        topology.node.run(["iptables", "-A", "OUTPUT", *silent])
    with http_server(topology, BUSY_S.get(way, 0.0)) as server:
        got = megabits(topology, server, "tcp_decoy.py", address, 80, SLOW, FAST, way)
    return server.names, got


@pytest.mark.parametrize(("trick", "way", "family"), TCP_DECOYS)
def test_tcp_decoys_of_step_aside(topology: PodNodeServer, tmp_path: Path, trick: str, way: str, family: str) -> None:
    names, got = tcp_decoy(topology, tmp_path, "step-aside", way, family)
    assert names == [FAST if way == "waits" else SLOW], "what the server gets is what was read"
    assert said(trick) == ("held" if names == [FAST] else result(trick, got))


@pytest.mark.parametrize(("trick", "way", "family"), [each for each in TCP_DECOYS if "mtu" not in each.values])
def test_tcp_decoys_of_the_relay(topology: PodNodeServer, tmp_path: Path, trick: str, way: str, family: str) -> None:
    """What it has read is what the server gets: with the decoy's name the decoy's class is right."""
    names, got = tcp_decoy(topology, tmp_path, "relay", way, family)
    assert names in ([FAST], [SLOW])
    assert said("TCP decoys, relay") == ("held" if names == [FAST] else result(f"{trick}, relay", got))


@pytest.mark.parametrize(
    ("trick", "way"), [("a packet before the first", "gap"), ("urgent bytes in the head", "urgent")]
)
@pytest.mark.parametrize("datapath", DATAPATHS)
def test_what_the_server_reads_in_another_order(
    topology: PodNodeServer, tmp_path: Path, trick: str, way: str, datapath: str
) -> None:
    start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    with http_server(topology) as server:
        got = megabits(topology, server, "tcp_order.py", topology.server_ipv4, 80, SLOW, FAST, way)
    told = said(f"{trick}, {datapath}")
    if (way, datapath) == ("urgent", "relay"):
        assert server.names == [FAST], "the relay passes them on as ordinary ones"
        assert told == "held"
    else:
        assert server.names == [SLOW]
        assert told == result(f"{trick}, {datapath}", got)


CLIENT_DECOYS = ["timestamp", "signature", "ahead", "behind", "checksum", "syn"]


@contextmanager
def downloads(host: Host) -> Iterator[Server]:
    """A server that sends without end once it has a request."""
    server = Server()

    def serve(client: socket.socket) -> None:
        head = b""
        while HEAD_END not in head:
            head += client.recv(65536)
        server.names.append(head.partition(b"\r\nHost: ")[2].partition(b"\r")[0].decode())
        with suppress(ConnectionError):
            while True:
                client.sendall(bytes(16384))

    with serving(host, serve, 80):
        yield server


@pytest.mark.parametrize("datapath", DATAPATHS)
@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way == "behind" else NIGHTLY) for way in CLIENT_DECOYS])
def test_what_a_client_sends_and_the_pods_tcp_drops(
    topology: PodNodeServer, tmp_path: Path, way: str, datapath: str
) -> None:
    start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    topology.pod.namespace.write_sysctl("net.netfilter.nf_conntrack_checksum", "0")  # else conntrack drops it
    with downloads(topology.pod) as server:
        address = str(topology.pod_link.a.ipv4)
        program = [sys.executable, str(PROGRAMS / "raw_client.py"), address, "80", SLOW, FAST, way, str(SECONDS)]
        got = float(topology.server.run(program, timeout=60).stdout)
    assert server.names == [SLOW]
    assert result(f"segments of a client that the Pod's TCP drops ({way}), {datapath}", got) == said(
        f"segments of a client that the Pod's TCP drops, {datapath}"
    )
