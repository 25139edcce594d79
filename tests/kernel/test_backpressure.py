"""A slow way to the server, or a slow server, slows the sender down: neither the proxy nor the kernel hoards what it would like to send."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from lab import connect, serving
from sidecars import start_sidecar

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 20Gbit
classes:
  - {name: slow, rate: 1Mbit, ceil: 10Mbit, match: {host: slow.example.com}}
  - {name: fast, rate: 1Gbit, ceil: 20Gbit, match: {host: fast.example.com}}
"""


def queued(sock: socket.socket, request: int) -> int:
    """Bytes in the socket's own queue: of its kernel TIOCOUTQ, sent and not acknowledged; FIONREAD, not read (tcp(7))."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), request, bytes(4)))[0])


def head(host: str, size: int) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: {host}.example.com\r\nContent-Length: {size}\r\n\r\n".encode()


def test_at_10_mbit_the_sender_is_held_back(topology: PodNodeServer, tmp_path: Path) -> None:
    """Measured all the time while 12 MiB are sent: what the sender got rid of, less what has arrived."""
    received = 0
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        nonlocal received
        while data := connection.recv(1 << 18):
            received += len(data)
        done.set()

    size = 12 << 20
    start_sidecar(topology.pod, POLICY, tmp_path)
    hoarded = []
    with (
        serving(topology.server, serve) as port,
        connect(topology.pod, topology.server_ipv4, port, timeout=60) as client,
    ):
        body = memoryview(head("slow", size) + bytes(size))
        sent = 0
        while sent < len(body):
            sent += client.send(body[sent : sent + (1 << 16)])
            hoarded.append(sent - queued(client, termios.TIOCOUTQ) - received)
        client.shutdown(socket.SHUT_WR)
        assert done.wait(60)
        assert received == sent
    print(f"hoarded: at most {max(hoarded) / 1024:.0f} KiB")
    # A receive buffer of half a MiB that the kernel doubles, and a pipe of 1 MiB.
    assert max(hoarded) < 3 << 20


def test_a_reader_that_was_fast_and_stops_leaves_little_behind(topology: PodNodeServer, tmp_path: Path) -> None:
    """The worst case: a fast transfer has made all buffers as large as they get, and then nobody reads any more.

    Without bounds of the proxy's own 15 to 35 MiB were hoarded here, half a minute at 10 Mbit/s.
    """
    fast = 256 << 20
    received = 0
    stopped, look = threading.Event(), threading.Event()
    unread = 0

    def serve(connection: socket.socket) -> None:
        nonlocal received, unread
        while received < fast:
            received += len(connection.recv(1 << 20))
        stopped.set()
        assert look.wait(60)
        unread = queued(connection, termios.FIONREAD)

    start_sidecar(topology.pod, POLICY, tmp_path)
    with serving(topology.server, serve) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        sent = client.send(head("fast", 1 << 40))
        block = bytes(1 << 20)
        client.settimeout(20)
        while not stopped.is_set():
            sent += client.send(block)
        client.settimeout(1)
        with suppress(TimeoutError):  # until it is held back
            while True:
                sent += client.send(block)
        left = queued(client, termios.TIOCOUTQ)
        look.set()
    hoarded = sent - left - received - unread
    print(f"hoarded: {hoarded / 1024:.0f} KiB")
    # The same, 1 MiB that the server's socket takes unsent, and what is in flight.
    assert hoarded < 5 << 20
