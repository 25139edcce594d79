"""Observe, compare, change: what is reported, what a failure leaves behind, how the next call goes on."""

from __future__ import annotations

import errno

import pytest
from trees import VARIANTS, policy, tree_of

from tc_core.apply.execute import ApplyError, apply, clear
from tc_core.apply.plan import observe_interface, plan
from tc_core.errors import ForeignQdiscError, InterfaceNotFoundError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.kernel import ChangeClass, DeleteClass
from tc_core.model import Link, Observed, OtherQdisc, TrafficTree
from tc_core.probe.capability import Features
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import Duration

OLD = policy("100Mbit", a="20Mbit 80Mbit 1", b="10Mbit 20Mbit 4", c="5Mbit 5Mbit 7")
NEW = policy("80Mbit", b="20Mbit 30Mbit 2", d="30Mbit 40Mbit 1")
IDS = ClassIds.assign("abc")
A, C = Handle(1, 0x101), Handle(1, 0x103)


def trees(features: Features) -> tuple[TrafficTree, TrafficTree]:
    return tree_of(OLD, features, IDS), tree_of(NEW, features, IDS.evolve("bd"))


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel("eth0", "lo")


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_the_second_apply_sends_nothing(kernel: FakeKernel, features: Features) -> None:
    tree = tree_of(OLD, features)
    first = apply(kernel, "eth0", tree)
    assert [change for _, change in first.done] == kernel.applied
    assert first.failed is None
    second = apply(kernel, "eth0", tree)
    assert second.done == ()
    assert kernel.applied == [change for _, change in first.done]


def test_plan_is_what_apply_does(kernel: FakeKernel) -> None:
    tree = tree_of(OLD)
    planned = plan(observe_interface(kernel, "eth0"), tree)
    assert kernel.applied == []
    assert apply(kernel, "eth0", tree).done == planned


def test_a_rate_changes_one_class(kernel: FakeKernel) -> None:
    apply(kernel, "eth0", tree_of(policy(a="20Mbit 80Mbit")))
    report = apply(kernel, "eth0", tree_of(policy(a="30Mbit 80Mbit")))
    assert [type(c) for _, c in report.done] == [ChangeClass]


def _changes(features: Features, *, installing: bool) -> int:
    kernel = FakeKernel("eth0")
    old, new = trees(features)
    if installing:
        return len(plan(observe_interface(kernel, "eth0"), old))
    apply(kernel, "eth0", old)
    return len(plan(observe_interface(kernel, "eth0"), new))


POSITIONS = [
    pytest.param(features, installing, position, id=f"{name}, {'install' if installing else 'change'} {position}")
    for name, features in VARIANTS.items()
    for installing in (True, False)
    for position in range(_changes(features, installing=installing))
]


@pytest.mark.parametrize(("features", "installing", "position"), POSITIONS)
def test_a_failure_anywhere_is_reported_and_the_next_apply_completes(
    kernel: FakeKernel, features: Features, installing: bool, position: int
) -> None:
    old, new = trees(features)
    wanted = old if installing else new
    if not installing:
        apply(kernel, "eth0", old)
    planned = plan(observe_interface(kernel, "eth0"), wanted)
    kernel.fail_at(position, errno.ENOBUFS)
    with pytest.raises(ApplyError) as caught:
        apply(kernel, "eth0", wanted)
    report = caught.value.report
    assert report.done == planned[:position]
    assert report.failed is not None
    assert (report.failed[0], report.failed[1].errno) == (planned[position], errno.ENOBUFS)
    assert report.remaining == planned[position + 1 :]
    assert f"Change {position + 1} of {len(planned)} on eth0 was refused" in str(caught.value)
    assert planned[position][1].command("eth0") in str(caught.value)
    apply(kernel, "eth0", wanted)
    assert plan(observe_interface(kernel, "eth0"), wanted) == ()
    clear(kernel, "eth0")
    assert kernel.observe("eth0") == FakeKernel("eth0").observe("eth0")


def test_a_report_tells_done_failed_and_not_tried(kernel: FakeKernel) -> None:
    kernel.fail_at(1, errno.EPERM)
    with pytest.raises(ApplyError, match="CAP_NET_ADMIN") as caught:
        apply(kernel, "eth0", tree_of(policy()))
    assert str(caught.value.report).splitlines() == [
        "1 changes on eth0",
        "  done: tc qdisc add dev eth0 root handle 1: htb default 1ff r2q 10 direct_qlen 1000",
        "  failed: tc class add dev eth0 parent 1: classid 1:1 htb rate 100Mbit ceil 100Mbit burst 65536b cburst 65536b quantum 125000: Operation not permitted",
        "  not tried: tc class add dev eth0 parent 1:1 classid 1:1ff htb rate 1Mbit ceil 100Mbit burst 3028b cburst 65536b quantum 1514 prio 7",
        "  not tried: tc qdisc add dev eth0 parent 1:1ff handle 1ff: fq_codel limit 10240 flows 256 target 5000us interval 100000us quantum 1514 memory_limit 6250000b ecn",
    ]


# --- classes that go -------------------------------------------------------------------------------------------------


class Clock:
    """Counts the waiting, and what had been changed when it was for the first time."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel, self.waits, self.applied_before = kernel, 0, -1

    def pause(self, seconds: float) -> None:
        if self.applied_before < 0:
            self.applied_before = len(self.kernel.applied)
        self.waits += 1
        assert 0 < seconds <= 0.1


def test_a_class_goes_when_its_queue_is_empty(kernel: FakeKernel) -> None:
    old, new = trees(VARIANTS["classic bpf and fifo"])
    apply(kernel, "eth0", old)
    kernel.queue(A, 30_000, 20_000, 10_000, 0)
    clock = Clock(kernel)
    begin = len(kernel.applied)
    report = apply(kernel, "eth0", new, pause=clock.pause)
    assert clock.waits == 3
    assert report.dropped_packets == 0
    before_waiting = kernel.applied[begin : clock.applied_before]
    assert any(type(c).__name__ == "ReplaceFilter" for c in before_waiting)
    assert isinstance(kernel.applied[clock.applied_before], DeleteClass)


def test_a_queue_that_does_not_empty_is_waited_for_only_so_long(kernel: FakeKernel) -> None:
    old, new = trees(VARIANTS["fw and fq_codel"])
    apply(kernel, "eth0", old)
    kernel.queue(C, 15_140)
    clock = Clock(kernel)
    report = apply(kernel, "eth0", new, drain=Duration.from_seconds(0.2), pause=clock.pause)
    assert clock.waits == 20
    assert report.dropped_packets == 10
    assert plan(observe_interface(kernel, "eth0"), new) == ()


def test_nothing_is_waited_for_when_no_class_goes(kernel: FakeKernel) -> None:
    apply(kernel, "eth0", tree_of(OLD))
    kernel.queue(A, 1000)
    clock = Clock(kernel)
    apply(kernel, "eth0", tree_of(policy("90Mbit", a="1Mbit", b="1Mbit", c="1Mbit")), pause=clock.pause)
    assert clock.waits == 0


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_missing_interface_names_those_that_exist(kernel: FakeKernel) -> None:
    for call in (
        lambda: apply(kernel, "eth7", tree_of(OLD)),
        lambda: clear(kernel, "eth7"),
        lambda: plan(observe_interface(kernel, "eth7"), tree_of(OLD)),
    ):
        with pytest.raises(InterfaceNotFoundError, match=r"no interface 'eth7'.*eth0, lo"):
            call()


def test_a_foreign_root_stays_as_it_is(kernel: FakeKernel) -> None:
    theirs = Observed(Link("eth0"), (OtherQdisc(Handle(0x8001), ROOT, "tbf"),))
    kernel.put(theirs)
    with pytest.raises(ForeignQdiscError):
        apply(kernel, "eth0", tree_of(OLD))
    assert clear(kernel, "eth0").done == ()
    assert kernel.observe("eth0") == theirs
    apply(kernel, "eth0", tree_of(OLD), replace=True)
    assert plan(observe_interface(kernel, "eth0"), tree_of(OLD)) == ()


def test_removal_is_repeatable(kernel: FakeKernel) -> None:
    untouched = kernel.observe("eth0")
    apply(kernel, "eth0", tree_of(OLD, VARIANTS["classic bpf and fifo"]))
    assert len(clear(kernel, "eth0").done) == 2
    assert kernel.observe("eth0") == untouched
    assert clear(kernel, "eth0").done == ()


def test_policies_may_follow_each_other_in_any_order(kernel: FakeKernel) -> None:
    ids = ClassIds.assign([])
    history: list[TrafficPolicy] = [OLD, NEW, policy(), NEW, policy("1Gbit", e="500Mbit", a="1Mbit"), OLD]
    for written in history:
        ids = ids.evolve(c.name for c in written.classes)
        tree = tree_of(written, VARIANTS["classic bpf and fifo"], ids)
        apply(kernel, "eth0", tree)
        assert plan(observe_interface(kernel, "eth0"), tree) == ()
        assert len(kernel.observe("eth0").classes) == len(written.classes) + 2
