"""From a policy to all that an interface and its ifb get, when packets alone tell their class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tc_core.apply.execute import ApplyError, Report, apply, clear
from tc_core.apply.plan import observe_interface, plan
from tc_core.compile.packet_tree import ifb_name, lanes_of
from tc_core.errors import ForeignLinkError, ForeignQdiscError, MissingFeatureError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import Handle
from tc_core.kernel import AddFilter, AddLink, AddQdisc, DeleteLink
from tc_core.model import Bfifo, Clsact, OtherFilter, RedirectFilter, Tbf
from tc_core.probe.capability import ALL_FEATURES, CAKE, FQ_CODEL, IFB, SFQ, Features, absent
from tc_core.render import lanes_commands
from tc_core.trees import PLAIN_ROOT, Lanes
from traffic_policy.errors import PolicyError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import ByteCount, Rate

HTB = """
total: 100Mbit
classes:
  - {name: db, rate: 20Mbit, priority: 1, match: {application: postgres, source: 10.0.0.0/8}}
  - {name: bulk, rate: 1Mbit, ceil: 10Mbit, queue: fair, match: [{port: 873}, {mark: 0x10/0xff}]}
"""
PRIO = """
total: 10Mbit
shaper: prio
classes:
  - {name: bulk, priority: 6, ceil: 2Mbit, match: {port: 873}}
  - {name: voice, priority: 0, match: {protocol: udp, port: 5060-5090}, queue: low-latency}
"""
TBF = "{total: 5Mbit, shaper: tbf}"
CAKE_POLICY = "{total: 5Mbit, shaper: cake}"
REHEARSED = "{total: 5Mbit, shaper: tbf, rehearsal: {delay: 50ms, jitter: 5ms, loss: 1%}}"
BOTH_WAYS = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: api, rate: 10Mbit, match: {port: 443, cidr: 10.1.0.0/16}}
  - {name: rest, rate: 5Mbit, ingress: {rate: 5Mbit, ceil: 20Mbit}, match: {port: 443}}
"""
POLICIES = {"htb": HTB, "prio": PRIO, "tbf": TBF, "cake": CAKE_POLICY, "rehearsed": REHEARSED, "both ways": BOTH_WAYS}
EVERY = pytest.mark.parametrize("text", POLICIES.values(), ids=POLICIES)
BARE = replace(ALL_FEATURES, **{
    name: absent(feature, "not here") for name, feature in (("fq_codel", FQ_CODEL), ("sfq", SFQ), ("cake", CAKE))
})  # fmt: skip


def compiled(text: str, features: Features = ALL_FEATURES, ids: ClassIds | None = None) -> Lanes:
    return lanes_of(parse_policy(text), "eth0", features, ids)


@EVERY
def test_the_second_time_nothing_changes_and_clearing_leaves_no_trace(text: str) -> None:
    kernel = FakeKernel("eth0")
    untouched = kernel.observe("eth0"), kernel.interfaces()
    assert apply(kernel, "eth0", compiled(text)).done
    assert plan(observe_interface(kernel, "eth0"), compiled(text)) == ()
    assert clear(kernel, "eth0").done
    assert (kernel.observe("eth0"), kernel.interfaces()) == untouched
    assert clear(kernel, "eth0").done == ()


@EVERY
@pytest.mark.parametrize("before", POLICIES.values(), ids=[f"after {name}" for name in POLICIES])
def test_whatever_was_there_before_and_wherever_it_fails_the_next_apply_completes(text: str, before: str) -> None:
    old = compiled(before)
    position = 0
    while True:
        kernel = FakeKernel("eth0")
        apply(kernel, "eth0", old)
        wanted = compiled(text, ids=old.ids)
        steps = plan(observe_interface(kernel, "eth0"), wanted)
        if position == len(steps):
            break
        kernel.fail_at(position)
        with pytest.raises(ApplyError) as caught:
            apply(kernel, "eth0", wanted)
        report = caught.value.report
        assert isinstance(report, Report)
        assert (*report.done, report.failed[0] if report.failed else None, *report.remaining) == steps
        apply(kernel, "eth0", wanted)
        assert plan(observe_interface(kernel, "eth0"), wanted) == ()
        position += 1


@EVERY
def test_the_commands_read_well(text: str) -> None:
    lines = lanes_commands(compiled(text), "eth0")
    assert lines[0].startswith("# ")
    assert all(line.startswith(("# ", "tc ", "ip ")) for line in lines)
    assert not any("Handle(" in line or "None" in line for line in lines)


def fq_codel(target: str, interval: str) -> str:
    return f"fq_codel limit 10240 flows 256 target {target} interval {interval} quantum 1514 memory_limit 1048576b ecn"


def test_prio_gives_each_class_its_band_in_the_order_of_priorities() -> None:
    made = compiled(PRIO)
    assert lanes_commands(made, "eth0") == [
        "# all traffic together: at most 10 Mbit/s",
        "tc qdisc add dev eth0 root handle 70d1: tbf rate 10Mbit burst 25000b limit 34816b",
        "# strict priority, 3 bands: voice, bulk, default",
        "tc qdisc add dev eth0 parent 70d1:1 handle 70d2: prio bands 3 priomap 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2",
        f"tc qdisc add dev eth0 parent 70d2:1 handle 101: {fq_codel('2000us', '40000us')}",
        "# bulk: at most 2 Mbit/s",
        "tc qdisc add dev eth0 parent 70d2:2 handle 202: tbf rate 2Mbit burst 5000b limit 34816b",
        f"tc qdisc add dev eth0 parent 202:1 handle 102: {fq_codel('9084us', '100000us')}",
        f"tc qdisc add dev eth0 parent 70d2:3 handle 103: {fq_codel('5000us', '100000us')}",
        "# what packets themselves tell selects the class, in this order: bulk, voice",
        lanes_commands(made, "eth0")[-1],
    ]


def test_what_arrives_goes_through_an_ifb_that_is_ready_before() -> None:
    kernel = FakeKernel("eth0")
    made = compiled(BOTH_WAYS)
    steps = apply(kernel, "eth0", made).done
    names = [name for name, _ in steps]
    first = names.index("ifb-eth0")
    assert steps[first] == ("ifb-eth0", AddLink("ifb", "podlane: arrives at eth0 (clsact too)"))
    assert steps[-2:] == (("eth0", AddQdisc(Clsact())), ("eth0", AddFilter(RedirectFilter(Handle(0xFFFF, 0xFFF2), "ifb-eth0"))))  # fmt: skip
    assert set(names[first:-2]) == {"ifb-eth0"}
    # api comes first and limits nothing of what it receives: not rest's class, but the default one.
    assert made.ingress is not None
    targets = [rule.target for f in made.ingress.tree.filters for rule in f.rules]  # type: ignore[union-attr]
    assert targets == [Handle(1, 0x1FF), Handle(1, 0x102)]
    gone = apply(kernel, "eth0", compiled(HTB)).done
    assert gone[-1] == ("ifb-eth0", DeleteLink())


def test_a_place_for_filters_that_others_made_or_use_stays() -> None:
    others = OtherFilter(Handle(0xFFFF, 0xFFF2), "u32", 49152, 0x0800)
    for observe_first in (True, False):
        kernel = FakeKernel("eth0")
        if observe_first:
            kernel.apply("eth0", AddQdisc(Clsact()))
        apply(kernel, "eth0", compiled(BOTH_WAYS))
        if not observe_first:
            kernel.put(replace(kernel.observe("eth0"), ingress=(*kernel.observe("eth0").ingress, others)))
        clear(kernel, "eth0")
        left = kernel.observe("eth0")
        assert left.ingress_qdisc == Clsact()
        assert left.ingress == (() if observe_first else (others,))


def test_what_others_made_is_not_touched() -> None:
    kernel = FakeKernel("eth0", ifb_name("eth0"))
    with pytest.raises(ForeignLinkError, match="Rename the other one"):
        apply(kernel, "eth0", compiled(BOTH_WAYS))
    assert clear(kernel, "eth0").done == ()
    assert "ifb-eth0" in kernel.interfaces()
    kernel.apply(
        "eth0", AddQdisc(Tbf(Handle(8), Handle(0xFFFF, 0xFFFF), Rate(10**6), ByteCount(9000), ByteCount(9000)))
    )
    with pytest.raises(ForeignQdiscError, match="--replace"):
        apply(kernel, "eth0", compiled(TBF))
    assert clear(kernel, "eth0").done == ()
    assert apply(kernel, "eth0", compiled(TBF), replace=True).done
    assert kernel.observe("eth0").root == compiled(TBF).tree.qdiscs[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("interface", "name"),
    [("eth0", "ifb-eth0"), ("enp0s31f6", "ifb-enp0s31f6"), ("wlx00c0caabcdef", "ifb-ecd30c654f7")],
)
def test_the_name_of_an_ifb_always_fits(interface: str, name: str) -> None:
    assert ifb_name(interface) == name
    assert len(name) <= 15


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        pytest.param(HTB, "fair to flows", id="a fair queue"),
        pytest.param(CAKE_POLICY, "cake", id="cake"),
        pytest.param("{total: 5Mbit, default: {queue: fq_codel}}", "fq_codel", id="a named queue"),
    ],
)
def test_what_the_kernel_lacks_is_said_and_not_replaced(text: str, missing: str) -> None:
    with pytest.raises(MissingFeatureError, match=missing) as caught:
        compiled(text, BARE)
    assert "modprobe" in caught.value.remedy


def test_an_ifb_that_cannot_be_had_is_said_before_anything_is_changed() -> None:
    with pytest.raises(MissingFeatureError, match="ifb"):
        compiled(BOTH_WAYS, replace(ALL_FEATURES, ifb=absent(IFB, "not here")))


def test_wishes_are_met_by_what_there_is() -> None:
    made = compiled("{total: 8Mbit, shaper: tbf, default: {queue: low-latency}}", BARE)
    assert made.tree.qdiscs[-1] == Bfifo(Handle(0x1FF), Handle(PLAIN_ROOT.major, 1), ByteCount(34816))  # type: ignore[union-attr]


def test_names_are_for_a_proxy() -> None:
    policy: TrafficPolicy = parse_policy("{total: 5Mbit, classes: [{name: a, rate: 1Mbit, match: {sni: a.example}}]}")
    with pytest.raises(PolicyError, match="sni can be seen only by a proxy"):
        lanes_of(policy, "eth0", ALL_FEATURES)
