"""Policy to tree: every number in it, and the reasons for the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import CLASSIC_FIFO, FW_FQ_CODEL, VARIANTS, policy, tree_of

from tc_core.compile.mark_tree import burst, compile_policy, leaf_handle, quantum
from tc_core.errors import MissingFeatureError
from tc_core.handles import Handle
from tc_core.model import Bfifo, BpfFilter, FqCodel, FwFilter
from tc_core.probe.capability import CLASSIC_BPF, FW, GSO_MAX_SIZE, HTB, Features, absent
from traffic_policy.marks import ClassIds, class_mark
from traffic_policy.units import ByteCount, Duration, Rate


def test_the_whole_tree_of_a_small_policy() -> None:
    tree = tree_of(policy("100Mbit", api="20Mbit 80Mbit 1", backup="1Mbit 10Mbit 7"))
    assert str(tree.root) == "root handle 1: htb default 1ff r2q 10 direct_qlen 1000"
    assert [str(c) for c in (tree.inner, *tree.classes)] == [
        "parent 1: classid 1:1 htb rate 100Mbit ceil 100Mbit burst 65536b cburst 65536b quantum 125000",
        "parent 1:1 classid 1:101 htb rate 20Mbit ceil 80Mbit burst 50000b cburst 65536b quantum 25000 prio 1",
        "parent 1:1 classid 1:102 htb rate 1Mbit ceil 10Mbit burst 3028b cburst 25000b quantum 1514 prio 7",
        "parent 1:1 classid 1:1ff htb rate 1Mbit ceil 100Mbit burst 3028b cburst 65536b quantum 1514 prio 7",
    ]  # fmt: skip
    assert [(q.parent, q.handle) for q in tree.leaves] == [
        (Handle(1, 0x101), Handle(0x101)),
        (Handle(1, 0x102), Handle(0x102)),
        (Handle(1, 0x1FF), Handle(0x1FF)),
    ]
    assert tree.filters == (
        FwFilter(Handle(1), class_mark(1), Handle(1, 0x101)),
        FwFilter(Handle(1), class_mark(2), Handle(1, 0x102)),
    )
    assert tree.gso_max_size is None
    assert dict(tree.names) == {
        Handle(1, 1): "total",
        Handle(1, 0x101): "api",
        Handle(1, 0x102): "backup",
        Handle(1, 0x1FF): "default",
    }


def test_the_same_input_gives_the_same_tree() -> None:
    assert tree_of(policy(a="1Mbit", b="2Mbit")) == tree_of(policy(a="1Mbit", b="2Mbit"))


def test_sticky_ids_keep_their_classes_when_the_order_changes() -> None:
    ids = ClassIds.assign(["a", "b"]).evolve(["b", "c", "a"])
    tree = tree_of(policy(b="1Mbit", c="2Mbit", a="3Mbit"), ids=ids)
    assert {str(tree.names[c.handle]): c.handle for c in tree.classes} == {
        "a": Handle(1, 0x101),
        "b": Handle(1, 0x102),
        "c": Handle(1, 0x103),
        "default": Handle(1, 0x1FF),
    }


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param("8kbit", 3028, id="floor of two packets"),
        pytest.param("1Mbit", 3028, id="20 ms would be less than two packets"),
        pytest.param("10Mbit", 25_000, id="20 ms at the rate"),
        pytest.param("100Mbit", 65_536, id="one GSO packet"),
        pytest.param("500Mbit", 65_536, id="one GSO packet is just above a millisecond"),
        pytest.param("1Gbit", 125_000, id="a millisecond"),
        pytest.param("40Gbit", 5_000_000, id="a millisecond beyond 32 bits of rate"),
    ],
)
def test_burst(rate: str, expected: int) -> None:
    assert burst(Rate.parse(rate)) == ByteCount(expected)


@given(st.integers(min_value=8_000, max_value=10**13))
def test_a_burst_costs_less_than_one_percent_of_five_seconds(bits: int) -> None:
    rate = Rate(bits)
    if bits >= 500_000:
        assert burst(rate).count <= rate.bytes_in(5) / 100
    assert burst(rate).count >= rate.bytes_in(0.001)


def test_a_policy_burst_is_taken_as_it_is() -> None:
    written = policy(api="20Mbit")
    only = written.classes[0].model_copy(update={"burst": ByteCount(2000)})
    tree = tree_of(written.model_copy(update={"classes": (only,)}))
    assert (tree.classes[0].burst, tree.classes[0].cburst) == (ByteCount(2000), ByteCount(2000))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param("8kbit", 1514, id="never less than a packet"),
        pytest.param("10Mbit", 12_500, id="ten milliseconds"),
        pytest.param("1Gbit", 1_250_000, id="twice the rate has twice the quantum far beyond HTB's 200,000"),
        pytest.param("100Gbit", 16 * 2**20, id="cap"),
    ],
)
def test_quantum(rate: str, expected: int) -> None:
    assert quantum(Rate.parse(rate)) == ByteCount(expected)


def test_rates_are_what_the_kernel_can_say_back() -> None:
    tree = tree_of(policy("100000007bit", odd="8000001bit 9000009bit"))
    assert tree.inner.rate == Rate(100_000_000)
    assert (tree.classes[0].rate, tree.classes[0].ceil) == (Rate(8_000_000), Rate(9_000_008))


def test_guarantees_never_exceed_the_inner_class() -> None:
    tree = tree_of(policy("10Mbit", a="5000001bit", b="4000001bit"))
    assert sum(c.rate.bytes_per_second for c in tree.classes) <= tree.inner.rate.bytes_per_second


@pytest.mark.parametrize(
    ("ceil", "limit"),
    [
        pytest.param("1Mbit", 2 * (16384 + 1024), id="room for two GSO packets"),
        pytest.param("100Mbit", 125_000, id="ten milliseconds at the ceil"),
    ],
)
def test_fifo_is_sized_in_time(ceil: str, limit: int) -> None:
    tree = tree_of(policy("1Gbit", only=f"1Mbit {ceil}"), CLASSIC_FIFO)
    assert tree.leaves[0] == Bfifo(Handle(0x101), Handle(1, 0x101), ByteCount(limit))
    assert tree.gso_max_size == 16384


@pytest.mark.parametrize(
    ("ceil", "features", "size"),
    [
        pytest.param("1Gbit", CLASSIC_FIFO, 16384, id="half a millisecond for a large segment"),
        pytest.param("1.1Gbit", CLASSIC_FIFO, None, id="less"),
        pytest.param("1Gbit", FW_FQ_CODEL, None, id="fair to flows"),
        pytest.param(
            "1Gbit", replace(CLASSIC_FIFO, gso_max_size=absent(GSO_MAX_SIZE, "old")), None, id="the kernel cannot"
        ),
    ],
)
def test_segments_are_small_only_where_others_would_wait_for_large_ones(
    ceil: str, features: Features, size: int | None
) -> None:
    """One class with a low ceil is enough: the limit is the interface's."""
    tree = tree_of(policy("10Gbit", only=f"1Mbit {ceil}"), features)
    assert tree.gso_max_size == size


@pytest.mark.parametrize(
    ("ceil", "target_us", "interval_us", "memory"),
    [
        pytest.param("100Mbit", 5_000, 100_000, 6_250_000, id="defaults of RFC 8290"),
        pytest.param("1Mbit", 18_168, 100_000, 2**20, id="target above the time of a packet"),
        pytest.param("64kbit", 283_875, 567_750, 2**20, id="interval above the target"),
        pytest.param("10Gbit", 5_000, 100_000, 32 * 2**20, id="memory cap"),
    ],
)
def test_fq_codel(ceil: str, target_us: int, interval_us: int, memory: int) -> None:
    leaf = tree_of(policy("10Gbit", only=f"64kbit {ceil}")).leaves[0]
    assert leaf == FqCodel(
        Handle(0x101),
        Handle(1, 0x101),
        limit=10_240,
        target=Duration(target_us * 1000),
        interval=Duration(interval_us * 1000),
        memory_limit=ByteCount(memory),
        flows=256,
    )


def test_a_changed_rate_leaves_the_queue_as_it_is() -> None:
    for features in VARIANTS.values():
        before, after = (tree_of(policy(only=f"{rate} 50Mbit"), features) for rate in ("64kbit", "40Mbit"))
        assert before.leaves[0] == after.leaves[0]


def test_one_bpf_program_selects_all_classes() -> None:
    (only,) = tree_of(policy(a="1Mbit", b="1Mbit"), CLASSIC_FIFO).filters
    assert isinstance(only, BpfFilter)
    assert only.class_ids == frozenset({1, 2})


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_a_policy_without_classes_needs_no_filter(features: Features) -> None:
    tree = tree_of(policy("10Mbit"), features)
    assert tree.filters == ()
    assert [c.handle for c in tree.classes] == [leaf_handle(255)]


def test_254_classes_fit() -> None:
    tree = tree_of(policy("10Gbit", **{f"c{i}": "1Mbit" for i in range(254)}))
    assert len({c.handle for c in tree.classes}) == 255
    assert len({q.handle for q in tree.leaves}) == 255


def test_without_htb_the_error_names_it() -> None:
    with pytest.raises(MissingFeatureError, match=r"HTB.*unknown qdisc.*sch_htb"):
        compile_policy(policy(), replace(FW_FQ_CODEL, htb=absent(HTB, "unknown qdisc")), ClassIds.assign([]))


def test_without_any_classifier_the_error_names_them_all() -> None:
    nothing = replace(FW_FQ_CODEL, fw=absent(FW, "no fw"), classic_bpf=absent(CLASSIC_BPF, "no cls_bpf"))
    with pytest.raises(MissingFeatureError, match=r"no fw.*no cls_bpf.*modprobe cls_fw or modprobe cls_bpf"):
        compile_policy(policy(), nothing, ClassIds.assign([]))
