"""QUIC where a client is special: a browser, several datagrams in one packet; and a kernel that is."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from client_captures import chromium, run_client
from quic_world import CLIENTS, QUIC, QuicWorld, datagrams, grew, make_certificate, sent
from sidecars import start_sidecar
from waiting import until

from datapath.stepaside.queue import PacketQueue
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: shop, rate: 10Mbit, match: {sni: shop.example.com}}
  - {name: rest, rate: 10Mbit, match: {port: 443}}
"""
_UDP_SEGMENT = 103
"""linux/udp.h; the socket module has no name for it."""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("quic", ["classify", "block"])
def test_a_browser_is_in_its_class_by_http3_or_falls_back_to_tcp(
    topology: PodNodeServer, tmp_path: Path, quic: str
) -> None:
    """Its hello has a post-quantum key share, which takes two datagrams, in frames of mixed order.

    Whether it takes HTTP/3 where it is merely offered is a race, so it is told to; blocked, it is offered.
    """
    certificate, key = make_certificate(tmp_path)
    for program, more in (("quic_server.py", ("8443",)), ("alt_svc_server.py", ())):
        server = topology.server.popen(
            [sys.executable, f"{CLIENTS}/{program}", topology.server_ipv4, str(certificate), str(key), str(QUIC), *more],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
    sidecar = start_sidecar(topology.pod, f"{POLICY}quic: {quic}\n", tmp_path)
    told = [f"--origin-to-force-quic-on=shop.example.com:{QUIC}"] if quic == "classify" else []
    command = chromium(
        topology.server_ipv4, certificate, tmp_path / "profile", "https://shop.example.com/", "--enable-quic", *told
    )
    said = run_client(topology.pod, "chromium", command, tmp_path, succeeds=True).decode()
    if told:
        assert "shop.example.com over HTTP/3" in said
        assert sidecar.connections("shop") == {"quic": sidecar.connections("shop")["quic"]}
        assert sidecar.connections("rest") == {}
        return
    assert said.count("over TCP</p>") == 3, said
    assert list(sidecar.connections("shop")) == ["tls"]
    shown = topology.pod.run(["iptables", "-t", "mangle", "-nvxL", "PODLANE-QUIC"]).stdout
    dropped = re.search(r"^ +(\d+) +\d+ DROP", shown, re.MULTILINE)
    assert dropped, shown
    assert int(dropped[1]) > 0, "it tried"


def hello(name: str) -> list[bytes]:
    """The first datagrams of a real client, whose hello takes several."""
    configuration = QuicConfiguration(
        is_client=True, server_name=name, alpn_protocols=[f"offer-{number}" for number in range(200)]
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", QUIC), now=time.time())
    return [data for data, _ in connection.datagrams_to_send(now=time.time())]


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_datagrams_that_are_sent_in_one_packet_are_looked_at_one_by_one(
    topology: PodNodeServer, tmp_path: Path, datapath: str
) -> None:
    world = QuicWorld(topology, tmp_path, datapath)
    sidecar = world.sidecar(POLICY)
    several = hello("shop.example.com")
    assert len(several) > 1
    assert {len(each) for each in several} == {len(several[0])}
    before = sent(sidecar)
    with datagrams(world) as sock:
        size = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", len(several[0])))
        assert sock.sendmsg([b"".join(several)], [size]) == sum(map(len, several))
        others = grew(sidecar, before, "shop", sum(map(len, several)))
    assert others["rest"] == 0
    assert world.shown() == 1
    assert sidecar.connections("shop") == {"quic": 1}


def test_where_the_queue_is_not_to_be_had_quic_goes_by_port_and_it_is_said(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    world = QuicWorld(topology, tmp_path, "relay")
    with topology.pod.namespace.entered():
        taken = PacketQueue(15101)
    sidecar = world.sidecar(POLICY)
    assert "QUIC goes by port and network: NFQUEUE 15101 cannot be used" in sidecar.log.read_text()
    assert "QUIC goes by port and network" in until("an answer", lambda: sidecar.get("/healthz"))
    client = world.talker()
    client.do("connect", "shop.example.com")
    before = sent(sidecar)
    client.do("send", 100_000)
    assert grew(sidecar, before, "rest", 100_000)["shop"] == 0
    assert "NFQUEUE" not in topology.pod.run(["iptables-save", "-t", "mangle"]).stdout
    taken.close()
    assert sidecar.stop() == 0
