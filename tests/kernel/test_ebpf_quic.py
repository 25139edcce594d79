"""``datapath: ebpf``: QUIC in its class by name. The programs show its first datagrams, and user space answers by flow."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from ebpf_judge import require_programs
from quic_world import INITIAL, RETRY, QuicWorld, Talker, datagrams, grew, packets, sent, start_sink
from sidecars import RunningSidecar, state_of
from test_quic import BODY, CASES, LANES, MOVED, POLICY
from waiting import until

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

SERVING = """
total: 1Gbit
classes:
  - {name: slow, rate: 1Mbit, match: {sni: slow.example, direction: inbound}}
  - {name: fast, rate: 1Mbit, match: {sni: fast.example, direction: inbound, port: 443}}
"""
SLOW = "  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {sni: slow.example}}\n"


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture
def world(topology: PodNodeServer, tmp_path: Path) -> QuicWorld:
    return QuicWorld(topology, tmp_path, "ebpf")


def connect(sidecar: RunningSidecar, client: Talker, *connection: object, counted: str) -> None:
    """Connect, and wait for the answer to what was shown: what is sent before that goes by port."""
    before = sidecar.connections(counted).get("quic", 0)
    client.do("connect", *connection)
    until("the answer", lambda: sidecar.connections(counted).get("quic", 0) > before)


def test_the_kernel_counts_each_upload_in_its_class(world: QuicWorld) -> None:
    clean = state_of(world.pod)
    sidecar = world.sidecar(POLICY)
    for family, port, connection, name in CASES.values():
        client = world.talker(port, family)
        connect(sidecar, client, *connection, counted=name)
        before, counted = sent(sidecar), packets(sidecar, name)
        client.do("send", BODY)
        others = grew(sidecar, before, name, BODY)
        del others[name]
        assert max(others.values()) < 5000, others
        assert packets(sidecar, name) - counted > 100
    assert sidecar.connections("video") == {"quic": 4}
    assert sidecar.connections("port") == {"quic": 1}
    assert "PODLANE" not in state_of(world.pod), "no rules are needed"
    assert "QUIC" not in sidecar.get("/healthz")
    assert sidecar.stop() == 0
    assert state_of(world.pod) == clean


def test_a_live_connection_follows_the_policy(world: QuicWorld) -> None:
    """By what was remembered of it; also when no name in QUIC decides for a while."""
    sidecar = world.sidecar(LANES)
    client = world.talker()
    connect(sidecar, client, "slow.example", counted="slow")
    for policy, name in (
        (MOVED, "fast"),
        (LANES.replace(SLOW, ""), "port"),
        (LANES, "slow"),
        ("total: 1Gbit\nclasses: [{name: web, rate: 1Mbit, match: {port: 443}}]", "web"),
        (LANES, "port"),  # nothing is left of what was known
    ):
        sidecar.reload(policy)
        before = sent(sidecar)
        client.do("send", BODY)
        grew(sidecar, before, name, BODY)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_flows_are_listed_while_their_socket_is_there(world: QuicWorld, family: str) -> None:
    sidecar = world.sidecar(LANES)
    client, other = world.talker(family=family), world.talker(family=family)
    connect(sidecar, client, "slow.example", counted="slow")
    connect(sidecar, other, "fast.example", counted="fast")

    def listed() -> dict[str, Any]:
        document = json.loads(sidecar.get("/connections"))
        assert document["active"] == len(document["connections"])
        return {each["class"]: each for each in document["connections"]}

    shown = listed()
    assert set(shown) == {"slow", "fast"}
    seen = shown["slow"]
    assert (seen["name"], seen["protocol"], seen["state"], seen["direction"]) == (
        "slow.example", "quic", "decided", "outbound",
    )  # fmt: skip
    assert (seen["client"]["address"], seen["destination"]) == (
        world.own_addresses[family], {"address": world.addresses[family], "port": 443},
    )  # fmt: skip
    assert (seen["bytes_up"], seen["bytes_down"]) == (None, None)
    assert 0 <= seen["age_seconds"] < 60
    client.process.kill()
    until("the end of one", lambda: set(listed()) == {"fast"})


def test_the_strictest_connection_of_a_socket_decides(world: QuicWorld) -> None:
    """Same addresses, same ports, another name: it may be a decoy. For the next process, too."""
    sidecar = world.sidecar(LANES)
    client = world.talker()
    for name, counted in (("fast", "fast"), ("slow", "slow"), ("fast", "slow")):
        if sidecar.connections(name):
            client.do("connect", f"{name}.example")
        else:
            connect(sidecar, client, f"{name}.example", counted=counted)
        before = sent(sidecar)
        client.do("send", BODY)
        assert grew(sidecar, before, counted, BODY)["port"] < 5000
    assert sidecar.connections("slow") == {"quic": 1}
    sidecar.stop(signal.SIGKILL)
    again = world.sidecar(LANES)
    client.do("connect", "fast.example")
    before = sent(again)
    client.do("send", BODY)
    assert grew(again, before, "slow", BODY)["fast"] == 0


def test_what_is_no_quic_goes_by_port(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES)
    before = sent(sidecar)
    with datagrams(world) as sock:
        for datagram in (bytes(1000), INITIAL, b"\x40" + INITIAL[1:]):
            for _ in range(20):
                sock.send(datagram)
    others = grew(sidecar, before, "port", 68_000)
    assert others["slow"] == others["fast"] == 0


def test_what_is_excluded_is_not_read(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES, "--exclude-outbound-ports", "443")
    before = sent(sidecar)
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", BODY)
    grew(sidecar, before, "default", BODY)
    assert sidecar.connections("fast") == {}


def test_answers_to_clients_are_in_the_class_of_the_name_they_ask_for(world: QuicWorld) -> None:
    """By what user space has read of copies; a client that begins again under another name can make it stricter alone."""
    start_sink(world.pod, world.folder)
    clean = state_of(world.pod)
    sidecar = world.sidecar(SERVING)
    clients = {family: Talker(world.server, address) for family, address in world.own_addresses.items()}
    # The third begins again on the same flow.
    for family, name, there in (("IPv4", "fast", "fast"), ("IPv6", "slow", "slow"), ("IPv4", "slow", "slow")):
        client, counted = clients[family], sidecar.connections(there).get("quic", 0)
        client.do("connect", f"{name}.example")
        until("the answer", lambda t=there, c=counted: sidecar.connections(t).get("quic", 0) > c)
        before = sent(sidecar)
        client.do("want", BODY)
        others = grew(sidecar, before, there, BODY)
        del others[there]
        assert max(others.values()) < 5000, others
    assert sidecar.stop() == 0
    assert state_of(world.pod) == clean


def test_a_killed_process_is_missed_by_nobody(world: QuicWorld) -> None:
    """What was decided stays decided; what was shown meanwhile waits in the ring for the next one."""
    old, new = world.talker(), world.talker()
    first = world.sidecar(LANES)
    connect(first, old, "fast.example", counted="fast")
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    new.do("connect", "fast.example")
    again = world.sidecar(LANES)
    until("the answer", lambda: again.connections("fast") == {"quic": 1})
    for client in (old, new):
        before = sent(again)
        client.do("send", BODY)
        assert grew(again, before, "fast", BODY)["port"] < 5000
    assert again.stop() == 0


def test_what_is_blocked_is_dropped_and_the_rest_passes(world: QuicWorld) -> None:
    sidecar = world.sidecar(LANES + "quic: block\n")
    before = sent(sidecar)
    with datagrams(world) as sock:
        for _ in range(20):
            sock.send(INITIAL)
        for datagram in (bytes(1200), INITIAL[:1199], b"\x40" + INITIAL[1:]):
            sock.send(datagram)
    assert grew(sidecar, before, "port", 3500)["port"] < 4000
    other = world.talker(RETRY)
    other.do("connect", "fast.example")
    other.do("send", 1000)
    sidecar.reload(LANES)
    client = world.talker()
    connect(sidecar, client, "fast.example", counted="fast")
    client.do("send", 1000)
    sidecar.reload(LANES + "quic: block\n")
    client.do("send", 1000)  # nothing of it begins a connection


def test_nobody_blocks_what_no_name_could_decide(world: QuicWorld) -> None:
    world.sidecar(
        "total: 1Gbit\nquic: block\nclasses: [{name: a, rate: 1Mbit, match: [{port: 443}, {sni: fast.example}]}]"
    )
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", 1000)
