"""Lanes at the node's end of a Pod's link: which tree is where, in which order, and that nothing stays."""

from __future__ import annotations

import pytest

from datapath.shaping import Shaping
from tc_core.apply.ends import NodeEnd
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import INNER_HANDLE, ROOT_HANDLE
from tc_core.compile.packet_tree import arrives_at, ifb_name, is_our_ifb
from tc_core.errors import ForeignQdiscError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT
from tc_core.kernel import AddFilter, AddQdisc
from tc_core.model import BpfFilter, HtbQdisc, Observed, Tbf
from tc_core.probe.capability import ALL_FEATURES
from tc_core.qdiscs.hooks import PROGRAM_PRIO
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import ByteCount, Rate

END = "veth1"
CLASSES = "classes: [{name: a, rate: 1Mbit, %smatch: {host: a.example.com}}]"
SENDS = parse_policy(f"total: 20Mbit\n{CLASSES % ''}")
BOTH = parse_policy(f"total: 20Mbit\ningress: {{total: 5Mbit}}\n{CLASSES % 'ingress: {rate: 2Mbit}, '}")


def shaped(kernel: FakeKernel, policy: TrafficPolicy) -> Shaping:
    shaping = Shaping(kernel, END, ALL_FEATURES, replace=False, end=NodeEnd())
    put(shaping, policy)
    return shaping


def put(shaping: Shaping, policy: TrafficPolicy) -> None:
    shaping.begin(policy, shaping.ids_for(policy))
    shaping.finish()
    assert shaping.missing() == []


def total(seen: Observed) -> Rate:
    inner = seen.class_named(INNER_HANDLE)
    assert inner is not None
    return inner.rate


def test_what_a_pod_sends_waits_in_an_ifb_and_what_it_receives_at_the_link() -> None:
    kernel = FakeKernel(END)
    untouched = kernel.observe(END)
    shaping = shaped(kernel, BOTH)
    assert total(kernel.observe(ifb_name(END))) == parse_policy("total: 20Mbit").total
    assert total(kernel.observe(END)) == parse_policy("total: 5Mbit").total
    assert kernel.observe(ifb_name(END)).filters == (), "programs are its filters"
    assert shaping.ingress_classifier is IngressClassifier.PROGRAMS
    [redirect] = kernel.observe(END).ingress
    assert str(redirect).endswith(f"redirect dev {ifb_name(END)}")
    shaping.sample(1.0)
    assert shaping.received is not None
    assert (shaping.received.device, [c.name for c in shaping.received.classes]) == (END, ["a", "default"])
    put(shaping, SENDS)
    assert not isinstance(kernel.observe(END).root, HtbQdisc), "without limits for that nothing is there"
    assert shaping.received is None
    shaping.remove()
    assert (kernel.observe(END), list(kernel.interfaces())) == (untouched, [END])


def test_both_trees_are_there_before_programs_name_their_classes() -> None:
    kernel = FakeKernel(END)
    shaping = Shaping(kernel, END, ALL_FEATURES, replace=False, end=NodeEnd())
    shaping.begin(BOTH, shaping.ids_for(BOTH))
    assert total(kernel.observe(ifb_name(END))) > total(kernel.observe(END))


def test_a_program_outlives_changes_of_the_tree() -> None:
    kernel = FakeKernel(END)
    shaping = shaped(kernel, SENDS)
    program = BpfFilter(ROOT_HANDLE, "podlane_egress:1", prio=PROGRAM_PRIO)
    kernel.apply(ifb_name(END), AddFilter(program))
    put(shaping, parse_policy("total: 7Mbit\nclasses: [{name: b, rate: 1Mbit, match: {host: b.example.com}}]"))
    assert kernel.observe(ifb_name(END)).filters == (program,)


def test_another_queue_at_the_link_is_refused() -> None:
    kernel = FakeKernel(END)
    kernel.apply(END, AddQdisc(Tbf(ROOT_HANDLE, ROOT, Rate(8_000_000), ByteCount(10_000), ByteCount(10_000))))
    with pytest.raises(ForeignQdiscError, match=END):
        shaped(kernel, BOTH)


def test_an_ifb_says_whose_it_is() -> None:
    kernel = FakeKernel(END)
    shaped(kernel, SENDS)
    alias = kernel.interfaces()[ifb_name(END)].alias
    assert (is_our_ifb(alias), arrives_at(alias)) == (True, END)
