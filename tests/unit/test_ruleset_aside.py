"""The rules of the step-aside datapath, walked as the kernel does: what is shown, saved and followed."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from bpf_machine import Instruction, Skb, check, run
from hypothesis import given, settings
from hypothesis import strategies as st
from ruleset_walk import UDP, Packet, answer, arrival, has, output, through
from tcp_packets import ACK, PSH, tcp_packet
from test_ruleset_walk import (
    ARRIVALS,
    EXAMPLE,
    HERE,
    IDS,
    SSH,
    Flow,
    excluded_inbound,
    exclusions,
    first_packet,
    flows,
    opened,
    policies,
    serving,
    silences,
    written_twice,
)

from datapath.mesh.types import ISTIO
from datapath.netfilter.nfqueue_rules import SHOW
from datapath.netfilter.packet_filters import CARRIES_DATA
from datapath.netfilter.rules import ConntrackDirection, Family, FamilyRules, Nfqueue, SetMark
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from datapath.routing.table import RoutingTable
from datapath.stepaside.marks import CHOSEN, DECIDED, FIRST, OPEN, SHOWN, UNCLASSED, UNDECIDED_ASIDE
from traffic_policy.marks import DIVERT, ClassIds, class_id_of
from traffic_policy.policy import DEFAULT_CLASS, Bound, TrafficPolicy
from traffic_policy.settings import Datapath

QUEUE = 77
ASIDE = CaptureSettings(datapath=Datapath.STEP_ASIDE, outbound_port=QUEUE)


def example(**options: bool) -> FamilyRules:
    return build_ruleset(EXAMPLE, IDS, ASIDE, **options).for_family(Family.V4)


def posted(rules: FamilyRules, packet: Packet) -> Packet:
    """The packet after mangle POSTROUTING."""
    return through(rules, "POSTROUTING", packet)


def received(rules: FamilyRules, packet: Packet) -> Packet:
    """The packet after mangle INPUT."""
    return through(rules, "INPUT", packet)


@settings(max_examples=150)
@given(policies, silences, st.lists(flows, min_size=1, max_size=8), st.booleans())
def test_what_is_shown_is_what_the_table_calls_undecided(
    policy: TrafficPolicy, silent: tuple[int, ...], drawn: list[Flow], running: bool
) -> None:
    ids = ClassIds.assign(c.name for c in policy.classes)
    rules = build_ruleset(policy, ids, replace(ASIDE, silent_ports=silent), capture=running)
    table = RoutingTable.from_policy(policy, silent)
    for source, target in drawn:
        family = rules.for_family(Family(target.address.version))
        syn = output(family, first_packet((source, target)))
        undecided = running and table.undecided(target, source=source)
        assert (syn.queue == QUEUE) == (undecided and target.protocol is UDP)
        assert syn.dropped == (running and table.refuses_quic(target, source=source))
        assert family.routes == ()
        if syn.dropped:
            continue
        data = output(family, replace(syn, syn=False, carries_data=True, mark=0, queue=None))
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
    assert (later.mark, later.queue) == (0x4, None), "a mark that changes in OUTPUT has the packet routed once more"
    sent = posted(rules, later)
    assert (sent.mark, sent.connmark) == (5 << 24 | 0x4, decided.connmark)


def test_what_a_meshs_proxy_has_marked_is_decided_by_its_syn_alone() -> None:
    """``later`` came into the policy first, so that its id is not what its place says: marks go by places."""
    policy = TrafficPolicy.model_validate(
        {
            "total": "1Gbit",
            "classes": [
                {"name": "first", "rate": "1Mbit", "match": [{"host": "a.example"}]},
                {"name": "port", "rate": "1Mbit", "match": [{"port": 443}]},
                {"name": "later", "rate": "1Mbit", "match": [{"host": "b.example"}]},
            ],
        }
    )
    ids = ClassIds.assign(["later", "first", "port"])
    given = replace(ASIDE, mesh=ISTIO, mesh_marks=True)
    rules = build_ruleset(policy, ids, given).for_family(Family.V4)
    others = 0x539
    for name, place in (("first", 1), ("later", 3)):
        syn = output(rules, Packet(HERE, mark=place << 24 | others, connmark=0x80, group=ISTIO.group))
        assert (syn.mark, syn.connmark) == (others, ids[name] << 24 | DECIDED.value | 0x80)
        assert posted(rules, syn).mark == ids[name] << 24 | others
        orphaned = output(rules, replace(syn, syn=False, carries_data=True, user=None, group=None))
        assert (orphaned.queue, posted(rules, orphaned).mark) == (None, ids[name] << 24 | others)
    for group, mark in ((1000, 3 << 24), (ISTIO.group, 2 << 24), (ISTIO.group, 9 << 24), (ISTIO.group, 0)):
        syn = output(rules, Packet(HERE, port=8443, mark=mark, connmark=DECIDED.value | 5 << 24, group=group))
        assert class_id_of(posted(rules, syn).mark) == 0, "a mark that says nothing, or not by that proxy"
        assert has(syn.connmark, UNDECIDED_ASIDE) == (group == ISTIO.group), "names are read then, of that proxy"
    without = build_ruleset(policy, ids, replace(given, mesh_marks=False)).for_family(Family.V4)
    assert has(output(without, Packet(HERE, mark=3 << 24, group=ISTIO.group)).connmark, UNDECIDED_ASIDE)


def test_a_chosen_class_is_saved_and_followed_and_packets_are_still_shown() -> None:
    rules = example()
    others = 0x80
    shown = Packet(HERE, syn=False, carries_data=True, connmark=SHOWN.value | others)
    chosen = posted(rules, replace(shown, mark=CHOSEN.value | 5 << 24 | 0x700))
    assert chosen.connmark == SHOWN.value | 5 << 24 | others
    bare = posted(rules, output(rules, replace(chosen, mark=0x4, carries_data=False)))
    assert (bare.mark, bare.queue) == (5 << 24 | 0x4, None), "an acknowledgement has the class"
    data = output(rules, replace(chosen, mark=0x4))
    assert (data.mark, data.queue) == (CHOSEN.value | 5 << 24 | 0x4, QUEUE), "the classifier is told of the class"
    unseen = posted(rules, data)
    assert unseen.connmark == chosen.connmark, "without a classifier it stays as it is"
    decided = posted(rules, replace(data, mark=DECIDED.value | 6 << 24))
    assert decided.connmark == DECIDED.value | 6 << 24 | others
    for state in (0, UNDECIDED_ASIDE.value):
        another = posted(rules, Packet(HERE, syn=False, mark=0x4, connmark=state | 5 << 24))
        assert another.mark == 0x4, "bits that are of no state of ours are no class"
    again = output(rules, replace(chosen, syn=True, carries_data=False))
    assert again.connmark == UNDECIDED_ASIDE.value | others, "a SYN starts clean"


def test_the_mark_of_a_shown_packet_never_leads_to_the_relays_route() -> None:
    rules = example()
    for state in (UNDECIDED_ASIDE, SHOWN):
        packet = output(rules, Packet(HERE, syn=False, carries_data=True, connmark=state.value))
        assert packet.queue == QUEUE
        assert not has(packet.mark, DIVERT)
    # That of a chosen class does, so it is not written where there is such a route.
    beside_a_relay = build_ruleset(EXAMPLE, IDS, CaptureSettings(outbound_port=QUEUE)).for_family(Family.V4)
    written = [rule.action for chain in beside_a_relay.chains if chain.name == SHOW for rule in chain.rules]
    assert written
    assert SetMark(CHOSEN) not in written
    assert any(SetMark(CHOSEN) == rule.action for chain in rules.chains if chain.name == SHOW for rule in chain.rules)


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
        Packet(HERE, port=9999, syn=False, carries_data=True, connmark=SHOWN.value, direction=ConntrackDirection.REPLY),
        Packet(HERE, port=9999, syn=False, carries_data=True, connmark=SHOWN.value, out_interface="lo"),
        Packet(HERE, None, 0, syn=False, carries_data=True, connmark=SHOWN.value),
    ],
    ids=["not tracked", "from before", "a reply", "stays on lo", "no TCP or UDP"],
)
def test_not_shown(packet: Packet) -> None:
    assert output(example(), packet).queue is None


# --- connections that clients open ------------------------------------------------------------------------------------


def aside(**options: bool) -> FamilyRules:
    return serving(datapath=Datapath.STEP_ASIDE, outbound_port=QUEUE, **options)


@settings(max_examples=100)
@given(
    policies,
    silences,
    st.one_of(st.just(ASIDE), exclusions.map(lambda capture: replace(capture, datapath=Datapath.STEP_ASIDE))),
    st.lists(flows, min_size=1, max_size=8),
    st.booleans(),
)
def test_of_what_clients_open_is_shown_what_the_table_calls_undecided(
    policy: TrafficPolicy, silent: tuple[int, ...], capture: CaptureSettings, drawn: list[Flow], running: bool
) -> None:
    rules, table, ids = written_twice(policy, silent, capture, running=running)
    for source, target in drawn:
        inbound = replace(target, bound=Bound.INBOUND)
        family = rules.for_family(Family(target.address.version))
        syn = arrival(family, first_packet((source, target)))
        assert (syn.tproxy, family.routes) == (None, ())
        data = arrival(family, replace(syn, syn=False, carries_data=True, queue=None))
        excluded_matches = excluded_inbound(source, target, capture)
        undecided = running and not excluded_matches and table.undecided(inbound, source=source)
        assert (syn.queue is not None) == (undecided and target.protocol is UDP)
        assert (data.queue == capture.outbound_port) == undecided
        if not undecided:
            name = DEFAULT_CLASS if excluded_matches else table.route(inbound, source=source).class_name
            for packet in (syn, data):
                back = output(family, answer(packet))
                assert class_id_of(back.mark) == (0 if name == DEFAULT_CLASS else ids[name])
                assert back.queue is None


@pytest.mark.parametrize("case", ARRIVALS)
def test_what_comes_in_is_shown_once_it_says_something(case: str) -> None:
    packet, taken = ARRIVALS[case]
    rules = aside()
    bare = arrival(rules, replace(packet))
    assert (bare.mark, bare.queue, bare.tproxy) == (0, None, None)
    data = arrival(rules, replace(bare, syn=False, carries_data=True))
    assert (data.queue == QUEUE) == taken
    if taken:
        assert has(data.mark, FIRST)


def test_data_in_a_clients_syn_is_shown() -> None:
    syn = arrival(aside(), opened(carries_data=True))
    assert (syn.queue, has(syn.mark, FIRST), syn.connmark is not None and has(syn.connmark, SHOWN)) == (
        QUEUE,
        True,
        True,
    )


def test_answers_go_by_port_until_it_is_decided_and_follow_then() -> None:
    rules = aside()
    others, of_port = 0x80, 2 << 24
    syn = received(rules, arrival(rules, opened(22, connmark=others)))
    assert output(rules, answer(syn)).mark == of_port
    shown = arrival(rules, replace(syn, syn=False, carries_data=True))
    undecided = received(rules, replace(shown, mark=0))
    assert output(rules, answer(undecided)).mark == of_port
    decided = received(rules, replace(undecided, mark=DECIDED.value | 5 << 24 | 0x700))
    assert decided.connmark == DECIDED.value | 5 << 24 | others
    back = posted(rules, output(rules, replace(answer(decided), mark=0x4)))
    assert (back.mark, back.connmark) == (5 << 24 | 0x4, decided.connmark)
    chosen = received(rules, replace(undecided, mark=CHOSEN.value | 5 << 24))
    assert chosen.connmark == SHOWN.value | 5 << 24 | others
    early = posted(rules, output(rules, replace(answer(chosen), mark=0x4, carries_data=True)))
    assert (early.mark, early.connmark, early.queue) == (5 << 24 | 0x4, chosen.connmark, None)
    assert arrival(rules, replace(chosen, mark=0, queue=None)).queue == QUEUE
    more = arrival(rules, replace(decided, mark=0, queue=None))
    assert (more.mark, more.queue) == (0, None), "it is not shown again"


@pytest.mark.parametrize("bypass", [True, False])
def test_without_a_bypass_connections_need_a_classifier_until_they_have_a_class(bypass: bool) -> None:
    chains = {chain.name: chain.rules for chain in aside(queue_bypass=bypass).chains}
    queues = {rule.connmark: rule.action for rule in chains[SHOW] if isinstance(rule.action, Nfqueue)}
    assert queues == {UNCLASSED: Nfqueue(QUEUE, bypass), None: Nfqueue(QUEUE)}, "None: their class is chosen"


def test_while_draining_what_is_decided_goes_on_and_nothing_new_is_shown() -> None:
    rules = aside(capture=False)
    kept = opened(syn=False, carries_data=True, connmark=DECIDED.value | 5 << 24)
    assert posted(rules, output(rules, answer(kept))).mark == 5 << 24
    assert arrival(rules, kept).queue is None
    assert arrival(rules, replace(arrival(rules, opened()), syn=False, carries_data=True)).queue is None
    again = arrival(rules, opened(connmark=DECIDED.value | 5 << 24))
    back = posted(rules, output(rules, answer(again)))
    assert back.mark == 5 << 24, "a SYN in the middle of a connection changes nothing"
    anew = posted(rules, output(rules, answer(arrival(rules, opened()))))
    assert anew.mark == 0, "for a tuple that clients use again conntrack has a new entry"


def test_rules_for_one_way_are_not_there_for_the_other() -> None:
    assert {hook.builtin for hook in aside().hooks} == {"OUTPUT", "PREROUTING", "INPUT", "POSTROUTING"}
    assert {hook.builtin for hook in example().hooks} == {"OUTPUT", "POSTROUTING"}


def test_clients_with_link_local_addresses_are_shown_too() -> None:
    rules = serving(Family.V6, datapath=Datapath.STEP_ASIDE, outbound_port=QUEUE)
    packet = Packet(ipaddress.ip_address("fe80::1"), port=8080, source=ipaddress.ip_address("fe80::7"))
    assert arrival(rules, replace(arrival(rules, packet), syn=False, carries_data=True)).queue == QUEUE


# --- which packets carry data ----------------------------------------------------------------------------------------

_LOADS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1)


def selects(programs: Mapping[Family, Sequence[Instruction]], packet: bytes, family: Family) -> bool:
    """Whether the program of a ``bpf`` match takes a packet.

    The machine of these tests has a link header: netfilter has none at this place.
    """
    program = [(code, jt, jf, k | 0xFFF00000 if code in _LOADS else k) for code, jt, jf, k in programs[family]]
    return bool(run(program, Skb(packet, {Family.V4: 0x0800, Family.V6: 0x86DD}[family], link_header=0)))


def carries_data(packet: bytes, family: Family) -> bool:
    return selects(CARRIES_DATA, packet, family)


@pytest.mark.parametrize("family", Family, ids=str)
@given(words=st.integers(0, 10), text=st.binary(max_size=40))
def test_packets_with_data_are_told_from_those_without(family: Family, words: int, text: bytes) -> None:
    check(CARRIES_DATA[family])
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
