"""Rates from counters, and ids over a policy change that is taken back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trees import TOLD_BY

from datapath.exclusions import excluded_matches
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.shaping import Shaping
from datapath.shared_counters import SharedCounters
from tc_core.apply.ends import PodEnd
from tc_core.apply.execute import ApplyError
from tc_core.bpf.socket_program import socket_redirect
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import INNER_HANDLE, leaf_handle
from tc_core.compile.packet_rules import PacketRule
from tc_core.compile.packet_tree import compile_ingress
from tc_core.errors import MissingFeatureError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import Handle
from tc_core.kernel import AddClass, AddLink, AddQdisc, Counters, DeleteClass, DeleteLink, ReplaceFilter
from tc_core.model import INGRESS_HOOK, BpfFilter, FwFilter, RedirectFilter
from tc_core.probe.capability import ALL_FEATURES, absent
from tc_core.stats import ClassStats
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds, class_mark
from traffic_policy.policy import Match, PortRange, TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Rate

ONE = parse_policy("total: 100Mbit\nclasses: [{name: one, rate: 1Mbit, match: {port: 80}}]")
TWO = parse_policy("total: 100Mbit\nclasses: [{name: two, rate: 1Mbit, match: {port: 80}}]")


def shaped(kernel: FakeKernel) -> Shaping:
    shaping = Shaping(kernel, "eth0", ALL_FEATURES, replace=False)
    apply(shaping, ONE)
    return shaping


def apply(shaping: Shaping, policy: TrafficPolicy, ids: ClassIds | None = None) -> int:
    """Both steps; the number of changes."""
    begun = shaping.begin(policy, ids or shaping.ids_for(policy))
    return len(begun.done) + len(shaping.finish().done)


def sample(kernel: FakeKernel, shaping: Shaping, *, at: float, sent: int) -> tuple[Rate, Rate]:
    """The current and the peak rate of class one after a sample."""
    kernel.count(leaf_handle(shaping.ids["one"]), ClassStats(bytes=sent))
    shaping.sample(at)
    one = shaping.snapshots[0]
    assert (one.name, one.stats.bytes) == ("one", sent)
    return one.current_rate, one.peak_rate


def test_a_rate_is_never_the_mean_of_an_instant() -> None:
    """A GSO packet within three milliseconds would look like 175 Mbit/s, and be the peak for ever."""
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    assert sample(kernel, shaping, at=0.0, sent=0) == (Rate(0), Rate(0))
    assert sample(kernel, shaping, at=0.003, sent=65_536) == (Rate(0), Rate(0))
    assert sample(kernel, shaping, at=1.0, sent=125_000) == (Rate(1_000_000), Rate(1_000_000))
    assert sample(kernel, shaping, at=1.003, sent=190_536) == (Rate(1_000_000), Rate(1_000_000))
    assert sample(kernel, shaping, at=2.0, sent=190_536) == (Rate(524_288), Rate(1_000_000))


def test_a_change_that_is_taken_back_gives_the_old_ids_back() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    before, state = shaping.ids, kernel.observe("eth0")
    apply(shaping, TWO)
    assert shaping.ids["two"] != before["one"]
    apply(shaping, ONE, before)
    assert shaping.ids is before
    assert kernel.observe("eth0") == state


def test_a_change_that_fails_does_not_count() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    before = shaping.ids
    kernel.fail_at(1)
    with pytest.raises(ApplyError):
        apply(shaping, TWO)
    assert shaping.ids is before
    apply(shaping, ONE, before)
    assert apply(shaping, ONE, before) == 0


def limits(kernel: FakeKernel) -> dict[Handle, tuple[Rate, Rate]]:
    return {c.handle: (c.rate, c.ceil) for c in kernel.observe("eth0").classes}


def test_a_class_that_goes_has_a_lane_until_nobody_sends_there() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    one = leaf_handle(shaping.ids["one"])
    before = limits(kernel)
    shaping.begin(TWO, shaping.ids_for(TWO))
    two = leaf_handle(shaping.ids["two"])
    assert limits(kernel) == before | {two: before[one]}
    assert {f.target for f in kernel.observe("eth0").filters if isinstance(f, FwFilter)} == {one, two}
    shaping.finish()
    assert set(limits(kernel)) == set(before) - {one} | {two}
    assert shaping.finish().done == ()


def test_guarantees_of_what_goes_and_what_comes_fit_in_the_total() -> None:
    kernel = FakeKernel("eth0")
    shaping = Shaping(kernel, "eth0", ALL_FEATURES, replace=False)
    policy = "total: 100Mbit\ndefault: {rate: 10Mbit}\nclasses: [%s]"
    lane = "{name: %s, rate: %s, ceil: 90Mbit, match: {port: %s}}"
    apply(shaping, parse_policy(policy % ", ".join(lane % ("abc"[n], "30Mbit", n + 1) for n in range(3))))
    a, b = (leaf_handle(shaping.ids[name]) for name in "ab")
    other = parse_policy(policy % ", ".join((lane % ("c", "40Mbit", 3), lane % ("d", "20Mbit", 1))))
    shaping.begin(other, shaping.ids_for(other))
    found = limits(kernel)
    assert found[a] == found[b] == (Rate.parse("15Mbit"), Rate.parse("90Mbit"))
    leaves = {handle: rate.bits_per_second for handle, (rate, _) in found.items() if handle != INNER_HANDLE}
    assert sum(leaves.values()) == 100_000_000


def test_an_id_that_is_used_again_is_the_new_class_at_once() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    ids = ClassIds({"two": shaping.ids["one"], "default": 255})
    shaping.begin(TWO, ids)
    assert shaping.finish().done == ()
    assert leaf_handle(ids["two"]) in limits(kernel)


# --- what arrives ----------------------------------------------------------------------------------------------------

NAMED = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: web, rate: 1Mbit, ingress: {rate: 5Mbit, ceil: 20Mbit}, match: {sni: "*.example.com"}}
  - {name: api, rate: 1Mbit, match: {port: 443}}
  - {name: db, rate: 1Mbit, ingress: {rate: 2Mbit}, match: [{port: 5432, cidr: 10.0.0.0/8}, {port: 8080, direction: inbound}]}
"""
WEB_ALONE = """
total: 100Mbit
ingress: {total: 50Mbit}
classes: [{name: web, rate: 1Mbit, ingress: {rate: 9Mbit}, match: {sni: "*.example.com"}}]
"""


def received(kernel: FakeKernel, text: str = NAMED, *excluded_matches: Match) -> Shaping:
    shaping = Shaping(kernel, "eth0", ALL_FEATURES, replace=False)
    policy = parse_policy(text)
    shaping.begin(policy, shaping.ids_for(policy), excluded_matches)
    shaping.finish()
    return shaping


def redirection(kernel: FakeKernel) -> RedirectFilter:
    (found,) = kernel.observe("eth0").ingress
    assert isinstance(found, RedirectFilter)
    return found


def test_what_arrives_has_the_classes_that_limit_it_under_the_same_ids() -> None:
    kernel = FakeKernel("eth0")
    shaping = received(kernel)
    web, db = (leaf_handle(shaping.ids[name]) for name in ("web", "db"))
    default = leaf_handle(0xFF)
    found = {c.handle: (str(c.rate), str(c.ceil)) for c in kernel.observe("ifb-eth0").classes if not c.is_inner}
    assert found == {web: ("5Mbit", "20Mbit"), db: ("2Mbit", "50Mbit"), default: ("500kbit", "50Mbit")}
    assert redirection(kernel) == socket_redirect("ifb-eth0", frozenset({shaping.ids["web"], shaping.ids["db"]}))


def rules_of(
    text: str,
    *excluded_matches: Match,
    ingress_classifier: IngressClassifier = IngressClassifier.SOCKETS,
    silent: tuple[int, ...] = (),
) -> list[PacketRule]:
    policy = parse_policy(text)
    ids = ClassIds.assign(c.name for c in policy.classes)
    made = compile_ingress(
        policy,
        "eth0",
        ALL_FEATURES,
        ids,
        excluded_matches=excluded_matches,
        ingress_classifier=ingress_classifier,
        silent_ports=silent,
    )
    assert made is not None
    return [rule for f in made.tree.filters if isinstance(f, BpfFilter) for rule in f.rules]


def test_packets_without_a_socket_of_ours_go_by_what_is_in_them() -> None:
    """In the order of the policy, names left out; those of inbound matches are not seen from the other side."""
    api, db, inbound = rules_of(NAMED)
    default, three = leaf_handle(0xFF), leaf_handle(3)
    assert (api.target, api.ports, api.source_ports) == (default, (PortRange(443, 443),), ())
    assert (db.target, db.ports, db.destination) == (three, (PortRange(5432, 5432),), (ip_network("10.0.0.0/8"),))
    assert (inbound.target, inbound.ports, inbound.source_ports) == (three, (), (PortRange(8080, 8080),))


def test_what_is_left_alone_comes_first_and_is_the_default_class() -> None:
    settings = CaptureSettings(
        exclude_outbound_ports=(PortRange(25, 25),),
        exclude_outbound_cidrs=(ip_network("10.96.0.0/12"),),
        exclude_inbound_ports=(PortRange(22, 22),),
        exclude_inbound_cidrs=(ip_network("10.1.0.0/16"),),
    )
    alone = excluded_matches(parse_policy(NAMED), settings)
    rules = rules_of(NAMED, *alone)[: -len(rules_of(NAMED))]
    assert {rule.target for rule in rules} == {leaf_handle(0xFF)}
    # Seen from the other side, as all rules for what arrives are.
    assert [(r.destination, r.ports, r.source_ports) for r in rules] == [
        ((), (PortRange(25, 25),), ()),
        ((ip_network("10.96.0.0/12"),), (), ()),
        ((), (), (PortRange(22, 22),)),
        ((ip_network("10.1.0.0/16"),), (), (PortRange(8080, 8080),)),
    ]
    assert excluded_matches(parse_policy(NAMED), CaptureSettings()) == ()


def test_a_policy_without_limits_for_classes_needs_neither_program_nor_rules() -> None:
    assert rules_of("{total: 9Mbit, ingress: {total: 5Mbit}, classes: [{name: a, rate: 1Mbit, match: [{port: 1}, {sni: a.b}]}]}") == []  # fmt: skip
    kernel = FakeKernel("eth0")
    received(kernel, NAMED.replace('sni: "*.example.com"', "port: 80"))
    assert redirection(kernel) == RedirectFilter(INGRESS_HOOK, "ifb-eth0")


def test_a_change_is_made_in_place_and_what_goes_gets_nothing_more_before_it_goes() -> None:
    kernel = FakeKernel("eth0")
    shaping = received(kernel)
    web, db = (leaf_handle(shaping.ids[name]) for name in ("web", "db"))
    kernel.applied.clear()
    apply(shaping, parse_policy(WEB_ALONE))
    made = [c for c in kernel.applied if not isinstance(c, AddClass | AddQdisc)]
    replaced = next(
        i for i, c in enumerate(made) if isinstance(c, ReplaceFilter) and isinstance(c.filter, RedirectFilter)
    )
    gone = [i for i, c in enumerate(made) if isinstance(c, DeleteClass) and c.traffic_class.handle == db]
    assert replaced < gone[-1], "the class of what arrives is the last to go"
    assert {c.handle: c.rate for c in kernel.observe("ifb-eth0").classes}[web] == Rate.parse("9Mbit")
    assert redirection(kernel) == socket_redirect("ifb-eth0", frozenset({shaping.ids["web"]}))
    assert apply(shaping, parse_policy(WEB_ALONE)) == 0


def test_limits_of_what_arrives_come_and_go_with_the_policy() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    before = kernel.interfaces()
    apply(shaping, parse_policy(NAMED))
    shaping.sample(0.0)
    assert shaping.received is not None
    apply(shaping, ONE)
    shaping.sample(1.0)
    assert shaping.received is None
    assert (kernel.interfaces(), kernel.observe("eth0").ingress_qdisc) == (before, None)


def test_both_ways_are_sampled() -> None:
    kernel = FakeKernel("eth0")
    shaping = received(kernel)
    for at, count in ((0.0, 0), (1.0, 125_000)):
        kernel.count(leaf_handle(shaping.ids["web"]), ClassStats(bytes=count))
        shaping.sample(at)
    arrived = shaping.received
    assert arrived is not None
    assert (arrived.device, arrived.total) == ("ifb-eth0", Rate.parse("50Mbit"))
    assert [(c.name, str(c.ceil)) for c in arrived.classes] == [
        ("web", "20Mbit"),
        ("db", "50Mbit"),
        ("default", "50Mbit"),
    ]
    assert arrived.classes[0].current_rate == shaping.snapshots[0].current_rate == Rate(1_000_000)


@pytest.mark.parametrize("gone", [False, True], ids=["removed", "the interface is gone"])
def test_nothing_is_left(gone: bool) -> None:
    kernel = FakeKernel("lo")
    kernel.apply("eth0", AddLink("dummy"))
    before = kernel.interfaces(), kernel.observe("eth0")
    shaping = received(kernel)
    if gone:
        kernel.apply("eth0", DeleteLink())
    shaping.remove()
    if gone:
        assert set(kernel.interfaces()) == {"lo"}
    else:
        assert (kernel.interfaces(), kernel.observe("eth0")) == before


PACED = """
total: 100Mbit
ingress: {total: 50Mbit}
default: {ingress: {rate: 1Mbit, ceil: 5Mbit}}
classes:
  - {name: before, rate: 1Mbit, ingress: {rate: 3Mbit, ceil: 9Mbit}, match: {port: 22}}
  - {name: web, rate: 1Mbit, priority: 2, ingress: {rate: 5Mbit, ceil: 20Mbit}, match: [{sni: "*.example.com"}, {host: a.example, port: 25}]}
  - {name: behind, rate: 1Mbit, ingress: {rate: 7Mbit, ceil: 7Mbit}, match: [{port: 5432}, {port: 8443, direction: inbound}]}
  - {name: served, rate: 1Mbit, match: [{host: b.example, port: 8080, direction: inbound}, {host: c.example, direction: inbound}]}
"""


def test_where_the_relay_paces_what_is_relayed_has_one_lane_with_the_guarantees_of_names() -> None:
    kernel = FakeKernel("eth0")
    shaping = Shaping(kernel, "eth0", TOLD_BY[IngressClassifier.PACING], replace=False)
    policy = parse_policy(PACED)
    silent = (25, 5432, 65535)
    shaping.begin(policy, shaping.ids_for(policy), silent_ports=silent)
    shaping.finish()
    assert shaping.ingress_classifier is IngressClassifier.PACING
    assert redirection(kernel) == RedirectFilter(INGRESS_HOOK, "ifb-eth0")
    relayed = leaf_handle(0xFE)
    before, web, behind = (leaf_handle(shaping.ids[name]) for name in ("before", "web", "behind"))
    default = leaf_handle(0xFF)
    leaves = {c.handle: c for c in kernel.observe("ifb-eth0").classes if not c.is_inner}
    assert {handle: (str(c.rate), str(c.ceil)) for handle, c in leaves.items()} == {
        before: ("3Mbit", "9Mbit"),
        web: ("8kbit", "20Mbit"),
        behind: ("8kbit", "7Mbit"),
        relayed: ("11.984Mbit", "50Mbit"),
        default: ("1Mbit", "5Mbit"),
    }
    rules = rules_of(PACED, ingress_classifier=IngressClassifier.PACING, silent=silent)
    assert [(r.target, r.protocols, r.ports, r.source_ports) for r in rules] == [
        # What clients open is told by the port here, so that it comes first.
        (behind, (6, 17), (), (PortRange(8443, 8443),)),
        (relayed, (6,), (), (PortRange(8080, 8080),)),
        (before, (6, 17), (PortRange(22, 22),), ()),
        (relayed, (6,), (PortRange(1, 24), PortRange(26, 5431), PortRange(5433, 65534)), ()),
        (relayed, (6,), (PortRange(25, 25),), ()),
        (behind, (6, 17), (PortRange(5432, 5432),), ()),
    ]
    limits = shaping.pacing_limits(policy, shaping.ids)
    assert limits is not None
    assert [each.name for each in limits.lanes] == ["before", "web", "behind", "default"]


def test_what_the_relay_has_read_counts_for_its_class() -> None:
    kernel, received_counters = FakeKernel("eth0"), SharedCounters()
    shaping = Shaping(
        kernel, "eth0", TOLD_BY[IngressClassifier.PACING], replace=False, received_counters=received_counters
    )
    policy = parse_policy(PACED)
    apply(shaping, policy)
    kernel.count(leaf_handle(shaping.ids["web"]), ClassStats(bytes=1000))
    shaping.sample(0.0)
    received_counters.row(0).add(shaping.ids["web"], 125_000)
    received_counters.row(0).add(0xFF, 250_000)
    shaping.sample(1.0)
    assert shaping.received is not None
    seen = {c.name: (c.stats.bytes, c.current_rate) for c in shaping.received.classes}
    assert seen["web"] == (126_000, Rate(1_000_000))
    assert seen["default"] == (250_000, Rate(2_000_000))
    assert seen["before"] == (0, Rate(0))


MARKED = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: web, rate: 1Mbit, ingress: {rate: 5Mbit}, match: {sni: "*.example.com"}}
  - {name: free, rate: 1Mbit, match: {host: free.example}}
  - {name: db, rate: 1Mbit, ingress: {rate: 2Mbit}, match: {port: 5432}}
"""


@pytest.mark.parametrize("relays", [True, False], ids=["relay", "step-aside"])
def test_where_the_mark_of_the_connection_tells_it_comes_before_packets(relays: bool) -> None:
    kernel = FakeKernel("eth0")
    there = TOLD_BY[IngressClassifier.CONNMARK] if relays else ALL_FEATURES
    shaping = Shaping(kernel, "eth0", there, replace=False, end=PodEnd(relays=relays))
    policy = parse_policy(MARKED)
    assert apply(shaping, policy)
    assert shaping.ingress_classifier is IngressClassifier.CONNMARK
    assert shaping.pacing_limits(policy, shaping.ids) is None
    assert redirection(kernel) == RedirectFilter(INGRESS_HOOK, "ifb-eth0", connmark=True)
    web, free, db, default = (leaf_handle(i) for i in (1, 2, 3, 0xFF))
    assert [(r.target, r.mark, r.ports) for r in rules_of(MARKED, ingress_classifier=IngressClassifier.CONNMARK)] == [
        (web, class_mark(1), ()),
        (default, class_mark(2), ()),  # not limited, so in the default class, whatever its port says
        (db, class_mark(3), ()),
        (default, class_mark(0xFF), ()),
        (db, None, (PortRange(5432, 5432),)),
    ]
    assert free not in {c.handle for c in kernel.observe("ifb-eth0").classes}
    assert apply(shaping, policy) == 0


def test_stepping_aside_without_marks_of_connections_is_refused_with_the_remedy() -> None:
    kernel = FakeKernel("eth0")
    without = replace(ALL_FEATURES, connmark=absent(ALL_FEATURES.connmark.name, "not here"))
    shaping = Shaping(kernel, "eth0", without, replace=False, end=PodEnd(relays=False))
    policy = parse_policy(MARKED)
    with pytest.raises(MissingFeatureError, match="This policy needs marks of connections") as caught:
        shaping.begin(policy, shaping.ids_for(policy))
    assert "datapath: relay" in caught.value.remedy
    assert kernel.applied == []


def test_no_class_id_may_be_left_for_what_is_relayed() -> None:
    lanes = ",".join(f"{{name: c{n}, rate: 8kbit, match: {{port: {n}}}}}" for n in range(1, 254))
    full = parse_policy(f"{{total: 1Gbit, ingress: {{total: 1Gbit}}, classes: [{{name: n, rate: 8kbit, ingress: {{rate: 8kbit}}, match: {{host: a.b}}}}, {lanes}]}}")  # fmt: skip
    shaping = Shaping(FakeKernel("eth0"), "eth0", TOLD_BY[IngressClassifier.PACING], replace=False)
    with pytest.raises(PodlaneError, match="Merge two of them, or give the process CAP_BPF"):
        shaping.begin(full, shaping.ids_for(full))


@pytest.mark.parametrize("feature", ["ifb", "clsact", "redirect"])
def test_what_the_kernel_lacks_is_said_before_anything_is_changed(feature: str) -> None:
    kernel = FakeKernel("eth0")
    missing = absent(getattr(ALL_FEATURES, feature).name, "not here")
    shaping = Shaping(kernel, "eth0", replace(ALL_FEATURES, **{feature: missing}), replace=False)
    policy = parse_policy(NAMED)
    with pytest.raises(MissingFeatureError, match="This policy needs") as caught:
        shaping.begin(policy, shaping.ids_for(policy))
    assert "modprobe" in caught.value.remedy
    assert kernel.applied == []


class ReadKernel(FakeKernel):
    """Gives the same object for the same counters, as the kernel's edge does, and counts how often it is asked."""

    read = 0
    _last: Counters | None = None

    def counters(self, interface: str) -> Counters:
        self.read += 1
        found = super().counters(interface)
        if found != self._last:
            self._last = found
        return self._last or found


def test_classes_are_not_read_while_no_packet_passes_and_none_waits() -> None:
    kernel = ReadKernel("eth0")
    passes = [True]
    counts = cast("Any", SimpleNamespace(moved=lambda: passes[0]))
    shaping = Shaping(kernel, "eth0", ALL_FEATURES, replace=False, device_counts=counts)
    apply(shaping, ONE)
    one = leaf_handle(shaping.ids["one"])

    def reads(at: float, *, sent: int = 0, waiting: int = 0, moved: bool = False) -> int:
        kernel.count(one, ClassStats(bytes=sent, backlog_packets=waiting))
        passes[0] = moved
        before = kernel.read
        shaping.sample(at)
        assert shaping.read_at == at
        return kernel.read - before

    assert reads(0.0, moved=True) == 1
    assert [reads(float(at)) for at in range(1, 10)] == [0] * 9
    assert reads(10.0, sent=125_000, moved=True) == 1
    assert shaping.snapshots[0].current_rate == Rate.parse("1Mbit"), "over the last second, not since it was read"
    assert reads(11.0, sent=125_000) == 0
    assert shaping.snapshots[0].current_rate == Rate(0)
    assert [reads(at, sent=125_000) for at in (12.0, 13.0)] == [0, 0]
    assert reads(14.0, sent=125_000, waiting=1, moved=True) == 1
    assert [reads(at, sent=125_000, waiting=1) for at in (15.0, 16.0, 17.0)] == [1, 1, 1], "it may be dropped"
    assert [reads(at, sent=125_000) for at in (18.0, 19.0, 20.0)] == [1, 0, 0]
    apply(shaping, TWO)
    assert reads(21.0) == 1
    assert [each.name for each in shaping.snapshots] == ["two", "default"]
