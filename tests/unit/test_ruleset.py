"""Properties of the ruleset that the golden files show but do not state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapath.netfilter.foreign_marks import OWN_PACKETS
from datapath.netfilter.quic import QUIC
from datapath.netfilter.rules import (
    MULTIPORT_SLOTS,
    Family,
    FamilyRules,
    ResetPriority,
    Return,
    Rule,
    SaveMark,
    SetMark,
    port_groups,
)
from datapath.netfilter.ruleset import CAPTURE, CLASSES, OUT, PRE, CaptureSettings, Ruleset, build_ruleset
from traffic_policy.marks import CLASS_MASK, MAX_CLASSES, STATE_MASK, ClassIds, Mark
from traffic_policy.policy import PortRange, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath

UDP = TransportProtocol.UDP
SNI = {"sni": ["a.example"]}
PORT = {"port": [22]}


def policy(*matches: dict[str, object]) -> TrafficPolicy:
    classes = [{"name": f"c{i}", "rate": "8kbit", "match": [m]} for i, m in enumerate(matches)]
    return TrafficPolicy.model_validate({"total": "1Gbit", "classes": classes})


def build(*matches: dict[str, object], settings: CaptureSettings | None = None, **options: bool) -> Ruleset:
    traffic = policy(*matches)
    return build_ruleset(
        traffic, ClassIds.assign(c.name for c in traffic.classes), settings or CaptureSettings(), **options
    )


def chains(rules: FamilyRules) -> dict[str, tuple[Rule, ...]]:
    return {chain.name: chain.rules for chain in rules.chains}


@pytest.mark.parametrize("family", Family, ids=str)
def test_a_policy_without_matches_resets_priorities_alone(family: Family) -> None:
    """HTB's direct queue is past the total too."""
    rules = build()
    assert not rules.capture
    assert [rule.action for rule in chains(rules.for_family(family))[OUT]] == [Return(), ResetPriority()]
    assert build(settings=CaptureSettings(resets_priority=False)).empty


@pytest.mark.parametrize("family", Family, ids=str)
def test_without_content_there_is_no_capture_and_no_route(family: Family) -> None:
    rules = build(PORT).for_family(family)
    assert set(chains(rules)) == {OUT, CLASSES, "PODLANE-C1"}
    assert rules.routes == ()
    assert [hook.builtin for hook in rules.hooks] == ["OUTPUT"]


def test_of_a_family_that_no_match_can_meet_marks_are_cleared_alone() -> None:
    rules = build({"sni": ["a.example"], "cidr": ["2001:db8::/32"]})
    actions = [rule.action for rule in chains(rules.for_family(Family.V4))[OUT]]
    assert actions == [Return(), ResetPriority(), SetMark(Mark(0, CLASS_MASK | STATE_MASK))]
    assert rules.for_family(Family.V6).routes


@pytest.mark.parametrize("family", Family, ids=str)
def test_draining_differs_only_in_an_empty_capture_chain(family: Family) -> None:
    running, draining = build(SNI, PORT).for_family(family), build(SNI, PORT, capture=False).for_family(family)
    assert chains(running)[CAPTURE]
    assert chains(running)[QUIC]
    assert chains(draining) == {**chains(running), CAPTURE: (), QUIC: ()}
    assert (draining.hooks, draining.routes) == (running.hooks, running.routes)


def test_keep_captured_goes_on_serving_what_an_earlier_policy_captured() -> None:
    before, after = build(SNI, PORT).for_family(Family.V4), build(PORT, keep_captured=True).for_family(Family.V4)
    assert chains(after)[OUT] == tuple(rule for rule in chains(before)[OUT] if rule.protocol is not UDP)
    assert chains(after)[OWN_PACKETS] == chains(before)[OWN_PACKETS]
    assert chains(after)[PRE] == chains(before)[PRE]
    assert after.routes == before.routes
    assert CAPTURE not in chains(after)


def test_only_classes_that_the_kernel_can_decide_get_a_chain() -> None:
    names = set(chains(build(SNI, PORT, SNI).for_family(Family.V4)))
    assert {name for name in names if name.startswith("PODLANE-C") and name[9:].isdigit()} == {"PODLANE-C2"}


def test_every_class_the_mark_has_room_for_gets_rules() -> None:
    rules = build(*({"port": [i]} for i in range(1, MAX_CLASSES + 1))).for_family(Family.V4)
    marks = {
        rule.action.mark.value >> 24
        for chain in rules.chains
        for rule in chain.rules
        if isinstance(rule.action, SetMark)
    }
    assert marks - {0} == set(range(1, MAX_CLASSES + 1))
    assert max(len(chain.name) for chain in rules.chains) <= 28  # XT_EXTENSION_MAXNAMELEN less its end


def test_rules_name_every_chain_they_lead_to() -> None:
    for options in ({}, {"capture": False}):
        rules = build(SNI, PORT, {"host": "b", "port": 8080}, {"cidr": ["10.0.0.0/8"]}, **options).for_family(Family.V4)
        led_to = {target(rule) for chain in rules.chains for rule in chain.rules} | {
            target(h.rule) for h in rules.hooks
        }
        assert led_to - {None} == {chain.name for chain in rules.chains}


def target(rule: Rule) -> str | None:
    return getattr(rule.action, "chain", None)


def test_each_product_of_port_group_and_network_is_a_rule() -> None:
    rules = build(
        {"port": list(range(1, 40, 2)), "cidr": ["10.0.0.0/8", "192.0.2.0/24"], "protocol": "tcp"}
    ).for_family(Family.V4)
    walk = chains(rules)[CLASSES]
    assert len(walk) == len({(rule.destination, rule.ports) for rule in walk}) == 4


PORTS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 20)).map(lambda p: PortRange(p[0], p[0] + p[1])), max_size=60
)


@given(PORTS)
def test_port_groups_hold_the_same_ports_and_fit_in_a_rule(ports: list[PortRange]) -> None:
    groups = port_groups(ports)
    held = [p for group in groups for item in group for p in range(item.first, item.last + 1)]
    assert len(held) == len(set(held))
    assert set(held) == {p for item in ports for p in range(item.first, item.last + 1)}
    for group in groups:
        assert sum(1 if item.first == item.last else 2 for item in group) <= MULTIPORT_SLOTS


@pytest.mark.parametrize("datapath", Datapath)
@pytest.mark.parametrize("family", Family, ids=str)
def test_where_the_mark_of_the_connection_tells_what_arrives_it_is_saved_and_taken_off_again(
    family: Family, datapath: Datapath
) -> None:
    """The relay's choice is saved; of the other datapath it is already. No rule sees what the ingress hook has made."""
    inbound = {"sni": ["b.example"], "port": [443], "direction": "inbound"}
    plain = build(SNI, inbound, settings=CaptureSettings(datapath=datapath, interface="eth0")).for_family(family)
    told = build(SNI, inbound, settings=CaptureSettings(datapath=datapath, interface="eth0", connmark=True)).for_family(
        family
    )
    if datapath is Datapath.RELAY:
        assert chains(told)[OWN_PACKETS] == (Rule(SaveMark(CLASS_MASK), protocol=TransportProtocol.TCP),)
    taken_off = Rule(SetMark(Mark(0, CLASS_MASK | STATE_MASK)), in_interface="eth0")
    assert chains(told)[PRE] == (taken_off, *chains(plain)[PRE])
    others = chains(told).keys() - {OWN_PACKETS, PRE}
    assert {name: chains(told)[name] for name in others} == {name: chains(plain)[name] for name in others}
