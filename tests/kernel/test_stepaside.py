"""Stepping aside, where it differs from relaying: nothing depends on the classifier, and the kernel remembers."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from lab import connect, serving
from netfilter_pod import ruleset
from sidecars import RunningSidecar, refused_sidecar, start_sidecar, state_of
from waiting import until
from webserver import WebServer, start_nginx

from datapath.netfilter.install import Installer, detect_backend
from datapath.netfilter.ruleset import CaptureSettings
from datapath.stepaside import conntrack
from datapath.stepaside.conntrack_messages import Entry
from datapath.stepaside.marks import DECIDED, FIRST, OPEN, OURS, SHOWN
from datapath.stepaside.queue import PacketQueue
from podlane.netns.topology import PodNodeServer
from tc_core.netlink.codec import ACK, REQUEST
from tc_core.netlink.netfilter import message
from traffic_policy.marks import STATE_MASK, Mark, class_id_of, class_mark
from traffic_policy.settings import Datapath

pytestmark = pytest.mark.root

SLOW = """
total: 100Mbit
classes:
  - {name: up, rate: 1Mbit, ceil: 4Mbit, match: {host: web.example.com}}
  - {name: port, rate: 1Mbit, ceil: 80Mbit, match: {port: 80}}
"""
MOVED = """
total: 100Mbit
classes:
  - {name: fast, rate: 1Mbit, ceil: 80Mbit, match: {host: web.example.com}}
  - {name: port, rate: 1Mbit, ceil: 80Mbit, match: {port: 80}}
"""
ASIDE = CaptureSettings(datapath=Datapath.STEP_ASIDE, interface="eth0", silent_ports=())


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def start(topology: PodNodeServer, folder: Path, policy: str = SLOW, *options: str) -> RunningSidecar:
    return start_sidecar(topology.pod, policy, folder, "--datapath", "step-aside", *options)


def begin_upload(topology: PodNodeServer, body: Path, size: int, family: str = "IPv4") -> subprocess.Popen[bytes]:
    body.write_bytes(random.Random(3).randbytes(size))
    url = f"http://{topology.server_ipv4 if family == 'IPv4' else f'[{topology.server_ipv6}]'}/f"
    return topology.pod.popen(["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", url])


def marks(topology: PodNodeServer, mark: Mark) -> list[Entry]:
    with topology.pod.namespace.entered():
        return conntrack.entries(mark)


def sends_in(sidecar: RunningSidecar, name: str, *, more_than: int) -> Callable[[], bool]:
    """Whether a class has sent some bytes since now."""
    before = sidecar.classes()[name]["bytes"]
    return lambda: sidecar.classes()[name]["bytes"] - before > more_than


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_live_connection_follows_the_policy(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, family: str
) -> None:
    sidecar = start(topology, tmp_path)
    # Large: until its mark is changed it is in no class of the new policy, for most of a second on an emulated machine.
    upload = begin_upload(topology, tmp_path / "body", 30_000_000, family)
    until("a slow upload", sends_in(sidecar, "up", more_than=300_000))
    sidecar.reload(MOVED)
    assert "live connections changed their class" in sidecar.log.read_text()
    until("the upload in its new class", lambda: sidecar.classes()["fast"]["bytes"] > 3_000_000)
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def test_without_content_matches_live_connections_go_by_port(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 8_000_000)
    until("a slow upload", sends_in(sidecar, "up", more_than=300_000))
    sidecar.reload("total: 100Mbit\nclasses: [{name: other, rate: 1Mbit, ceil: 80Mbit, match: {port: 80}}]")
    until("the upload in its port's class", lambda: sidecar.classes()["other"]["bytes"] > 3_000_000)
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()
    until("the queue's rules to go", lambda: "NFQUEUE" not in topology.pod.run(["iptables-save"]).stdout)
    assert sidecar.stop() == 0


def test_a_killed_classifier_is_missed_by_nobody(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    """What was decided stays decided, new connections go in the class of their port, and a restart goes on."""
    pod = topology.pod
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 8_000_000)
    until("a slow upload", sends_in(sidecar, "up", more_than=300_000))
    assert sidecar.stop(signal.SIGKILL) == -signal.SIGKILL
    assert upload.poll() is None
    ask = ["curl", "-sS", "-f", "--max-time", "10", "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/who"]
    assert pod.run(ask).stdout.startswith("|web.example.com|")
    assert [class_id_of(entry.mark) for entry in marks(topology, DECIDED)] == [1]
    assert len(marks(topology, SHOWN)) == 1, "the connection made meanwhile was not decided"
    again = start(topology, tmp_path)
    until("the old upload in its class", sends_in(again, "up", more_than=300_000))
    pod.run(ask)
    assert again.connections("up") == {"http1": 1}
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def test_a_hello_chooses_the_class_at_once_and_what_follows_is_still_shown(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    """Else what the server answers, and what is to be acknowledged, would go by port; a second hello may follow."""
    policy = "total: 100Mbit\nclasses: [{name: name, rate: 1Mbit, match: {sni: web.example.com}}]"
    sidecar = start(topology, tmp_path, policy)
    first, rest = client_hello("web.example.com"), b"\x14\x03\x03\0\x01\x01\x17\x03\x03\0\x01x"
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        before = sidecar.classes()["name"]["bytes"]
        client.sendall(first)
        assert client.recv(9999) == first
        [chosen] = marks(topology, SHOWN)
        assert class_id_of(chosen.mark) == 1
        until("the hello in its class", lambda: sidecar.classes()["name"]["bytes"] > before + len(first))
        for _ in range(2):  # what is no second hello, and a packet at which all before it has arrived
            client.sendall(rest)
            assert client.recv(999) == rest
        [decided] = marks(topology, DECIDED)
        assert decided.mark == DECIDED.value | class_mark(1).value
    assert sidecar.connections("name") == {"tls": 1}


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("size", [1, 60_000])
def test_what_a_verdict_writes_back_arrives_as_it_was(
    topology: PodNodeServer, tmp_path: Path, family: str, size: int
) -> None:
    """The first packet goes on with the bytes that were read: its checksum is right, be it one segment or many."""
    start(topology, tmp_path)
    address = topology.server_ipv4 if family == "IPv4" else topology.server_ipv6
    text = b"PUT / HTTP/1.1\r\nHost: web.example.com\r\n\r\n" + random.Random(size).randbytes(size)
    got = bytearray()

    def take(client: socket.socket) -> None:
        while data := client.recv(65536):
            got.extend(data)
        client.sendall(b"end")

    with serving(topology.server, take, 80), connect(topology.pod, address, 80) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b"end"
    assert got == text
    failures = topology.server.read("/proc/net/snmp").splitlines()
    names, values = (line.split() for line in failures if line.startswith("Tcp:"))
    assert dict(zip(names, values, strict=True))["InCsumErrors"] == "0"


def test_a_connection_begun_without_a_classifier_is_decided_at_its_next_packet(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    policy = "total: 100Mbit\nclasses: [{name: host, rate: 1Mbit, match: {host: web.example.com}}]"
    assert start(topology, tmp_path, policy).stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert client.recv(99) == b"GET / HTTP/1.1\r\n"
        again = start(topology, tmp_path, policy)
        client.sendall(b"Host: web.example.com\r\n\r\n")
        assert client.recv(99) == b"Host: web.example.com\r\n\r\n"
        assert again.connections("default") == {"opaque": 1}
        assert 'podlane_detections_total{protocol="opaque",reason="missed"} 1.0' in again.get("/metrics")


def client_hello(name: str) -> bytes:
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def test_sigterm_leaves_running_connections_and_no_marks(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    before = state_of(topology.pod)
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 8_000_000)
    until("a slow upload", sends_in(sidecar, "up", more_than=300_000))
    assert sidecar.stop(patience=10) == 0, "there is nothing to wait for"
    assert state_of(topology.pod) == before
    assert marks(topology, DECIDED) == marks(topology, OPEN) == []
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def test_cleanup_removes_the_marks_too(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    assert web.root.exists()
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 2_000_000)
    # It sends in its class sooner: with what it has sent first, once that has arrived, the class is decided for good.
    until("a decided connection", lambda: marks(topology, DECIDED))
    assert sidecar.stop(signal.SIGKILL) == -signal.SIGKILL
    assert marks(topology, DECIDED)
    assert refused_sidecar(topology.pod, "--cleanup") == (0, "")
    assert marks(topology, DECIDED) == marks(topology, OPEN) == []
    assert upload.wait(30) == 0


def test_a_lost_conntrack_entry_costs_the_class_and_nothing_else(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    """By port from then on; in the default class if a packet of the server made the new entry, as for all replies."""
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 10_000_000)
    until("a slow upload", sends_in(sidecar, "up", more_than=300_000))
    with topology.pod.namespace.entered():
        flush_conntrack()
    by_port, by_nothing = (sends_in(sidecar, name, more_than=3_000_000) for name in ("port", "default"))
    until("the upload in another class", lambda: by_port() or by_nothing())
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def flush_conntrack() -> None:
    """Forget all tracked connections: IPCTNL_MSG_CT_DELETE without a tuple."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.bind((0, 0))
        sock.send(message(1 << 8 | 2, b"", flags=REQUEST | ACK))
        assert sock.recv(4096)[16:20] == bytes(4)


def test_untracked_connections_go_by_port(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    pod = topology.pod
    for chain in ("OUTPUT", "PREROUTING"):
        pod.run(["iptables", "-t", "raw", "-A", chain, "-p", "tcp", "-j", "CT", "--notrack"])
    sidecar = start(topology, tmp_path)
    upload = begin_upload(topology, tmp_path / "body", 1_000_000)
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()
    until("the sample to show it", lambda: sidecar.classes()["port"]["bytes"] > 1_000_000)
    assert sidecar.connections("up") == {}


def test_a_taken_queue_is_named(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(SLOW)
    before = state_of(topology.pod)
    with topology.pod.namespace.entered():
        taken = PacketQueue(15101)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--datapath", "step-aside")
    assert (code, "NFQUEUE 15101" in said) == (1, True), said
    taken.close()
    assert state_of(topology.pod) == before


# --- the queue by itself ------------------------------------------------------------------------------------------------


def install(topology: PodNodeServer, **options: bool) -> None:
    with topology.pod.namespace.entered():
        Installer(detect_backend()).install(ruleset({"sni": "a.example"}, settings=ASIDE, **options))


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_only_packets_with_data_are_shown_until_it_is_decided(topology: PodNodeServer, family: str) -> None:
    install(topology)
    address = topology.server_ipv4 if family == "IPv4" else topology.server_ipv6
    with topology.pod.namespace.entered():
        queue = PacketQueue(15101)
    with serving(topology.server, echo) as port, connect(topology.pod, address, port) as client:
        seen = []
        for text, mark in ((b"one", 0), (b"two", class_mark(1).value | DECIDED.value)):
            client.sendall(text)
            (packet,) = queue.receive()
            seen.append((packet.data[-3:], packet.mark & STATE_MASK))
            queue.accept(packet, packet.mark & ~OURS | mark)
            assert client.recv(9) == text
        assert seen == [(b"one", FIRST.value), (b"two", 0)]
        client.sendall(b"three")
        assert client.recv(9) == b"three"
        with pytest.raises(BlockingIOError):
            queue.receive(socket.MSG_DONTWAIT)
        assert [class_id_of(entry.mark) for entry in marks(topology, DECIDED)] == [1]
    queue.close()


def test_a_full_queue_lets_packets_pass(topology: PodNodeServer) -> None:
    """Nobody reads the queue, which has room for one: the first connection waits, the second does not."""
    install(topology)
    with topology.pod.namespace.entered():
        queue = PacketQueue(15101, max_packets=1)
    with serving(topology.server, echo) as port:
        first = connect(topology.pod, topology.server_ipv4, port)
        second = connect(topology.pod, topology.server_ipv4, port)
        with first, second:
            first.sendall(b"waits")
            second.sendall(b"passes")
            assert second.recv(9) == b"passes"
            first.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                first.recv(9)
            queue.close()
            first.settimeout(10.0)
            assert first.recv(9) == b"waits"


def test_large_packets_are_shown_whole(topology: PodNodeServer) -> None:
    """GSO: one packet of many segments, as the application wrote it."""
    install(topology)
    with topology.pod.namespace.entered():
        queue = PacketQueue(15101)
    sent = random.Random(8).randbytes(12_000)
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        client.sendall(sent)
        (packet,) = queue.receive()
        # One write, as much of it as the initial window allows: several segments' worth.
        shown = packet.data[20 + (packet.data[32] >> 4) * 4 :]
        assert sent.startswith(shown)
        assert len(shown) > 3000
        queue.accept(packet, class_mark(1).value | DECIDED.value)
        queue.close()  # with what was queued before the decision
        got = b""
        while len(got) < len(sent):
            got += client.recv(65536)
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


def test_marks_of_others_survive_a_change(topology: PodNodeServer) -> None:
    pod = topology.pod
    pod.run(["iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "-j", "CONNMARK", "--set-xmark", "0x80/0xff"])
    with serving(topology.server, echo) as port, connect(pod, topology.server_ipv4, port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        (entry,) = marks(topology, Mark(0x80, 0xFF))
        with pod.namespace.entered():
            changed = conntrack.change([(entry, Mark(DECIDED.value | 5 << 24, OURS)), (Entry(bytes(12), 0), DECIDED)])
        assert changed == 1, "an entry that has ended is no error"
        assert [e.mark for e in marks(topology, DECIDED)] == [DECIDED.value | 5 << 24 | 0x80]


def test_podlane_run_steps_aside(topology: PodNodeServer, tmp_path: Path) -> None:
    """The option gets through to the sidecar that the run starts."""
    policy = tmp_path / "p.yaml"
    policy.write_text(SLOW)
    show = "iptables-save -t mangle | grep -o -m 1 NFQUEUE"
    done = topology.pod.run(
        [sys.executable, "-m", "podlane", "run", "--policy", str(policy), "--datapath", "step-aside", "--no-summary",
         "--user", "root", "--", "sh", "-c", show]
    )  # fmt: skip
    assert done.stdout == "NFQUEUE\n", done.stderr
