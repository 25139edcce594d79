"""SIGTERM with a thousand requests in flight: none is cut, and the end comes in time."""

from __future__ import annotations

import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import connect, listen
from sidecars import start_sidecar, state_of
from waiting import until

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.measure]

MANY = 1000
BODY = b"x" * 16_384
HEAD = b"PUT /f HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
GRACE_S = 8.0
POLICY = "total: 1Gbit\nclasses: [{name: host, rate: 1Mbit, match: {host: web.example.com}}]"


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Both ends of all connections are this process's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def received(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or fewer where the connection ended."""
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_none_of_a_thousand_requests_is_cut(topology: PodNodeServer, tmp_path: Path, options: list[str]) -> None:
    before = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--grace", f"{GRACE_S:g}s", "--log-level", "info", *options)
    half = len(BODY) // 2
    with listen(topology.server, port=80) as listener:
        clients, served = [], []
        for _ in range(MANY + 1):
            client = connect(topology.pod, topology.server_ipv4, 80, timeout=30)
            client.sendall(HEAD + BODY[:half])
            clients.append(client)
            connection, _ = listener.accept()
            connection.settimeout(30)
            served.append(connection)
        *clients, silent = clients  # which never ends
        assert sidecar.classes()["host"]["connections"]["active"] == MANY + 1
        began = time.monotonic()
        sidecar.process.send_signal(signal.SIGTERM)
        until("the drain", lambda: "draining" in sidecar.log.read_text())
        for client in clients:
            client.sendall(BODY[half:])
        *served, forgotten = served  # accepted one by one, so in the same order
        for connection in served:
            assert received(connection, len(HEAD) + len(BODY)) == HEAD + BODY
            connection.sendall(ANSWER)
        assert [received(client, len(ANSWER)) for client in clients] == [ANSWER] * MANY
        for connection in (*clients, *served):
            connection.close()
        assert sidecar.process.wait(GRACE_S + 20) == 0
        took = time.monotonic() - began
        assert GRACE_S <= took < GRACE_S + 15, "the one that never ends was waited for, and then cut"
        silent.close()
        forgotten.close()
    assert "connections cut at the end of the grace period count=1" in " ".join(sidecar.log.read_text().split())
    assert state_of(topology.pod) == before
