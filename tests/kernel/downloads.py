"""Downloads of all kinds into a test's Pod: an endless answer, a meter at its reader, and what its sender sent twice."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lab import connect, serving
from meter import Meter
from sidecars import RunningSidecar
from waiting import until

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

DATAGRAM = 1400
UDP_SHARE = DATAGRAM / (DATAGRAM + 42)
"""Of what HTB counts: Ethernet 14, IPv4 20, UDP 8."""
_BLOCK = bytes(1 << 16)
_UDP_SEGMENT, _UDP_GRO = 103, 104


def endless(connection: socket.socket) -> None:
    """A server that answers whatever it is asked without end."""
    try:
        connection.recv(1 << 16)
        while True:
            connection.sendall(_BLOCK)
    except OSError:
        return


@contextmanager
def reading(connection: socket.socket, meter: Meter) -> Iterator[None]:
    """Read and count until the block ends."""

    def read() -> None:
        with connection:
            try:
                while size := len(connection.recv(1 << 18)):
                    meter.count(size)
            except OSError:
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # A TLS socket's own shutdown would wait for its reader. The other side may have ended it already.
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        thread.join()


@contextmanager
def http(topology: PodNodeServer, name: str, meter: Meter, port: int) -> Iterator[None]:
    """A download from a server of :func:`endless` answers, by Host."""
    connection = connect(topology.pod, topology.server_ipv4, port)
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    with reading(connection, meter):
        yield


@contextmanager
def https(topology: PodNodeServer, name: str, meter: Meter, port: int, path: str) -> Iterator[None]:
    """A download of a large file from a TLS server, by SNI."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(connect(topology.pod, topology.server_ipv4, port), server_hostname=name)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    with reading(connection, meter):
        yield


@contextmanager
def datagrams(topology: PodNodeServer, meter: Meter, port: int, megabits: float) -> Iterator[None]:
    """UDP from a port of the server, as fast as said, and some datagrams at a time (udp(7), UDP_SEGMENT, UDP_GRO)."""
    block = _BLOCK[: DATAGRAM * max(1, min(40, int(megabits / 10)))]
    over = threading.Event()
    with topology.server.namespace.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((topology.server_ipv4, port))
    with topology.pod.namespace.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((topology.server_ipv4, port))
    server.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, DATAGRAM)
    client.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    client.send(b"more")
    _, address = server.recvfrom(100)

    def send() -> None:
        began, sent = time.monotonic(), 0
        while not over.wait(0.002):
            while sent * 8 < (time.monotonic() - began) * megabits * 1e6:
                server.sendto(block, address)
                sent += len(block)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        with reading(client, meter):
            yield
    finally:
        over.set()
        thread.join()
        server.close()


@contextmanager
def serving_endlessly(topology: PodNodeServer) -> Iterator[int]:
    """A server of endless answers; gives its port."""
    with serving(topology.server, endless) as port:
        yield port


def received(sidecar: RunningSidecar) -> dict[str, dict[str, Any]]:
    """What ``/classes`` says of what arrives, by class."""
    return {c["name"]: c for c in json.loads(sidecar.get("/classes"))["received"]["classes"]}


def counted(sidecar: RunningSidecar, name: str, beyond: int) -> None:
    """Wait until a class has received so many bytes."""
    until(f"{beyond} bytes in {name}", lambda: received(sidecar)[name]["bytes"] > beyond)


SIZE = 3_000_000


def answering(connection: socket.socket) -> None:
    """A server that answers ``SIZE`` bytes."""
    with connection:
        connection.recv(1 << 16)
        connection.sendall(bytes(SIZE))


def download(topology: PodNodeServer, port: int, host: str, *, address: str = "") -> None:
    """Receive all that the server answers."""
    with connect(topology.pod, address or topology.server_ipv4, port) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        left = SIZE
        while left > 0:
            size = len(connection.recv(1 << 18))
            assert size, "the answer was cut short"
            left -= size


@contextmanager
def uploading(topology: PodNodeServer, port: int) -> Iterator[None]:
    """A client outside sends a request that never ends."""
    connection = connect(topology.server, str(topology.pod_link.a.ipv4), port)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: up.example.com\r\nContent-Length: 1000000000000\r\n\r\n")

    def send() -> None:
        try:
            while True:
                connection.sendall(bytes(1 << 16))
        except OSError:
            return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        connection.shutdown(socket.SHUT_RDWR)
        thread.join()
        connection.close()


def segments(host: Host) -> tuple[int, int]:
    """TCP segments that a host has sent, and how many of them again (RFC 4022: OutSegs, RetransSegs)."""
    names, values = (line.split()[1:] for line in host.read("/proc/net/snmp").splitlines() if line.startswith("Tcp:"))
    found = dict(zip(names, map(int, values), strict=True))
    return found["OutSegs"], found["RetransSegs"]


class Resent:
    """The share of a host's TCP segments that it sent more than once, from when it is made to when it is asked."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._before = segments(host)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        sent, again = (now - then for now, then in zip(segments(self._host), self._before, strict=True))
        return again / max(1, sent)
