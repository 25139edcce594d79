"""The rules of the step-aside datapath, walked as the kernel does: what is shown, saved and followed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from bpf_machine import Instruction, Skb, check, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_packets import ACK, PSH, tcp_packet
from test_ruleset_walk import (
    EXAMPLE,
    HERE,
    IDS,
    SSH,
    UDP,
    Flow,
    Packet,
    first_packet,
    flows,
    has,
    output,
    policies,
    silences,
    walk,
)

from sidecar.datapath import Datapath
from sidecar.netfilter.data_filter import PROGRAMS
from sidecar.netfilter.rules import Direction, Family, FamilyRules
from sidecar.netfilter.ruleset import CaptureSettings, build_ruleset
from sidecar.routing.table import RoutingTable
from sidecar.stepaside.marks import DECIDED, FIRST, OPEN, SHOWN, UNDECIDED_ASIDE
from tc_core.marks import DIVERT, ClassIds, class_id_of
from tc_core.policy import DEFAULT_CLASS, TrafficPolicy, TransportProtocol

QUEUE = 77
ASIDE = CaptureSettings(datapath=Datapath.STEP_ASIDE, outbound_port=QUEUE)


def example(**options: bool) -> FamilyRules:
    return build_ruleset(EXAMPLE, IDS, ASIDE, **options).of(Family.V4)


def posted(rules: FamilyRules, packet: Packet) -> Packet:
    """The packet after mangle POSTROUTING."""
    walk(rules, "PODLANE-SAVE", packet)
    return packet


@settings(max_examples=150)
@given(policies, silences, st.lists(flows, min_size=1, max_size=8), st.booleans())
def test_what_is_shown_is_what_the_table_calls_undecided(
    policy: TrafficPolicy, silent: tuple[int, ...], drawn: list[Flow], running: bool
) -> None:
    ids = ClassIds.assign(c.name for c in policy.classes)
    rules = build_ruleset(policy, ids, replace(ASIDE, silent_ports=silent), capture=running)
    table = RoutingTable.of(policy, silent)
    for source, target in drawn:
        family = rules.of(Family(target.address.version))
        syn = output(family, first_packet((source, target)))
        assert syn.queue is None
        assert family.route is None
        data = output(family, replace(syn, syn=False, carries_data=True, mark=0))
        undecided = running and target.protocol is TransportProtocol.TCP and table.undecided(target, source=source)
        assert (data.queue == QUEUE) == undecided
        assert has(data.connmark, SHOWN) == undecided
        # Until then both have the class that the kernel can tell, which for undecided ones is further down the list.
        if not undecided:
            name = table.route(target, source=source).class_name
            for packet in (syn, data):
                assert class_id_of(packet.mark) == (0 if name == DEFAULT_CLASS else ids[name])


def test_a_connections_first_packet_with_data_is_told_apart() -> None:
    rules = example()
    syn = output(rules, Packet(HERE))
    assert (syn.queue, has(syn.connmark, UNDECIDED_ASIDE)) == (None, True)
    bare = output(rules, replace(syn, syn=False))
    assert (bare.queue, has(bare.connmark, UNDECIDED_ASIDE)) == (None, True)
    first = output(rules, replace(bare, carries_data=True))
    assert (first.queue, has(first.mark, FIRST), has(first.connmark, SHOWN)) == (QUEUE, True, True)
    second = output(rules, replace(first, mark=0, queue=None))
    assert (second.queue, has(second.mark, FIRST), has(second.connmark, SHOWN)) == (QUEUE, False, True)


def test_what_was_decided_is_saved_and_followed_and_nothing_else() -> None:
    rules = example()
    others = 0x80
    shown = Packet(HERE, syn=False, carries_data=True, connmark=SHOWN.value | others)
    undecided = posted(rules, replace(shown, mark=5 << 24))
    assert undecided.connmark == shown.connmark
    decided = posted(rules, replace(shown, mark=DECIDED.value | 5 << 24 | 0x700))
    assert decided.connmark == DECIDED.value | 5 << 24 | others
    later = output(rules, replace(decided, mark=0x4))
    assert (later.mark, later.queue) == (DECIDED.value | 5 << 24 | 0x4, None)
    assert posted(rules, replace(later)).connmark == later.connmark


def test_the_mark_of_a_shown_packet_never_leads_to_the_relays_route() -> None:
    rules = example()
    for state in (UNDECIDED_ASIDE, SHOWN):
        packet = output(rules, Packet(HERE, syn=False, carries_data=True, connmark=state.value))
        assert packet.queue == QUEUE
        assert not has(packet.mark, DIVERT)


def test_a_reused_tuple_starts_clean() -> None:
    syn = output(example(), Packet(HERE, port=22, connmark=DECIDED.value | 5 << 24))
    assert (syn.mark, syn.connmark is not None and has(syn.connmark, OPEN)) == (SSH, True)
    draining = output(example(capture=False), Packet(HERE, port=22, connmark=DECIDED.value | 5 << 24))
    assert (draining.mark, has(draining.connmark, DECIDED), has(draining.connmark, OPEN)) == (SSH, False, False)


@pytest.mark.parametrize(
    "packet",
    [
        Packet(HERE, port=9999, syn=False, carries_data=True, connmark=None, direction=None),
        Packet(HERE, port=9999, syn=False, carries_data=True),
        Packet(HERE, port=9999, syn=False, carries_data=True, connmark=SHOWN.value, direction=Direction.REPLY),
        Packet(HERE, port=9999, syn=False, carries_data=True, connmark=SHOWN.value, out_interface="lo"),
        Packet(HERE, UDP, 9999, syn=False, carries_data=True, connmark=SHOWN.value),
    ],
    ids=["not tracked", "from before", "a reply", "stays on lo", "no TCP"],
)
def test_not_shown(packet: Packet) -> None:
    assert output(example(), packet).queue is None


# --- which packets carry data ----------------------------------------------------------------------------------------

_LOADS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1)


def from_the_network_header(family: Family) -> list[Instruction]:
    """The program for the machine of these tests, which has a link header: netfilter has none at this place."""
    return [(code, jt, jf, k | 0xFFF00000 if code in _LOADS else k) for code, jt, jf, k in PROGRAMS[family]]


def carries_data(packet: bytes, family: Family) -> bool:
    protocol = {Family.V4: 0x0800, Family.V6: 0x86DD}[family]
    return bool(run(from_the_network_header(family), Skb(packet, protocol, link_header=0)))


@pytest.mark.parametrize("family", Family, ids=str)
@given(words=st.integers(0, 10), text=st.binary(max_size=40))
def test_packets_with_data_are_told_from_those_without(family: Family, words: int, text: bytes) -> None:
    program = from_the_network_header(family)
    check(program)
    packet = tcp_packet(text, v6=family is Family.V6, options=bytes(4 * words), flags=ACK | PSH)
    assert carries_data(packet, family) == bool(text)


def test_ip_options_are_no_data() -> None:
    plain = tcp_packet(b"")
    packet = struct.pack(">BBH", 0x47, 0, 48) + plain[4:20] + bytes(8) + plain[20:]
    assert not carries_data(packet, Family.V4)
    assert carries_data(packet + b"x", Family.V4)


def test_behind_an_extension_header_it_is_better_to_look() -> None:
    plain = tcp_packet(b"", v6=True)
    packet = plain[:6] + b"\0" + plain[7:40] + b"\6\0\1\4\0\0\0\0" + plain[40:]
    assert carries_data(packet, Family.V6)
