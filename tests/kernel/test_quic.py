"""QUIC in its class by name, with either datapath: real clients and a real server, counted by the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from quic_world import QUIC, RETRY, QuicWorld, grew, packets, sent

from podlane.lab.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.parametrize("datapath", ["relay", "step-aside"])]

POLICY = """
total: 1Gbit
classes:
  - {name: video, rate: 10Mbit, match: {sni: ["*.video.example"]}}
  - {name: sink, rate: 10Mbit, match: {alpn: sink, port: 8443}}
  - {name: port, rate: 10Mbit, match: {protocol: udp, port: 443}}
"""
BODY = 200_000
"""Bytes of an upload that makes its class stand out among handshakes and acknowledgements."""
MANY = ",".join(f"offer-{number}" for number in range(200)) + ",sink"
"""A list of ALPN names that makes the hello take several datagrams."""


@pytest.fixture
def world(topology: PodNodeServer, tmp_path: Path, datapath: str) -> QuicWorld:
    return QuicWorld(topology, tmp_path, datapath)


CASES = {
    "version 1": (QUIC, ("a.video.example",), "video"),
    "version 2": (QUIC, ("a.video.example", 2), "video"),
    "a hello of several datagrams": (QUIC, ("a.video.example", 1, MANY), "video"),
    "another name": (QUIC, ("other.example",), "port"),
    "ALPN behind a Retry": (RETRY, ("other.example",), "sink"),
}


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_kernel_counts_each_upload_in_its_class(world: QuicWorld, family: str) -> None:
    sidecar = world.sidecar(POLICY)
    for port, connection, name in CASES.values():
        before, seen, counted = sent(sidecar), world.shown(), packets(sidecar, name)
        client = world.talker(port, family)
        client.do("connect", *connection)
        client.do("send", BODY)
        others = grew(sidecar, before, name, BODY)
        del others[name]
        # Until the name is known: some datagrams of the hello.
        assert max(others.values()) < 9000, others
        # What begins a connection is shown, and nothing of what it carries.
        assert packets(sidecar, name) - counted > 100
        assert world.shown() - seen < 10
    assert sidecar.connections("video") == {"quic": 3}
    assert sidecar.connections("port") == {"quic": 1}
