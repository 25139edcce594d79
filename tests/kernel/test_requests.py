"""Requests of one connection, each in its own class: real nginx, curl and HAProxy-like pooling clients, real tc counters."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import time
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from lab import connect
from sidecars import start_sidecar
from webserver import start_nginx

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 1Gbit
requests: follow
classes:
  - {name: a, rate: 1Mbit, ceil: 8Mbit, match: {host: a.example.com, direction: both}}
  - {name: b, rate: 1Mbit, ceil: 40Mbit, match: {host: b.example.com, direction: both}}
"""
SIZE = 2_000_000


def sent(pod: Host, class_id: int) -> int:
    """Bytes that left in a class."""
    shown = pod.run(["tc", "-s", "class", "show", "dev", "eth0"]).stdout
    found = re.search(rf"class htb 1:{0x100 + class_id:x} .*?Sent (\d+) bytes", shown, re.DOTALL)
    assert found, shown
    return int(found[1])


def put(path: Path, host: str, url: str) -> list[str]:
    return ["-H", f"Host: {host}.example.com", "-H", "Expect:", "-f", "-T", str(path), f"{url}/{host}"]


def test_uploads_on_one_connection_go_out_in_the_class_of_each(topology: PodNodeServer, tmp_path: Path) -> None:
    web = start_nginx(topology.server, tmp_path / "nginx")
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    body = tmp_path / "body"
    body.write_bytes(random.Random(2).randbytes(SIZE))
    url = f"http://{topology.server_ipv4}"
    chunked = ["-H", "Transfer-Encoding: chunked"]
    command = ["curl", "-sS", "-v", "--max-time", "60", *put(body, "b", url)]
    command += ["--next", "-sS", *put(body, "a", url), "--next", "-sS", *chunked, *put(body, "b", f"{url}/./")]
    said = topology.pod.run(command).stderr
    assert said.count("Re-using existing connection") == 2, said
    assert sidecar.connections("b") == {"http1": 1}
    assert sidecar.connections("a") == {"http1": 0}, "it came there, but is not a new one"
    for name in ("a", "b"):
        assert hashlib.sha256((web.root / name).read_bytes()).digest() == hashlib.sha256(body.read_bytes()).digest()
    # What is in a socket's buffer when the next request begins moves along; a buffer is much smaller than a body.
    assert SIZE * 0.8 < sent(topology.pod, 1) < SIZE * 1.3
    assert SIZE * 1.7 < sent(topology.pod, 2) < SIZE * 2.4


@pytest.mark.measure
def test_answers_on_a_clients_connection_are_held_to_the_class_of_each(topology: PodNodeServer, tmp_path: Path) -> None:
    web = start_nginx(topology.pod, tmp_path / "nginx")
    (web.root / "big").write_bytes(bytes(5_000_000))
    start_sidecar(topology.pod, POLICY, tmp_path)
    with connect(topology.server, str(topology.pod_link.a.ipv4), 80) as client:
        client.settimeout(60)
        took = {}
        for host, megabits in (("b", 40), ("a", 8), ("b", 40)):
            began = time.monotonic()
            client.sendall(f"GET /big HTTP/1.1\r\nHost: {host}.example.com\r\n\r\n".encode())
            got = b""
            while b"\r\n\r\n" not in got:
                got += client.recv(65536)
            head, _, rest = got.partition(b"\r\n\r\n")
            assert b"200 OK" in head
            left = 5_000_000 - len(rest)
            while left:
                left -= len(client.recv(min(left, 1 << 16)))
            took[host] = 5_000_000 * 8 / (time.monotonic() - began) / 1e6 / megabits
        print({host: f"{share:.3f} of the ceil" for host, share in took.items()})
        assert max(took.values()) <= 1.05
        assert min(took.values()) >= 0.5, "a collapse"
        assert took["a"] >= 0.85


def ask(client: socket.socket, session: H2Connection, host: str) -> str:
    """A request on an HTTP/2 connection, and its answer. (curl 7.88 cannot send a second one with prior knowledge.)"""
    number = session.get_next_available_stream_id()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/who")]
    session.send_headers(number, fields, end_stream=True)
    said = b""
    while True:
        client.sendall(session.data_to_send())
        for event in session.receive_data(client.recv(65536)):
            if isinstance(event, DataReceived):
                said += event.data
            elif isinstance(event, StreamEnded):
                client.sendall(session.data_to_send())
                return said.decode().strip()


def test_an_http2_connection_is_in_the_strictest_class_of_its_requests(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    session = H2Connection(H2Configuration(client_side=True))
    session.initiate_connection()
    source = topology.pod_link.a.ipv4
    with connect(topology.pod, topology.server_ipv4, 8080) as client:
        for name, active in (("b", "b"), ("a", "a"), ("b", "a")):
            assert ask(client, session, f"{name}.example.com") == f"|{name}.example.com|HTTP/2.0|{source}"
            counts = {each: sidecar.classes()[each]["connections"]["active"] for each in "ab"}
            assert counts == {active: 1, ({"a", "b"} - {active}).pop(): 0}


def test_an_ambiguous_request_is_counted_and_arrives_as_it_was(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(b"GET /who HTTP/1.1\r\nHost: b.example.com\r\n\r\n")
        assert b"b.example.com" in client.recv(65536)
        client.sendall(b"GET /who HTTP/1.1\nHost: b.example.com\n\n")
        assert b"b.example.com" in client.recv(65536), "nginx reads bare line feeds"
        active = sidecar.classes()
        assert active["a"]["connections"]["active"] == 1, "the strictest"
    assert "podlane_requests_ambiguous_total 1.0" in sidecar.get("/metrics")


def test_what_is_doubtful_is_refused_if_the_policy_says_so(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    sidecar = start_sidecar(topology.pod, POLICY.replace("follow", "follow-strictly"), tmp_path)
    with connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(b"GET /who HTTP/1.1\r\nHost: b.example.com\r\n\r\n")
        assert b"b.example.com" in client.recv(65536)
        client.sendall(b"GET /who HTTP/1.1\nHost: b.example.com\n\n")
        with pytest.raises(ConnectionResetError):
            client.recv(65536)
    assert 'podlane_connections_refused_total{reason="ambiguous"} 1.0' in sidecar.get("/metrics")
