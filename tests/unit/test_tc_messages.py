"""Round trips without a kernel: what a request says is what an answer with the same bytes is read as."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from trees import VARIANTS, policy, tree_of

from tc_core import answers, requests
from tc_core.bpf import mark_filter
from tc_core.capability import Features
from tc_core.handles import Handle
from tc_core.kernel import AddClass, AddFilter, AddQdisc, Change, ChangeQdisc, DeleteFilter, SetLink
from tc_core.layouts import TcMessage, burst_bytes, burst_ticks
from tc_core.model import BpfFlavour, FqCodel, OtherFilter
from tc_core.units import ByteCount, Rate

RATES = st.integers(min_value=8_000, max_value=10**13).map(Rate)
BURSTS = st.integers(min_value=0, max_value=2**31).map(ByteCount)


def echoed(change: Change, program: int | None = None) -> Any:
    """The message of a change, as bytes and back."""
    message = requests.request(3, change, program)
    message.encode()
    again = (ifinfmsg if isinstance(change, SetLink) else TcMessage)(bytes(message.data))
    again.decode()
    assert again["index"] == 3
    return again


@given(RATES, BURSTS)
def test_a_burst_that_was_read_is_written_back_the_same(rate: Rate, burst: ByteCount) -> None:
    ticks = burst_ticks(rate, burst)
    if ticks < 2**32 - 1:
        read = burst_bytes(rate, ticks)
        assert burst_ticks(rate, read) == ticks
        assert abs(read.count - burst.count) <= 1 + rate.bytes_per_second * 64 // 10**9


@pytest.mark.parametrize(
    ("rate", "burst", "ticks"),
    [
        pytest.param("8Mbit", 1_000, 15_625, id="a millisecond"),
        pytest.param("1Gbit", 125_000, 15_625, id="the same at a higher rate"),
        pytest.param("8kbit", 2**31, 2**32 - 1, id="longer than 32 bits of ticks"),
        pytest.param("0bit", 1_000, 0, id="no rate"),
    ],
)
def test_burst_ticks(rate: str, burst: int, ticks: int) -> None:
    assert burst_ticks(Rate.parse(rate), ByteCount(burst)) == ticks


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_whole_tree(variant: Features) -> None:
    tree = tree_of(policy("400Gbit", small="64kbit 1Mbit 7", large="300Gbit 400Gbit 0"), variant)
    assert answers.qdisc_of(echoed(AddQdisc(tree.root))) == tree.root
    for traffic_class in (tree.inner, *tree.classes):
        read = answers.class_of(echoed(AddClass(traffic_class)))
        assert read is not None
        assert traffic_class.agrees_with(read), read
    for leaf in tree.leaves:
        assert leaf.agrees_with(answers.qdisc_of(echoed(AddQdisc(leaf))))
    for each in tree.filters:
        program = 7 if getattr(each, "flavour", None) is BpfFlavour.EBPF else None
        assert answers.filter_of(echoed(AddFilter(each), program)) == each


@given(RATES, RATES, BURSTS, st.integers(min_value=0, max_value=7))
def test_any_class(rate: Rate, ceil: Rate, burst: ByteCount, prio: int) -> None:
    whole = [Rate.from_bytes_per_second(r.bytes_per_second) for r in (rate, ceil)]
    base = tree_of(policy()).default_class
    wanted = type(base)(base.handle, base.parent, *whole, burst, burst, prio, ByteCount(1514))
    read = answers.class_of(echoed(AddClass(wanted)))
    assert read is not None
    if burst_ticks(min(whole), burst) < 2**32 - 1:
        assert wanted.agrees_with(read), read


def test_a_change_of_fq_codel_does_not_carry_its_flows() -> None:
    leaf = tree_of(policy()).leaves[0]
    read = answers.qdisc_of(echoed(ChangeQdisc(leaf)))
    assert isinstance(read, FqCodel)
    assert read.flows == 0


@pytest.mark.parametrize(("change", "info"), [
    pytest.param(DeleteFilter(mark_filter(Handle(1), BpfFlavour.CLASSIC, {1})), 2 << 16 | 0x0300, id="ours, by handle"),
    pytest.param(DeleteFilter(OtherFilter(Handle(1), "u32", 9, 0x0800)), 9 << 16 | 0x0008, id="others, all at once"),
])  # fmt: skip
def test_removing_filters_names_priority_and_protocol(change: DeleteFilter, info: int) -> None:
    message = echoed(change)
    assert message["info"] == info
    assert message["handle"] == (0 if isinstance(change.filter, OtherFilter) else 1)


def test_only_named_settings_of_a_link_are_sent() -> None:
    message = echoed(SetLink(gso_max_size=16384))
    assert message.get_attr("IFLA_GSO_MAX_SIZE") == 16384
    assert message.get_attr("IFLA_TXQLEN") is None
