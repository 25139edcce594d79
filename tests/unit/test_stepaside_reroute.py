"""Choosing anew for what is alive, while newer connections are judged. The kernel's table is a dictionary here."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
import trio
from first_bytes import hello, records, sni
from quic_datagrams import crypto, initial
from tcp_packets import tcp_packet
from test_stepaside_classifier import Notes, decided, routing
from udp_packets import udp_packet

from datapath.connection_list import Order
from datapath.stepaside import conntrack
from datapath.stepaside.conntrack_messages import Entry
from datapath.stepaside.marks import CHOSEN_OR_DECIDED, FIRST, SHOWN
from datapath.stepaside.server import StepAside
from traffic_policy.marks import Mark, class_mark
from traffic_policy.policy import TransportProtocol
from traffic_policy.units import Duration

VIDEO, API, OTHER = 1, 2, 3
OLD = routing(("video", {"sni": "video.example"}), ("api", {"sni": "api.example"}), ("other", {"port": 1}))
NEW = routing(("none", {"port": 1}), ("api", {"sni": "api.example"}), ("other", {"sni": "video.example"}))


def packet(name: bytes, port: int) -> bytes:
    return udp_packet(initial(crypto(0, hello(sni(name))), to=name[:8]), client_port=port)


def test_a_connection_that_is_judged_meanwhile_keeps_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    service = StepAside(1, OLD, Notes(), detection_timeout=Duration.parse("1s"))
    judge = service._classifier.classify
    flows = {udp_packet(b"", client_port=port)[12:24]: port for port in range(40_000, 40_100)}
    table = {}
    for flow, port in flows.items():
        table[flow] = judge(packet(b"video.example", port), FIRST.value, 0.0)
    assert set(table.values()) == {decided(VIDEO)}
    last = list(flows)[-1]
    newer: list[int] = []

    def begin_a_newer_connection() -> None:
        newer.append(judge(packet(b"api.example", flows[last]), table[last], 0.0))
        table[last] = newer[0]

    def entries(mark: Mark) -> list[Entry]:
        assert mark == CHOSEN_OR_DECIDED
        return [Entry(flow, mark, transport=TransportProtocol.UDP) for flow, mark in table.items()]

    def change(changes: Iterable[tuple[Entry, Mark]]) -> int:
        wanted = list(changes)
        # The thread that judges may come in here, if nothing keeps it.
        if service._classifying.acquire(blocking=False):
            begin_a_newer_connection()
            service._classifying.release()
        for entry, mark in wanted:
            table[entry.flow] = table[entry.flow] & ~mark.mask | mark.value
        return len(wanted)

    monkeypatch.setattr(conntrack, "entries", entries)
    monkeypatch.setattr(conntrack, "change", change)

    async def main() -> int:
        await service.follow(NEW)
        return await service.reroute()

    assert trio.run(main) == 100
    if not newer:
        begin_a_newer_connection()
    assert table == {flow: decided(API if flow == last else OTHER) for flow in flows}


@pytest.mark.trio
async def test_beside_a_relay_its_own_connections_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay marks the connections that it opens with the same state (datapath.netfilter.foreign_marks)."""
    flow = udp_packet(b"", client_port=40_000)[12:24]
    relayed = Entry(flow, decided(77))
    monkeypatch.setattr(conntrack, "entries", lambda _: [relayed])
    monkeypatch.setattr(conntrack, "change", lambda changes: len(list(changes)))
    service = StepAside(1, OLD, Notes(), detection_timeout=Duration.parse("1s"), transports=(TransportProtocol.UDP,))
    assert (await service.connections(10, Order.NEWEST)).active == 0
    assert await service.reroute() == 0
    alone = StepAside(1, OLD, Notes(), detection_timeout=Duration.parse("1s"))
    assert (await alone.connections(10, Order.NEWEST)).active == 1
    assert await alone.reroute() == 1


@pytest.mark.trio
async def test_a_chosen_connection_follows_and_an_undecided_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is left as it is, so that its packets are still shown."""
    flows = [tcp_packet(b"", client_port=port)[12:24] for port in (40_000, 40_001)]
    table = {flows[0]: SHOWN.value | class_mark(VIDEO).value, flows[1]: SHOWN.value}

    def change(changes: Iterable[tuple[Entry, Mark]]) -> int:
        wanted = list(changes)
        for entry, mark in wanted:
            table[entry.flow] = table[entry.flow] & ~mark.mask | mark.value
        return len(wanted)

    monkeypatch.setattr(conntrack, "entries", lambda _: [Entry(flow, mark) for flow, mark in table.items()])
    monkeypatch.setattr(conntrack, "change", change)
    service = StepAside(1, OLD, Notes(), detection_timeout=Duration.parse("1s"))
    service._classifier.classify(
        tcp_packet(records(hello(sni(b"video.example"))), client_port=40_000), FIRST.value, 0.0
    )
    await service.follow(NEW)
    assert await service.reroute() == 1
    assert table == {flows[0]: SHOWN.value | class_mark(OTHER).value, flows[1]: SHOWN.value}


@pytest.mark.trio
async def test_a_connection_is_never_younger_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """conntrack tells when it began by the system's clock, which may have been set back since."""
    now = time.time_ns()
    flows = [tcp_packet(b"", client_port=port)[12:24] for port in (1, 2)]
    began = [now + 3600 * 10**9, now - 3600 * 10**9]
    found = [Entry(flow, decided(VIDEO), began=at) for flow, at in zip(flows, began, strict=True)]
    monkeypatch.setattr(conntrack, "entries", lambda _: found)
    service = StepAside(1, OLD, Notes(), detection_timeout=Duration.parse("1s"))
    page = await service.connections(10, Order.NEWEST)
    ages = sorted(each.age or 0.0 for each in page.connections)
    assert ages[0] == 0
    assert ages[1] >= 3600
