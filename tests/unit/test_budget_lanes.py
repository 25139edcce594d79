"""A share of a budget as the total of an HTB tree: what changes in the kernel, and what stays."""

from __future__ import annotations

import pytest

from datapath.shaping import Shaping
from tc_core.apply.ends import NodeEnd, PodEnd, ShapedEnd
from tc_core.compile.held_tree import held, held_changes
from tc_core.compile.mark_tree import INNER_HANDLE, compile_policy, leaf_handle
from tc_core.compile.packet_tree import ifb_name
from tc_core.device_counts import DeviceCounts
from tc_core.errors import KernelError
from tc_core.fake.kernel import FakeKernel
from tc_core.kernel import ChangeClass
from tc_core.probe.capability import ALL_FEATURES
from tc_core.stats import ClassStats
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Rate
from traffic_policy.water_filling import beginning

CLASSES = "classes: [{name: one, rate: 20Mbit, match: {port: 80}}]\ndefault: {rate: 10Mbit}"
POLICY = parse_policy(f"total: 100Mbit\nbudget: {{node: 64Mbit}}\n{CLASSES}")
ALONE = parse_policy(f"total: 100Mbit\n{CLASSES}")
ENDS = pytest.mark.parametrize("end", [PodEnd(relays=False), NodeEnd()], ids=["pod", "node"])


def mbit(number: float) -> Rate:
    return Rate(int(number * 1_000_000))


def shaping(kernel: FakeKernel, end: ShapedEnd | None = None, *, budgets: bool = True) -> Shaping:
    return Shaping(kernel, "eth0", ALL_FEATURES, replace=False, end=end, budgets=budgets)


def apply(made: Shaping, policy: TrafficPolicy) -> int:
    begun = made.begin(policy, made.ids_for(policy))
    return len(begun.done) + len(made.finish().done)


def rates(kernel: FakeKernel, device: str = "eth0") -> dict[str, tuple[Rate, Rate]]:
    names = {INNER_HANDLE: "total", leaf_handle(1): "one", leaf_handle(0xFF): "default"}
    return {names[c.handle]: (c.rate, c.ceil) for c in kernel.observe(device).classes}


@ENDS
def test_what_has_just_come_begins_with_little(end: ShapedEnd) -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel, end)
    apply(made, POLICY)
    first = Rate(beginning(64_000_000))
    assert made.share == first == mbit(1)
    found = rates(kernel, end.sends_by("eth0"))
    assert found["total"] == (first, first)
    assert found["one"][0].bits_per_second + found["default"][0].bits_per_second <= first.bits_per_second
    assert found["one"][1] == mbit(100)
    assert made.missing() == [], "a share is no drift"


@ENDS
def test_a_share_changes_classes_alone_and_guarantees_only_where_they_do_not_fit(end: ShapedEnd) -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel, end)
    device = end.sends_by("eth0")
    apply(made, POLICY)
    made.hold(mbit(40))
    assert rates(kernel, device) == {
        "total": (mbit(40), mbit(40)),
        "one": (mbit(20), mbit(100)),
        "default": (mbit(10), mbit(100)),
    }
    count = len(kernel.applied)
    made.hold(mbit(50))
    assert [type(each) for each in kernel.applied[count:]] == [ChangeClass]
    made.hold(mbit(15))
    assert rates(kernel, device) == {
        "total": (mbit(15), mbit(15)),
        "one": (mbit(10), mbit(100)),
        "default": (mbit(5), mbit(100)),
    }
    assert made.missing() == []
    count = len(kernel.applied)
    made.hold(mbit(15))
    assert len(kernel.applied) == count


@ENDS
def test_the_next_process_goes_on_with_the_share_that_is_there(end: ShapedEnd) -> None:
    kernel = FakeKernel("eth0")
    first = shaping(kernel, end)
    apply(first, POLICY)
    first.hold(mbit(25))
    before = kernel.observe(end.sends_by("eth0"))
    again = shaping(kernel, end)
    assert apply(again, POLICY) == 0
    assert again.share == mbit(25)
    assert kernel.observe(end.sends_by("eth0")) == before


def test_a_changed_policy_keeps_the_share_and_one_without_a_budget_has_its_total() -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel)
    apply(made, POLICY)
    made.hold(mbit(25))
    apply(made, POLICY.model_copy(update={"total": mbit(200)}))
    assert rates(kernel)["total"] == (mbit(25), mbit(25))
    apply(made, ALONE)
    assert made.share is None
    assert not made.can_hold
    assert rates(kernel)["total"] == (mbit(100), mbit(100))


def test_a_total_is_no_more_than_that_of_the_policy() -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel)
    apply(made, POLICY)
    made.hold(mbit(1000))
    assert rates(kernel)["total"] == (mbit(100), mbit(100))


def test_what_others_change_is_put_back_to_the_share() -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel)
    apply(made, POLICY)
    made.hold(mbit(25))
    whole = compile_policy(POLICY, ALL_FEATURES, made.ids)
    kernel.apply("eth0", ChangeClass(whole.inner))
    assert made.missing() != []
    made.put_back()
    assert rates(kernel)["total"] == (mbit(25), mbit(25))


def test_a_change_that_fails_leaves_the_share_as_it_was() -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel)
    apply(made, POLICY)
    made.hold(mbit(25))
    kernel.fail_at(0)
    with pytest.raises(KernelError):
        made.hold(mbit(40))
    assert made.share == mbit(25)
    assert made.missing() == []


def test_who_shares_out_no_budgets_holds_to_the_total() -> None:
    """A sidecar would be at its first share for ever."""
    kernel = FakeKernel("eth0")
    made = shaping(kernel, budgets=False)
    apply(made, POLICY)
    assert made.share is None
    assert rates(kernel)["total"] == (mbit(100), mbit(100))


def test_the_counters_of_all_classes_together() -> None:
    kernel = FakeKernel("eth0")
    made = shaping(kernel)
    apply(made, POLICY)
    kernel.count(INNER_HANDLE, ClassStats(bytes=1000, overlimits=3))
    kernel.queue(leaf_handle(1), 1514)
    kernel.queue(leaf_handle(0xFF), 3028)
    found = made.sent_in_all()
    assert (found.bytes, found.overlimits, found.backlog_packets) == (1000, 3, 3)


class Counts(DeviceCounts):
    """Of an interface that does not exist."""

    def __init__(self) -> None:
        self.passed = 0

    def text(self) -> bytes:
        return str(self.passed).encode()


def test_classes_are_not_read_again_while_nothing_passes_and_nothing_waits() -> None:
    kernel, counts = FakeKernel("eth0"), Counts()
    made = Shaping(kernel, "eth0", ALL_FEATURES, replace=False, device_counts=counts, budgets=True)
    apply(made, POLICY)
    made.sent_in_all()
    kernel.count(INNER_HANDLE, ClassStats(bytes=1000))
    assert made.sent_in_all().bytes == 0
    counts.passed += 1
    kernel.queue(leaf_handle(1), 1514)
    assert made.sent_in_all().bytes == 1000
    kernel.count(INNER_HANDLE, ClassStats(bytes=1000, overlimits=1))
    assert made.sent_in_all().overlimits == 1, "what waits will be sent, or is held up"


def test_at_no_time_are_guarantees_more_than_the_total() -> None:
    ids = ClassIds.assign(["one"])
    whole = compile_policy(POLICY, ALL_FEATURES, ids)
    for old, new in ((mbit(50), mbit(6)), (mbit(6), mbit(50)), (mbit(6), mbit(12)), (mbit(12), mbit(6))):
        trees = held(whole, old), held(whole, new)
        now = {each.handle: each.rate.bits_per_second for each in (trees[0].inner, *trees[0].classes)}
        for change in held_changes(*trees):
            now[change.traffic_class.handle] = change.traffic_class.rate.bits_per_second
            assert sum(rate for handle, rate in now.items() if handle != INNER_HANDLE) <= now[INNER_HANDLE]
        assert now[INNER_HANDLE] == new.bits_per_second


def test_the_device_of_the_nodes_end() -> None:
    assert NodeEnd().sends_by("veth1") == ifb_name("veth1")
