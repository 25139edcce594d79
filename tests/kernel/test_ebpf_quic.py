"""``datapath: ebpf``: QUIC in its class by name. The programs show its first datagrams, and user space answers by flow."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from quic_world import INITIAL, RETRY, QuicWorld, datagrams, grew, packets, sent
from sidecars import state_of
from test_quic import BODY, CASES, LANES, MOVED, POLICY
from waiting import until

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

SLOW = "  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {sni: slow.example}}\n"


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture
def world(topology: PodNodeServer, tmp_path: Path) -> QuicWorld:
    return QuicWorld(topology, tmp_path, "ebpf")


def test_the_kernel_counts_each_upload_in_its_class(world: QuicWorld) -> None:
    clean = state_of(world.pod)
    sidecar = world.sidecar(POLICY)
    for family, port, connection, name in CASES.values():
        before, counted = sent(sidecar), packets(sidecar, name)
        client = world.talker(port, family)
        client.do("connect", *connection)
        client.do("send", BODY)
        others = grew(sidecar, before, name, BODY)
        del others[name]
        # Until the answer is there: what a client sends before the server has spoken.
        assert max(others.values()) < 15_000, others
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
    client.do("connect", "slow.example")
    client.do("send", 100_000)
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


def test_the_strictest_connection_of_a_socket_decides(world: QuicWorld) -> None:
    """Same addresses, same ports, another name: it may be a decoy. For the next process, too."""
    sidecar = world.sidecar(LANES)
    client = world.talker()
    for name, counted in (("fast", "fast"), ("slow", "slow"), ("fast", "slow")):
        client.do("connect", f"{name}.example")
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


def test_a_killed_process_is_missed_by_nobody(world: QuicWorld) -> None:
    """What was decided stays decided; what was shown meanwhile waits in the ring for the next one."""
    old, new = world.talker(), world.talker()
    first = world.sidecar(LANES)
    old.do("connect", "fast.example")
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    new.do("connect", "fast.example")
    again = world.sidecar(LANES)
    for client in (old, new):
        before = sent(again)
        client.do("send", BODY)
        assert grew(again, before, "fast", BODY)["port"] < 20_000
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
    client.do("connect", "fast.example")
    client.do("send", 1000)
    sidecar.reload(LANES + "quic: block\n")
    client.do("send", 1000)  # it has begun: nothing of it begins a connection
    until("it is not counted as missed", lambda: sidecar.connections("fast") == {"quic": 1})


def test_nobody_blocks_what_no_name_could_decide(world: QuicWorld) -> None:
    world.sidecar(
        "total: 1Gbit\nquic: block\nclasses: [{name: a, rate: 1Mbit, match: [{port: 443}, {sni: fast.example}]}]"
    )
    client = world.talker()
    client.do("connect", "fast.example")
    client.do("send", 1000)
