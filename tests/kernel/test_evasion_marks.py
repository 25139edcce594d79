"""Programs with CAP_NET_RAW that claim a class by mark or priority (tests/evasion) get no more than their own class.

They have what a container has by default, root with CAP_NET_RAW and CAP_SETGID among others, but not CAP_NET_ADMIN.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from evasion_page import rows
from lab import connect, serving
from meter import Meter
from sidecars import RunningSidecar, start_sidecar
from waiting import until

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.measure]

PROGRAMS = Path(__file__).parents[1] / "evasion"
AS_IN_A_CONTAINER = (
    "setpriv",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+net_bind_service,+net_raw,+setgid,+setuid",
    "--inh-caps=-all",
)
"""The capabilities that containerd gives by default, of those that matter here (pkg/oci/spec.go)."""
LIMIT = 2.0
"""Mbit/s, of the class that the programs should be in."""
ENOUGH = 1.5 * LIMIT
"""More than this is an escape. Another class would give 40."""
WINDOW = 2.0
"""Seconds over which rates are measured."""
PORTS = """
total: 50Mbit
classes:
  - {name: fast, rate: 40Mbit, match: [{port: 7001}]}
  - {name: slow, rate: 1Mbit, ceil: 2Mbit, match: [{port: 7002}]}
default: {rate: 1Mbit, ceil: 2Mbit}
"""
NAMES = """
total: 50Mbit
classes:
  - {name: fast, rate: 40Mbit, match: [{host: fast.example.com}, {sni: fast.example.com}, {port: 7001}]}
  - {name: slow, rate: 1Mbit, ceil: 2Mbit, match: [{host: slow.example.com}, {port: 7002}]}
default: {rate: 1Mbit, ceil: 2Mbit}
"""
DOWNLOADS = """
total: 50Mbit
ingress: {total: 50Mbit}
classes:
  - {name: fast, rate: 40Mbit, ingress: {rate: 40Mbit}, match: {host: fast.example.com}}
  - {name: slow, rate: 1Mbit, ingress: {rate: 1Mbit, ceil: 2Mbit}, match: {port: 7002}}
default: {rate: 1Mbit, ingress: {rate: 1Mbit, ceil: 2Mbit}}
"""
WAYS = {
    "kernel": (PORTS, ()),
    "relay": (NAMES, ("--datapath", "relay")),
    "step-aside": (NAMES, ("--datapath", "step-aside")),
    "ebpf": (NAMES, ("--datapath", "ebpf")),
}
SLOW, UNMATCHED = "7002", "7003"
SILENT = 5432
"""Connections to it are not captured: the program has the socket that receives."""
OTHER_CLASS, DIRECT = "0x10101", "0x10000"
"""HTB's handle of the class fast, and of its root, which is HTB's queue past all classes."""
FAST, OURS = 0x01000000, 0x2000
"""The mark of the class fast, and the bit of our own sockets."""
UDP = {
    "SO_PRIORITY of another class, UDP": (UNMATCHED, "--priority", OTHER_CLASS),
    "SO_PRIORITY past all classes, UDP": (UNMATCHED, "--priority", DIRECT),
    "SO_MARK of another class, UDP that no match names": (UNMATCHED, "--mark", hex(FAST)),
    "SO_MARK of another class and our own bit, UDP": (SLOW, "--mark", hex(FAST | OURS)),
    "mark and priority in sendmsg's control data": (
        *(SLOW, "--by", "cmsg"), *("--mark", hex(FAST | OURS)), *("--priority", DIRECT),
    ),
    "mark and priority on a raw IP socket": (
        *(SLOW, "--by", "raw"), *("--mark", hex(FAST | OURS)), *("--priority", OTHER_CLASS),
    ),
    "mark and priority on an ICMP socket": (
        *(SLOW, "--by", "icmp"), *("--mark", hex(FAST | OURS)), *("--priority", OTHER_CLASS),
    ),
    "IP_TOS, SO_TXTIME": (SLOW, "--tos", "0x10", "--txtime"),
}  # fmt: skip
TCP = {
    "SO_MARK of another class and our own bit, TCP": (SLOW, "--mark", hex(FAST | OURS)),
    "SO_MARK and SO_PRIORITY past all classes, TCP": (SLOW, "--mark", hex(OURS), "--priority", DIRECT),
    "SO_MARK later on a live connection": (SLOW, "--late", "--mark", hex(FAST | OURS)),
    "SO_MARK in the group of our process": (SLOW, "--mark", hex(FAST | OURS), "--group", "0"),
    "SO_MARK of a decided connection, while it is undecided": (
        *("80", "--late", "--first", "GET /"), *("--mark", hex(FAST | OURS)),
    ),
}  # fmt: skip
PACKETS = {
    "AF_PACKET with the priority of another class": ("--priority", OTHER_CLASS),
    "AF_PACKET with the mark of another class": ("--mark", hex(FAST | OURS)),
    "AF_PACKET with PACKET_QDISC_BYPASS": ("--bypass",),
}
QUICK = {
    "SO_PRIORITY past all classes, UDP",
    "SO_MARK of another class and our own bit, UDP",
    "SO_MARK of another class and our own bit, TCP",
}
"""Not only nightly."""


@contextmanager
def measured(topology: PodNodeServer, *, downloads: bool = False) -> Iterator[Meter]:
    """Counts all bytes that arrive at the server's interface, or that leave it."""
    meter, ended = Meter(WINDOW), threading.Event()
    with topology.server.namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    tap.bind(("eth0", 3))
    tap.settimeout(0.05)
    buffer = bytearray(1)

    def count() -> None:
        while not ended.is_set():
            try:
                size, _, _, sender = tap.recvmsg_into([buffer], 0, socket.MSG_TRUNC)
            except TimeoutError:
                continue
            if (sender[2] == socket.PACKET_OUTGOING) == downloads:
                meter.count(size)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()
        tap.close()


def rate_of(topology: PodNodeServer, program: str, *arguments: str, downloads: bool = False) -> float:
    """Mbit/s that a hostile program gets to the server, or from it."""
    argv = [*AS_IN_A_CONTAINER, sys.executable, str(PROGRAMS / program), *arguments]
    with measured(topology, downloads=downloads) as meter:
        process = topology.pod.popen(argv)
        try:
            rate = meter.megabits
        finally:
            process.kill()
            process.wait()
    return rate


@contextmanager
def draining(topology: PodNodeServer, port: int) -> Iterator[None]:
    """A server that reads everything, and resets its connections at the end: nothing goes on in the next measurement."""
    ended = threading.Event()

    def drain(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        while not ended.is_set():
            with suppress(TimeoutError):
                if not connection.recv(1 << 20):
                    break
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # RST

    with serving(topology.server, drain, port):
        try:
            yield
        finally:
            ended.set()


def judge(sidecar: RunningSidecar, trick: str, version: int, rate: float) -> None:
    page, datapath = rows("From inside the Pod"), json.loads(sidecar.get("/classes"))["datapath"]
    said = page.get(f"{trick}, {datapath}") or page[trick]
    print(f"IPv{version} {trick}: {rate:.1f} of {LIMIT:g} Mbit/s, {said}")
    assert (rate < ENOUGH) == said.startswith("held"), f"{trick}: {rate:.1f} Mbit/s\n{sidecar.log.read_text()}"


@pytest.fixture(params=WAYS)
def sidecar(request: pytest.FixtureRequest, topology: PodNodeServer, tmp_path: Path) -> RunningSidecar:
    policy, options = WAYS[request.param]
    if request.param == "ebpf":
        require_programs()
    return start_sidecar(topology.pod, policy, tmp_path, *options)


def tricks(table: dict[str, tuple[str, ...]], *, quick: bool) -> dict[str, tuple[str, ...]]:
    return {name: arguments for name, arguments in table.items() if (name in QUICK) == quick}


def play(topology: PodNodeServer, sidecar: RunningSidecar, *, quick: bool, version: int) -> None:
    server = topology.server_ipv4 if version == 4 else topology.server_ipv6
    for name, (port, *more) in tricks(UDP, quick=quick).items():
        judge(sidecar, name, version, rate_of(topology, "marked_udp.py", server, port, "30", *more))
    for name, (port, *more) in tricks(TCP, quick=quick).items():
        with draining(topology, int(port)):
            judge(sidecar, name, version, rate_of(topology, "marked_tcp.py", server, port, "30", *more))


def test_marks_and_priorities_of_others_do_not_count(topology: PodNodeServer, sidecar: RunningSidecar) -> None:
    play(topology, sidecar, quick=True, version=4)


@pytest.mark.nightly
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.timeout(300)
def test_no_other_way_to_set_them_counts(topology: PodNodeServer, sidecar: RunningSidecar, version: int) -> None:
    play(topology, sidecar, quick=False, version=version)


@pytest.mark.nightly
def test_frames_of_packet_sockets(topology: PodNodeServer, sidecar: RunningSidecar) -> None:
    mac = topology.node.ip("-o", "link", "show", "pod0")
    gateway = mac.split("link/ether ")[1].split()[0]
    place = ("eth0", gateway, str(topology.pod_link.a.ipv4), topology.server_ipv4, UNMATCHED, "30")
    for name, more in PACKETS.items():
        judge(sidecar, name, 4, rate_of(topology, "packet_socket.py", *place, *more))


def test_what_a_closed_socket_of_ours_still_sends_stays_in_its_class(topology: PodNodeServer, tmp_path: Path) -> None:
    """It has no owner any more, so that its group cannot tell it."""
    size = 400_000
    sidecar = start_sidecar(topology.pod, NAMES, tmp_path)
    arrived: list[int] = []

    def take(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)  # both directions have ended when the client has said all
        while data := connection.recv(1 << 16):
            arrived.append(len(data))

    head = b"PUT / HTTP/1.1\r\nHost: slow.example.com\r\nContent-Length: %d\r\n\r\n" % size
    with serving(topology.server, take, 8080):
        with connect(topology.pod, topology.server_ipv4, 8080) as client:
            client.sendall(head + bytes(size))
        until("everything to arrive", lambda: sum(arrived) == size + len(head))
    classes = sidecar.classes()
    assert classes["slow"]["bytes"] > size
    assert classes["default"]["bytes"] < 10_000


@pytest.mark.nightly
def test_a_socket_that_receives_under_a_mark(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, DOWNLOADS, tmp_path)
    if json.loads(sidecar.get("/policy"))["received"]["names_told_by"] != "sockets":
        pytest.skip("needs CAP_BPF: the other ways do not look at sockets")

    def send(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(bytes(1 << 16))

    with serving(topology.server, send, SILENT):
        place = (topology.server_ipv4, str(SILENT), "30", "--mark", hex(FAST | OURS))
        rate = rate_of(topology, "marked_receiver.py", *place, downloads=True)
    judge(sidecar, "SO_MARK on a socket that receives", 4, rate)
