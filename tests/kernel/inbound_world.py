"""What the tests of connections that clients open towards the Pod share: the Pod, its programs, clients, policies."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from downloads import reading
from lab import connect
from meter import MEASURE, Meter
from sidecars import RunningSidecar, start_sidecar
from waiting import until

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

FAMILIES = ("ipv4", "ipv6")
DATAPATHS = ("relay", "step-aside")

POLICY = """
total: 1Gbit
classes:
  - {name: out, rate: 1Mbit, match: {host: api.example.com, port: 80}}
  - {name: tls, rate: 10Mbit, match: {sni: ["*.example.com"], direction: inbound}}
  - {name: api, rate: 10Mbit, match: {host: api.example.com, direction: inbound}}
  - {name: office, rate: 10Mbit, match: {port: 9000, source: SOURCES, direction: inbound}}
  - {name: port, rate: 10Mbit, match: {port: [9000, 9001], direction: both}}
  - {name: udp, rate: 10Mbit, match: {protocol: udp, port: 7000, direction: inbound}}
"""
PORTS_ALONE = """
total: 1Gbit
classes:
  - {name: port, rate: 10Mbit, match: {port: 9000, direction: inbound}}
  - {name: udp, rate: 10Mbit, match: {protocol: udp, port: 7000, direction: inbound}}
"""
NAMES = """
total: 1Gbit
classes:
  - {name: api, rate: 10Mbit, match: {host: api.example.com, direction: inbound}}
"""
LIMITED = """
total: 1Gbit
classes:
  - {name: a, rate: 500kbit, ceil: 4Mbit, match: {host: a.example.com, direction: inbound}}
  - {name: b, rate: 500kbit, ceil: 40Mbit, match: {host: b.example.com, direction: inbound}}
  - {name: c, rate: 500kbit, ceil: 200Mbit, match: {sni: never.example.com, direction: inbound}}
"""
GET = b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
BLOCK = 1 << 16


class World:
    """A Pod with a sidecar, and a host outside with clients.

    ``local`` is what a program whose connections content may decide has as its own address.
    """

    def __init__(self, topology: PodNodeServer, folder: Path, family: str, datapath: str) -> None:
        self.pod, self.outside = topology.pod, topology.server
        self.folder = folder
        self.family = family
        self.datapath = datapath
        ends = topology.pod_link.a
        self.address = str(ends.ipv4 if family == "ipv4" else ends.ipv6)
        self.loopback = "127.0.0.1" if family == "ipv4" else "::1"
        self.local = self.loopback if datapath == "relay" else self.address
        self.client = topology.server_ipv4 if family == "ipv4" else topology.server_ipv6
        self.in_url = f"[{self.address}]" if ":" in self.address else self.address
        until("the Pod to be reachable", lambda: refused(lambda: self.connect(1)))

    def sidecar(self, policy: str, *options: str) -> RunningSidecar:
        return start_sidecar(self.pod, policy, self.folder, "--datapath", self.datapath, *options)

    def curl(self, url: str, *options: str, name: str = "", check: bool = True) -> str:
        pinned = ["--resolve", f"{name}:{self.in_url}"] if name else []
        command = ["curl", "-sS", "-g", "-k", "--max-time", "15", *pinned, *options, url]
        return self.outside.run(command, check=check).stdout

    def connect(self, port: int) -> socket.socket:
        return connect(self.outside, self.address, port)


def answering(connection: socket.socket) -> None:
    """A program that says to whom it speaks, and at which address of its own."""
    with connection, suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            connection.sendall(f"{connection.getpeername()[0]} {connection.getsockname()[0]}\n".encode())


def said_to(client: socket.socket, hello: bytes = GET) -> str:
    """The program's answer, without IPv4 in IPv6's clothes."""
    client.sendall(hello)
    return client.recv(1000).decode().strip().replace("::ffff:", "")


def refused(attempt: Callable[[], object]) -> bool:
    """Whether the Pod itself says no. (IPv6 takes a second to get going on a new link.)"""
    try:
        attempt()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def ended(client: socket.socket) -> bool:
    """Whether the other side has ended the connection, or reset it."""
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


def sent_in(pod: Host, class_id: int) -> int:
    """Packets that left in a class."""
    shown = pod.run(["tc", "-s", "class", "show", "dev", "eth0"]).stdout
    found = re.search(rf"class htb 1:{0x100 + class_id:x} .*?Sent \d+ bytes (\d+) pkt", shown, re.DOTALL)
    assert found, shown
    return int(found[1])


@contextmanager
def downloading(world: World, host: str, port: int, seconds: float = MEASURE) -> Iterator[Meter]:
    """A download that never ends, and what counts it."""
    meter = Meter(seconds)
    client = world.connect(port)
    client.sendall(GET.replace(b"api.example.com", host.encode()))
    with reading(client, meter):
        yield meter
