"""A client's first bytes are acknowledged by the answer to them; whoever has more to say does not wait for it."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from lab import connect, serving
from sidecars import start_sidecar

from datapath.sockets import acknowledge
from podlane.netns.topology import PodNodeServer
from sidecar.transport.kernel_sockets import transparent_listeners

pytestmark = pytest.mark.root

TRIES = 10
"""A thread that gets no processor for 40 ms looks like a late acknowledgement, or an early one; not each time."""
DELAYED_ACK_S = 0.04
"""TCP_DELACK_MIN of include/net/tcp.h."""
POLICY = "total: 1Gbit\nclasses:\n  - {name: a, rate: 1Mbit, match: {host: a.example}}\n"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


def unacknowledged(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def first_acks(topology: PodNodeServer) -> Generator[tuple[int, int], None, None]:
    """Bytes without acknowledgement when the first ones were read, and after :func:`acknowledge`."""
    with topology.pod.namespace.entered():
        (listener,) = transparent_listeners(0, [socket.AF_INET])
    with closing(listener):
        for _ in range(TRIES):
            with topology.pod.namespace.entered():
                client = socket.create_connection(listener.getsockname())
            with client:
                select.select([listener], [], [])
                with socket.socket(fileno=listener._accept()[0]) as accepted:  # type: ignore[attr-defined]
                    client.send(b"GET")
                    select.select([accepted], [], [])
                    accepted.recv(3)
                    before = unacknowledged(client)
                    acknowledge(accepted)
                    yield before, unacknowledged(client)


def test_the_first_acknowledgement_is_held_back_until_we_say_so(topology: PodNodeServer) -> None:
    with closing(first_acks(topology)) as acks:
        assert (3, 0) in acks


@pytest.mark.parametrize(
    "pieces",
    [
        (b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n", b"body"),
        (b"POST / HTTP/1.1\r\n", b"Host: a.example\r\nContent-Length: 0\r\n\r\n"),
        (b"\x80an unknown protocol", b" in two"),
    ],
    ids=["head and body", "half a head", "no protocol"],
)
def test_a_client_that_says_it_in_two_does_not_wait(
    topology: PodNodeServer, tmp_path: Path, pieces: tuple[bytes, bytes]
) -> None:
    """With Nagle's algorithm the second piece is sent when the first is acknowledged."""
    size = len(b"".join(pieces))

    def serve(connection: socket.socket) -> None:
        got = 0
        while got < size:
            got += len(connection.recv(size))
        connection.sendall(ANSWER)

    start_sidecar(topology.pod, POLICY, tmp_path)
    took = []
    with serving(topology.server, serve) as port:
        while len(took) < TRIES and min(took, default=1.0) >= DELAYED_ACK_S:
            with connect(topology.pod, topology.server_ipv4, port) as client:
                began = time.perf_counter()
                for piece in pieces:
                    client.send(piece)
                assert client.recv(100) == ANSWER
                took.append(time.perf_counter() - began)
    assert min(took) < DELAYED_ACK_S, took
