"""The rows of docs/explanation/evasion.md that need a wire: pauses, segments and fragments, on both datapaths."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from evasion_page import POLICY, rows
from lab import connect, serving
from sidecars import RunningSidecar, start_sidecar
from test_datapaths import client_hello
from waiting import until

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.parametrize("datapath", ["relay", "step-aside"])]

HELLO = client_hello("api.example.com", wide=100)
HEAD = b"GET / HTTP/1.1\r\nX: " + b"y" * 700 + b"\r\nHost: api.example.com\r\n\r\n"
PAUSE = 0.03
"""Seconds, well below the timeout: what the trick is."""
TIMEOUT = "500ms"
MTU = 576
GO = b"go"


def classes(sidecar: RunningSidecar) -> dict[str, int]:
    """Connections by class."""
    return {name: sum(c["connections"]["by_protocol"].values()) for name, c in sidecar.classes().items()}


def class_of(sidecar: RunningSidecar, work: Callable[[], None]) -> str:
    """The class of the one connection that ``work`` makes."""
    before = classes(sidecar)
    work()
    after = until("the connection to be counted", lambda: (now := classes(sidecar)) != before and now)
    (name,) = [n for n in after if after[n] != before[n]]
    assert after[name] == before[name] + 1
    return name


def at_once(connection: socket.socket) -> None:
    """A server that speaks first, and again at the end."""
    connection.sendall(GO)
    until_the_end(connection)


def when_asked(connection: socket.socket) -> None:
    """A server that answers the first bytes, and the end."""
    assert connection.recv(65536)
    connection.sendall(GO)
    until_the_end(connection)


def until_the_end(connection: socket.socket) -> None:
    """A server that answers the end."""
    while connection.recv(65536):
        pass
    connection.sendall(b"end")


def in_pieces(client: socket.socket, data: bytes) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), 150):
        client.sendall(data[at : at + 150])
        assert select.select([client], [], [], PAUSE)[0] == []


def late(client: socket.socket) -> None:
    """The server is what ends the pause: it is connected when the proxy has waited long enough."""
    assert client.recv(9) == GO
    client.sendall(HELLO)


def in_halves(client: socket.socket) -> None:
    client.sendall(HELLO[:100])
    assert client.recv(9) == GO
    client.sendall(HELLO[100:])


Trick = tuple[int, Callable[[socket.socket], None], Callable[[socket.socket], None]]
TRICKS: dict[str, Trick] = {
    "a hello in many segments, with pauses": (443, lambda client: in_pieces(client, HELLO), until_the_end),
    "a head in many segments, with pauses": (80, lambda client: in_pieces(client, HEAD), until_the_end),
    "a hello after a long pause": (443, late, at_once),
    "half a hello and a long pause": (443, in_halves, when_asked),
}


def said(trick: str, datapath: str) -> str:
    """The class that the page gives; where there are two, the first is the relay's."""
    found = rows("On the wire")[trick].split(", ")
    return found[0 if datapath == "relay" else -1]


def test_each_trick_gets_the_class_that_the_page_says(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    assert set(rows("On the wire")) == {*TRICKS, "IP fragments", "bytes sent twice, with another name"}
    sidecar = start_sidecar(
        topology.pod, POLICY, tmp_path, "--datapath", datapath, "--detection-timeout", TIMEOUT
    )  # fmt: skip
    found = {}
    for name, (port, play, serve) in TRICKS.items():

        def work(port: int = port, play: Callable[[socket.socket], None] = play) -> None:
            with connect(topology.pod, topology.server_ipv4, port) as client:
                play(client)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(9) == b"end"

        with serving(topology.server, serve, port):
            found[name] = class_of(sidecar, work)
    assert found == {name: said(name, datapath) for name in TRICKS}


def test_a_hello_in_ip_fragments_gets_its_class(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """The Pod's link is narrower than the client believes, and the client does not want to hear of it."""
    topology.server.namespace.write_sysctl("net.ipv4.ip_no_pmtu_disc", "1")
    topology.node.ip("link", "set", "pod0", "mtu", str(MTU))
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)

    def work() -> None:
        with connect(topology.server, str(topology.pod_link.a.ipv4), 443) as client:
            client.sendall(HELLO)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(9) == b"end"

    with serving(topology.pod, until_the_end, 443):
        name = class_of(sidecar, work)
    counters = topology.node.read("/proc/net/snmp").splitlines()
    names, values = (line.split() for line in counters if line.startswith("Ip:"))
    assert int(dict(zip(names, values, strict=True))["FragCreates"]) > 1
    assert name == said("IP fragments", datapath)
