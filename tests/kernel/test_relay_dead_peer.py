"""A peer behind the network that falls silent for ever: its connections end, and those of a slow reader do not."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from lab import connect, listen
from sidecars import start_sidecar
from waiting import until

from datapath.sockets import DEAD_AFTER_S
from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

POLICY = """
total: 1Gbit
classes:
  - {name: out, rate: 1Mbit, match: {host: a.example}}
  - {name: in, rate: 1Mbit, match: {host: b.example, direction: inbound}}
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


class Connection:
    """A client, and the program that has accepted it."""

    def __init__(self, topology: PodNodeServer, *, inbound: bool, port: int) -> None:
        client, server = (topology.server, topology.pod) if inbound else (topology.pod, topology.server)
        address = str(topology.pod_link.a.ipv4) if inbound else topology.server_ipv4
        listener = listen(server, "0.0.0.0", port)
        with listener:
            self.client = connect(client, address, port)
            self.client.sendall(REQUEST)
            listener.settimeout(10)
            self.accepted = listener.accept()[0]
        self.accepted.settimeout(10)
        assert self.accepted.recv(100) == REQUEST
        self.accepted.sendall(b"answer")
        assert self.client.recv(100) == b"answer"

    def close(self) -> None:
        self.client.close()
        self.accepted.close()


def probed(topology: PodNodeServer, port: int) -> list[str]:
    """The peers' addresses of the Pod's sockets with this port that have a keepalive timer (ss(8))."""
    rows = topology.pod.run(["ss", "-Htno", f"( sport = :{port} or dport = :{port} )"]).stdout.splitlines()
    return [row.split()[4] for row in rows if "timer:(keepalive" in row]


@pytest.mark.parametrize("inbound", [False, True], ids=["outbound", "inbound"])
def test_the_side_that_is_elsewhere_is_probed(topology: PodNodeServer, tmp_path: Path, inbound: bool) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with closing(Connection(topology, inbound=inbound, port=8080)) as connection:
        host, port = connection.client.getsockname() if inbound else (topology.server_ipv4, 8080)
        # The last acknowledgement may take a moment; until then another timer runs.
        assert until("a timer", lambda: probed(topology, 8080)) == [f"{host}:{port}"]
    assert sidecar.stop() == 0


@pytest.mark.nightly
def test_a_black_hole_is_found_and_a_slow_reader_is_let_be(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with (
        closing(Connection(topology, inbound=False, port=8080)) as out,
        closing(Connection(topology, inbound=True, port=8081)) as into,
        closing(Connection(topology, inbound=False, port=8082)) as slow,
    ):
        slow.client.settimeout(1)
        with suppress(TimeoutError):
            while True:
                slow.client.send(bytes(1 << 16))
        began = time.monotonic()
        for port in (8080, 8081):
            for way in ("--sport", "--dport"):
                topology.node.run(["iptables", "-A", "FORWARD", "-p", "tcp", way, str(port), "-j", "DROP"])
        for connection in (out.client, into.accepted):
            connection.settimeout(DEAD_AFTER_S + 30)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            lasted = time.monotonic() - began
            print(f"\nfound after {lasted:.0f} s")
            assert lasted > DEAD_AFTER_S - 5
        left = DEAD_AFTER_S + 30 - lasted
        slow.client.settimeout(left)
        with pytest.raises(TimeoutError):
            slow.client.recv(1)
        slow.accepted.settimeout(1)
        assert slow.accepted.recv(100)
    assert sidecar.stop() == 0
