"""QUIC in its class by name, with either datapath: real clients and a real server, counted by the kernel."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from meter import ATTEMPTS
from quic_world import (
    CLIENTS,
    INITIAL,
    QUIC,
    RETRY,
    QuicWorld,
    Talker,
    datagrams,
    grew,
    packets,
    rates_of,
    sent,
    start_sink,
)
from test_stepaside import flush_conntrack
from waiting import until

from datapath.stepaside import conntrack
from datapath.stepaside.conntrack_messages import Entry
from datapath.stepaside.marks import DECIDED, OPEN
from podlane.netns.topology import PodNodeServer
from traffic_policy.marks import Mark
from traffic_policy.policy import TransportProtocol

pytestmark = [
    pytest.mark.root,
    pytest.mark.covering,
    pytest.mark.parametrize("datapath", ["relay", "step-aside"]),
]

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
    "version 1": ("IPv4", QUIC, ("a.video.example",), "video"),
    "version 2": ("IPv6", QUIC, ("a.video.example", 2), "video"),
    "a hello of several datagrams": ("IPv4", QUIC, ("a.video.example", 1, MANY), "video"),
    "the same by IPv6": ("IPv6", QUIC, ("a.video.example", 1, MANY), "video"),
    "another name": ("IPv6", QUIC, ("other.example",), "port"),
    "ALPN behind a Retry": ("IPv4", RETRY, ("other.example",), "sink"),
}


def test_the_kernel_counts_each_upload_in_its_class(world: QuicWorld) -> None:
    sidecar = world.sidecar(POLICY)
    for family, port, connection, name in CASES.values():
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
        assert world.shown() - seen < 20
    assert sidecar.connections("video") == {"quic": 4}
    assert sidecar.connections("port") == {"quic": 1}


LANES = """
total: 1Gbit
classes:
  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {sni: slow.example}}
  - {name: fast, rate: 1Mbit, ceil: 12Mbit, match: {sni: fast.example}}
  - {name: port, rate: 1Mbit, match: {protocol: udp, port: 443}}
"""
MOVED = LANES.replace("slow.example", "nothing.example").replace("fast.example", "slow.example")


@pytest.mark.measure
def test_two_names_at_one_address_are_held_to_two_ceilings(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES)
    for name in ("slow", "fast"):
        command = [sys.executable, f"{CLIENTS}/quic_flood.py", world.addresses["IPv4"], str(QUIC), f"{name}.example"]
        world.pod.popen(command)
    until("two classes", lambda: sidecar.connections("slow") == sidecar.connections("fast") == {"quic": 1})
    for attempt in reversed(range(ATTEMPTS)):
        rates = rates_of(sidecar, ("slow", "fast"))
        if rates == {"slow": pytest.approx(4, rel=0.05), "fast": pytest.approx(12, rel=0.05)}:
            return
        # Too fast, too: the sidecar reads its clock before the counters, and a busy machine may come between.
        assert attempt, rates


def test_a_live_connection_follows_the_policy(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES)
    client = world.talker()
    client.do("connect", "slow.example")
    client.do("send", 100_000)
    sidecar.reload(MOVED)
    assert "live connections changed their class" in sidecar.log.read_text()
    before = sent(sidecar)
    client.do("send", BODY)
    grew(sidecar, before, "fast", BODY)
    sidecar.reload("total: 1Gbit\nclasses: [{name: web, rate: 1Mbit, match: {port: 443}}]")
    before = sent(sidecar)
    client.do("send", BODY)
    grew(sidecar, before, "web", BODY)
    if world.datapath == "relay":
        sidecar.reload(LANES)
        before = sent(sidecar)
        client.do("send", BODY)
        grew(sidecar, before, "port", BODY)  # nothing is left of what was known


def test_names_in_quic_alone_need_no_tcp(world: QuicWorld) -> None:
    """Also when an earlier policy captured TCP: its rules go, and the classifier stays."""
    sidecar = world.sidecar(LANES)
    sidecar.reload(
        "total: 1Gbit\nclasses: [{name: fast, rate: 1Mbit, match: {sni: fast.example, protocol: udp, port: [443, 8443]}}]"
    )
    until("the rules for TCP to go", lambda: "-p tcp" not in world.pod.run(["iptables-save", "-t", "mangle"]).stdout)
    for port in (QUIC, RETRY):
        client = world.talker(port)
        client.do("connect", "fast.example")
        before = sent(sidecar)
        client.do("send", BODY)
        grew(sidecar, before, "fast", BODY)
    assert sidecar.connections("fast")["quic"] == 2


def test_the_strictest_connection_of_a_socket_decides(world: QuicWorld) -> None:
    """Same addresses, same ports, another name, while the kernel still knows the flow."""
    sidecar = world.sidecar(LANES)
    client = world.talker()
    for name, counted in (("fast", "fast"), ("slow", "slow"), ("fast", "slow")):
        client.do("connect", f"{name}.example")
        before = sent(sidecar)
        client.do("send", BODY)
        assert grew(sidecar, before, counted, BODY)["port"] < 5000
    assert sidecar.connections("slow") == {"quic": 1}


def test_a_flow_that_the_kernel_has_forgotten_gets_its_class_back(world: QuicWorld) -> None:
    """As after two minutes of silence: its next packet has nothing to read."""
    sidecar = world.sidecar(LANES)
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", 10_000)
    before, seen = sent(sidecar), world.shown()
    with world.pod.namespace.entered():
        flush_conntrack()
    client.do("send", BODY)
    assert grew(sidecar, before, "fast", BODY)["port"] < 2000
    assert 0 < world.shown() - seen < 20, "what was under way before the answer was saved"


def flows(world: QuicWorld, mark: Mark) -> list[Entry]:
    with world.pod.namespace.entered():
        return [entry for entry in conntrack.entries(mark) if entry.transport is TransportProtocol.UDP]


def test_what_is_no_quic_goes_by_port_and_marks_of_others_stay(world: QuicWorld) -> None:
    world.pod.run(
        ["iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "CONNMARK", "--set-xmark", "0x80/0xff"]
    )
    sidecar = world.sidecar(LANES)
    before = sent(sidecar)
    with datagrams(world) as sock:
        sock.send(bytes(1000))
        until("its decision", lambda: flows(world, DECIDED))
        for _ in range(20):
            sock.send(bytes(1000))
    others = grew(sidecar, before, "port", 21_000)
    assert world.shown() == 1
    assert others["slow"] == others["fast"] == 0
    assert flows(world, Mark(0x80, 0xFF)) == flows(world, DECIDED)


def test_what_is_excluded_is_not_read(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES, "--exclude-outbound-ports", "443")
    before = sent(sidecar)
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", BODY)
    grew(sidecar, before, "default", BODY)
    assert world.shown() == 0


def test_a_killed_classifier_is_missed_by_nobody(world: QuicWorld) -> None:
    """What was decided stays decided, what is new goes by port, and the next one goes on with the rules that are there."""
    old, new = world.talker(), world.talker()
    first = world.sidecar(LANES)
    old.do("connect", "fast.example")
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    new.do("connect", "fast.example")
    again = world.sidecar(LANES)
    assert "adopted=True" in again.log.read_text()
    before = sent(again)
    old.do("send", BODY)
    assert grew(again, before, "fast", BODY)["port"] < 5000
    before = sent(again)
    new.do("send", BODY)
    grew(again, before, "port", BODY)
    assert again.stop() == 0
    assert flows(world, DECIDED) == flows(world, OPEN) == []


def test_flows_keep_their_class_and_new_ones_get_it_when_another_proxy_comes(world: QuicWorld) -> None:
    """Class ids are not those that the policy would get afresh: the first class has gone meanwhile."""
    sidecar = world.sidecar(LANES)
    old = world.talker()
    old.do("connect", "fast.example")
    sidecar.reload(LANES.replace("  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {sni: slow.example}}\n", ""))
    os.kill(sidecar.proxy, signal.SIGKILL)
    until("another proxy", lambda: "ready again" in sidecar.log.read_text())
    before = sent(sidecar)
    old.do("send", BODY)
    grew(sidecar, before, "fast", BODY)
    until("a reader", world.read)
    new = world.talker()
    new.do("connect", "fast.example")
    before = sent(sidecar)
    new.do("send", BODY)
    grew(sidecar, before, "fast", BODY)
    assert sidecar.stop() == 0


def test_live_flows_are_told_of(world: QuicWorld) -> None:
    log = world.folder / "access.log"
    sidecar = world.sidecar(LANES, "--access-log", "connections", "--access-log-file", str(log))
    client = world.talker()
    client.do("connect", "fast.example")
    (flow,) = json.loads(sidecar.get("/connections"))["connections"]
    assert (flow["class"], flow["name"], flow["protocol"], flow["state"]) == (
        "fast", "fast.example", "quic", "stepped-aside",
    )  # fmt: skip
    assert 'podlane_detections_total{protocol="quic",reason="found"} 1.0' in sidecar.get("/metrics")
    line = json.loads(until("the line", lambda: log.read_text().strip()))
    assert line["network"] | {"protocol": "quic", "transport": "udp"} == line["network"]
    assert line["destination"]["domain"] == "fast.example"


# --- what clients open -----------------------------------------------------------------------------------------------

SERVING = """
total: 1Gbit
classes:
  - {name: slow, rate: 1Mbit, match: {sni: slow.example, direction: inbound}}
  - {name: fast, rate: 1Mbit, match: {sni: fast.example, direction: inbound, port: 443}}
  - {name: port, rate: 1Mbit, match: {protocol: udp, port: 443, direction: inbound}}
"""


def test_answers_to_clients_are_in_the_class_of_the_name_they_ask_for(world: QuicWorld) -> None:
    start_sink(world.pod, world.folder)
    sidecar = world.sidecar(SERVING)
    clients = {family: Talker(world.server, address) for family, address in world.own_addresses.items()}
    asked = [("IPv4", "fast", "fast"), ("IPv4", "slow", "slow"), ("IPv6", "slow", "slow"), ("IPv6", "other", "port")]
    for family, name, there in asked:
        client = clients[family]
        client.do("connect", f"{name}.example")
        before, seen = sent(sidecar), world.shown()
        client.do("want", BODY)
        others = grew(sidecar, before, there, BODY)
        del others[there]
        assert max(others.values()) < 5000, others
        assert world.shown() - seen < 5


# --- refusing it -----------------------------------------------------------------------------------------------------


def test_what_is_blocked_fails_at_once_and_the_rest_passes(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES + "quic: block\n")
    client = world.talker()
    assert client.tell("connect", "fast.example").startswith("failed PermissionError")
    before = sent(sidecar)
    with datagrams(world) as sock:
        with pytest.raises(PermissionError):
            sock.send(INITIAL)
        for datagram in (bytes(1200), INITIAL[:1199], b"\x40" + INITIAL[1:]):
            sock.send(datagram)
    grew(sidecar, before, "port", 3500)
    other = world.talker(RETRY)
    other.do("connect", "fast.example")
    other.do("send", 1000)
    sidecar.reload(LANES)
    client.do("connect", "fast.example")
    client.do("send", 1000)
    sidecar.reload(LANES + "quic: block\n")
    client.do("send", 1000)


def test_nobody_blocks_what_no_name_could_decide(world: QuicWorld) -> None:
    world.sidecar(
        "total: 1Gbit\nquic: block\nclasses: [{name: a, rate: 1Mbit, match: [{port: 443}, {sni: fast.example}]}]"
    )
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", 1000)
