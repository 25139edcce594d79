"""What changes, in which order, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trees import CLASSIC_FIFO, FW_FQ_CODEL, VARIANTS, policy, tree_of

from tc_core.bpf.mark_classifier import mark_filter
from tc_core.diff import diff, is_ours, removal
from tc_core.errors import ForeignQdiscError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.kernel import AddClass, AddQdisc, Change, ChangeClass, ChangeQdisc, DeleteClass, DeleteFilter, SetLink
from tc_core.model import (
    Bfifo,
    BpfFilter,
    FqCodel,
    FwFilter,
    HtbQdisc,
    Link,
    Observed,
    OtherFilter,
    OtherQdisc,
    TrafficTree,
)
from tc_core.probe.capability import Features
from traffic_policy.marks import ClassIds, Mark
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import ByteCount, Duration

UNTOUCHED = Observed(Link("eth0"), (OtherQdisc(Handle(0), ROOT, "noqueue"),))
SMALL = policy(api="20Mbit 80Mbit 1", backup="1Mbit 10Mbit 7")


def installed(tree: TrafficTree) -> Observed:
    """An interface that has the tree."""
    return after(diff(tree, UNTOUCHED), UNTOUCHED)


def after(changes: list[Change], observed: Observed) -> Observed:
    """What the changes make of it; each must be one that a kernel takes."""
    kernel = FakeKernel()
    kernel.put(observed)
    for change in changes:
        kernel.apply("eth0", change)
    return kernel.observe("eth0")


def commands(changes: list[Change]) -> list[str]:
    """The changes, without what is the same in all of them."""
    return [c.command("eth0").replace(" dev eth0", "").replace(" protocol all", "") for c in changes]


def verbs(changes: list[Change]) -> list[str]:
    """``class add 1:101`` and so on."""
    words = []
    for change in changes:
        parts = change.command("eth0").split()
        named = next((parts[parts.index(k) + 1] for k in ("classid", "handle", "dev") if k in parts), "")
        words.append(" ".join((*parts[1:3], named)))
    return words


def test_installing_makes_the_default_class_first_and_filters_last() -> None:
    tree = tree_of(SMALL)
    assert commands(diff(tree, UNTOUCHED)) == [
        f"tc qdisc add {tree.root}",
        f"tc class add {tree.inner}",
        f"tc class add {tree.classes[2]}",
        f"tc qdisc add {tree.leaves[2]}",
        f"tc class add {tree.classes[0]}",
        f"tc qdisc add {tree.leaves[0]}",
        f"tc class add {tree.classes[1]}",
        f"tc qdisc add {tree.leaves[1]}",
        "tc filter add parent 1: prio 1 handle 0x1000000/0xff000000 fw classid 1:101",
        "tc filter add parent 1: prio 1 handle 0x2000000/0xff000000 fw classid 1:102",
    ]


def test_with_fifos_the_link_gets_smaller_segments_and_the_root_remembers() -> None:
    changes = diff(tree_of(SMALL, CLASSIC_FIFO), replace(UNTOUCHED, link=Link("eth0", gso_max_size=196608)))
    assert changes[0] == AddQdisc(HtbQdisc(Handle(1), 0x1FF, r2q=196608))
    assert changes[-1] == SetLink(gso_max_size=16384)


def test_a_link_with_smaller_segments_already_keeps_them() -> None:
    changes = diff(tree_of(SMALL, CLASSIC_FIFO), replace(UNTOUCHED, link=Link("eth0", gso_max_size=8192)))
    assert not any(isinstance(c, SetLink) for c in changes)
    assert changes[0] == AddQdisc(HtbQdisc(Handle(1), 0x1FF))


def test_without_a_queue_length_the_link_gets_one_while_the_default_class_is_made() -> None:
    changes = diff(tree_of(SMALL), replace(UNTOUCHED, link=Link("eth0", tx_queue_len=0)))
    assert (changes[1], changes[-1]) == (SetLink(tx_queue_len=1000), SetLink(tx_queue_len=0))


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_the_same_twice_is_no_change(features: Features) -> None:
    tree = tree_of(SMALL, features)
    assert diff(tree, installed(tree)) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(policy(api="30Mbit 80Mbit 1", backup="1Mbit 10Mbit 7"), ["class change 1:101"], id="rate up"),
        pytest.param(policy(api="10Mbit 80Mbit 1", backup="1Mbit 10Mbit 7"), ["class change 1:101"], id="rate down"),
        pytest.param(policy(api="20Mbit 80Mbit 6", backup="1Mbit 10Mbit 7"), ["class change 1:101"], id="priority"),
        pytest.param(
            policy(api="20Mbit 90Mbit 1", backup="1Mbit 10Mbit 7"),
            ["class change 1:101", "qdisc change 101:"],
            id="ceil, and the queue that is sized by it",
        ),
        pytest.param(
            policy(default={"rate": "1Mbit", "ceil": "50Mbit"}, api="20Mbit 80Mbit 1", backup="1Mbit 10Mbit 7"),
            ["class change 1:1ff", "qdisc change 1ff:"],
            id="default class",
        ),
    ],
)
@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_only_what_differs_changes_and_in_place(
    features: Features, changed: TrafficPolicy, expected: list[str]
) -> None:
    before, wanted = tree_of(SMALL, features), tree_of(changed, features)
    changes = diff(wanted, installed(before))
    assert verbs(changes) == expected
    assert diff(wanted, after(changes, installed(before))) == []


def test_a_larger_total_grows_before_its_children() -> None:
    before, wanted = tree_of(policy("100Mbit", a="50Mbit 60Mbit")), tree_of(policy("200Mbit", a="150Mbit 160Mbit"))
    assert verbs(diff(wanted, installed(before)))[:2] == ["class change 1:1", "class change 1:1ff"]


def test_a_smaller_total_shrinks_after_its_children() -> None:
    before, wanted = tree_of(policy("200Mbit", a="150Mbit 160Mbit")), tree_of(policy("100Mbit", a="50Mbit 60Mbit"))
    found = verbs(diff(wanted, installed(before)))
    assert found[0] == "class change 1:101"
    assert found[-1] == "class change 1:1"


STEPS = [
    pytest.param(policy(a="50Mbit", b="40Mbit"), policy(a="10Mbit", b="80Mbit"), id="one shrinks, one grows"),
    pytest.param(policy(a="50Mbit", b="40Mbit"), policy(c="90Mbit"), id="all replaced by one"),
    pytest.param(policy(c="90Mbit"), policy(a="50Mbit", b="40Mbit"), id="one replaced by two"),
    pytest.param(policy("100Mbit", a="90Mbit"), policy("10Mbit", b="9Mbit"), id="total shrinks"),
    pytest.param(policy("10Mbit", b="9Mbit"), policy("100Mbit", a="90Mbit", b="5Mbit"), id="total grows"),
    pytest.param(policy(a="50Mbit"), policy(), id="none left"),
]


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("old", "new"), STEPS)
def test_at_no_moment_is_anything_unshaped_or_promised_twice(
    old: TrafficPolicy, new: TrafficPolicy, features: Features
) -> None:
    ids = ClassIds.assign(c.name for c in old.classes)
    before = tree_of(old, features, ids)
    wanted = tree_of(new, features, ids.evolve(c.name for c in new.classes))
    kernel = FakeKernel()
    kernel.put(installed(before))
    staying = {c.handle for c in before.classes} & {c.handle for c in wanted.classes}
    program = before.filters[0].class_ids if before.filters and before.filters[0].kind == "bpf" else frozenset()
    for change in diff(wanted, kernel.observe("eth0")):
        kernel.apply("eth0", change)
        state = kernel.observe("eth0")
        leaves = [c for c in state.classes if not c.is_inner and c.handle != Handle(1, 1)]
        inner = state.class_named(Handle(1, 1))
        assert inner is not None
        assert sum(c.rate.bits_per_second for c in leaves) <= inner.rate.bits_per_second, change
        assert all(state.leaf_of(c.handle) for c in leaves if c.handle in staying), change
        written = getattr(change, "filter", None)
        if written is not None and written.kind == "bpf":
            program = written.class_ids if not isinstance(change, DeleteFilter) else frozenset()
        selected = {Handle(1, 0x100 | i) for i in program or ()} | {
            f.target for f in state.filters if isinstance(f, FwFilter)
        }
        for handle in selected:
            assert state.class_named(handle) is not None, change
            assert state.leaf_of(handle) is not None, change
        assert {h for h in staying if h != Handle(1, 0x1FF)} <= selected, change
    assert diff(wanted, kernel.observe("eth0")) == []


def test_a_class_goes_after_its_filter_and_before_anything_grows() -> None:
    old = policy(a="50Mbit", b="40Mbit")
    ids = ClassIds.assign("ab")
    wanted = tree_of(policy(b="80Mbit"), ids=ids.evolve("b"))
    assert verbs(diff(wanted, installed(tree_of(old, ids=ids)))) == [
        "filter del 0x1000000",
        "class del 1:101",
        "class change 1:102",
    ]


@pytest.mark.parametrize(("old", "new"), [
    pytest.param(CLASSIC_FIFO, FW_FQ_CODEL, id="classic to fw and fq_codel"),
    pytest.param(FW_FQ_CODEL, CLASSIC_FIFO, id="fw and fq_codel to classic"),
])  # fmt: skip
def test_another_kernel_means_other_filters_and_queues(old: Features, new: Features) -> None:
    before, wanted = tree_of(SMALL, old), tree_of(SMALL, new)
    changes = diff(wanted, installed(before))
    assert not any(isinstance(c, AddClass | ChangeClass | DeleteClass) for c in changes)
    assert diff(wanted, after(changes, installed(before))) == []


def test_lost_parts_come_back() -> None:
    tree = tree_of(SMALL)
    whole = installed(tree)
    for lost in whole.qdiscs[1:]:
        damaged = replace(whole, qdiscs=tuple(q for q in whole.qdiscs if q is not lost))
        assert diff(tree, damaged) == [AddQdisc(lost)]
    for lost_filter in whole.filters:
        damaged = replace(whole, filters=tuple(f for f in whole.filters if f is not lost_filter))
        assert len(diff(tree, damaged)) == 1


def test_filters_of_others_on_our_root_go() -> None:
    tree = tree_of(SMALL)
    stranger = OtherFilter(Handle(1), "u32", 10, 0x0800)
    found = replace(installed(tree), filters=(*installed(tree).filters, stranger))
    assert commands(diff(tree, found)) == [
        "tc filter del parent 1: protocol 0x0800 prio 10 u32",
    ]


def test_fw_filters_with_another_mask_make_room_first() -> None:
    tree = tree_of(policy(a="1Mbit"))
    old = FwFilter(Handle(1), Mark(0x1, 0xFF), Handle(1, 0x101))
    changes = diff(tree, replace(installed(tree), filters=(old,)))
    assert verbs(changes) == ["filter del 0x1", "filter add 1:101"]
    assert diff(tree, after(changes, replace(installed(tree), filters=(old,)))) == []


def test_a_program_that_is_not_ours_is_replaced() -> None:
    tree = tree_of(policy(a="1Mbit"), CLASSIC_FIFO)
    for stale in (mark_filter(Handle(1), {9}), BpfFilter(Handle(1), "podlane-1")):
        changes = diff(tree, replace(installed(tree), filters=(stale,)))
        assert verbs(changes) == ["filter replace 0x1"]


def test_a_queue_that_cannot_be_altered_is_made_anew() -> None:
    tree = tree_of(policy(a="1Mbit"))
    found = installed(tree)
    fewer = tuple(
        replace(q, flows=7) if isinstance(q, FqCodel) and q.handle == Handle(0x101) else q for q in found.qdiscs
    )
    assert verbs(diff(tree, replace(found, qdiscs=fewer))) == ["qdisc del 101:", "qdisc add 101:"]


def test_changing_fq_codel_does_not_name_its_flows() -> None:
    tree = tree_of(policy(a="1Mbit 50Mbit"))
    (change,) = [c for c in diff(tree, installed(tree_of(policy(a="1Mbit 10Mbit")))) if isinstance(c, ChangeQdisc)]
    assert " flows " not in change.command("eth0")
    assert " memory_limit 3125000b " in change.command("eth0")


# --- what the kernel rounds ------------------------------------------------------------------------------------------


def test_rounding_is_no_change() -> None:
    tree = tree_of(policy("1Gbit", a="100Mbit 900Mbit"))
    found = installed(tree)
    rounded = replace(
        found,
        classes=tuple(replace(c, burst=ByteCount(c.burst.count - 1), cburst=ByteCount(c.cburst.count - 5)) for c in found.classes),
        qdiscs=tuple(
            replace(q, target=Duration(4_999_000), interval=Duration(99_999_000)) if isinstance(q, FqCodel) else q
            for q in found.qdiscs
        ),
    )  # fmt: skip
    assert diff(tree, rounded) == []


def test_more_than_rounding_is_a_change() -> None:
    tree = tree_of(policy(a="10Mbit"))
    found = installed(tree)
    other = tuple(replace(c, burst=ByteCount(c.burst.count - 1000)) for c in found.classes)
    assert verbs(diff(tree, replace(found, classes=other))) == [
        "class change 1:1",
        "class change 1:1ff",
        "class change 1:101",
    ]


# --- other people's trees --------------------------------------------------------------------------------------------

FOREIGN = [
    pytest.param(OtherQdisc(Handle(0x8001), ROOT, "tbf"), (), id="tbf"),
    pytest.param(OtherQdisc(Handle(1), ROOT, "prio"), (), id="prio with our handle"),
    pytest.param(HtbQdisc(Handle(1), 0x10), (), id="htb with another default"),
    pytest.param(HtbQdisc(Handle(2), 0x1FF), (), id="htb with another handle"),
    pytest.param(FqCodel(Handle(0x8001), ROOT, 1, Duration(0), Duration(0), ByteCount(0)), (), id="fq_codel by hand"),
    pytest.param(Bfifo(Handle(5), ROOT, ByteCount(1)), (), id="bfifo by hand"),
    pytest.param(
        HtbQdisc(Handle(1), 0x1FF),
        (replace(tree_of(policy()).inner, handle=Handle(1, 0x10)),),
        id="htb of our shape with a class that we would not make",
    ),
]


@pytest.mark.parametrize(("root", "classes"), FOREIGN)
def test_a_foreign_root_is_refused_unless_replace_is_asked_for(root: HtbQdisc, classes: tuple[()]) -> None:
    found = Observed(Link("eth0"), (root,), classes)
    tree = tree_of(SMALL)
    assert not is_ours(found)
    assert removal(found) == []
    with pytest.raises(
        ForeignQdiscError, match=r"eth0 already has a root qdisc.*tc qdisc del dev eth0 root.*--replace"
    ):
        diff(tree, found)
    changes = diff(tree, found, replace=True)
    assert changes[0].command("eth0") == "tc qdisc del dev eth0 root"
    assert diff(tree, after(changes, found)) == []


@pytest.mark.parametrize("kind", ["noqueue", "pfifo_fast", "mq", "fq_codel", "pfifo"])
def test_what_the_kernel_chose_is_not_foreign(kind: str) -> None:
    found = Observed(Link("eth0"), (OtherQdisc(Handle(0), ROOT, kind),))
    assert diff(tree_of(SMALL), found) == diff(tree_of(SMALL), UNTOUCHED)


def test_ingress_is_left_alone() -> None:
    clsact = OtherQdisc(Handle(0xFFFF), Handle(0xFFFF, 0xFFF1), "clsact")
    found = Observed(Link("eth0"), (clsact, OtherQdisc(Handle(0), ROOT, "noqueue")))
    tree = tree_of(SMALL)
    changes = diff(tree, found)
    assert changes == diff(tree, UNTOUCHED)
    assert clsact in after(changes, found).qdiscs


def test_a_root_alone_is_an_installation_that_was_cut_short() -> None:
    tree = tree_of(SMALL, CLASSIC_FIFO)
    found = Observed(Link("eth0"), (HtbQdisc(Handle(1), 0x1FF, r2q=65536),))
    assert is_ours(found)
    assert diff(tree, found) == diff(tree, UNTOUCHED)[1:]


# --- removal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gso", [65536, 196608, 30000], ids=["usual", "big tcp", "small already"])
def test_removal_brings_back_what_was(gso: int) -> None:
    before = Observed(Link("eth0", gso_max_size=gso, tso_max_size=524280), UNTOUCHED.qdiscs)
    there = after(diff(tree_of(SMALL, CLASSIC_FIFO), before), before)
    assert there.link.gso_max_size == 16384
    gone = after(removal(there), there)
    assert gone == before
    assert removal(gone) == []


def test_removal_leaves_the_link_alone_where_nothing_was_changed() -> None:
    there = installed(tree_of(SMALL))
    assert commands(removal(there)) == ["tc qdisc del root"]


def test_a_kernel_that_learns_fq_codel_gets_its_segments_back() -> None:
    there = installed(tree_of(SMALL, CLASSIC_FIFO))
    assert SetLink(gso_max_size=65536) in diff(tree_of(SMALL), there)
