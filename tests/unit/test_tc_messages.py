"""Round trips without a kernel: what a request says is what an answer with the same bytes is read as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import VARIANTS, policy, tree_of

from tc_core.bpf.mark_classifier import classic_bytes, mark_filter
from tc_core.handles import ROOT, Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    ChangeQdisc,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    SetLink,
)
from tc_core.model import INGRESS_HOOK, BpfFilter, FqCodel, OtherFilter, RedirectFilter
from tc_core.netlink.codec import NLMSGHDR, attribute, attributes, number, read_messages, text
from tc_core.probe.capability import Features
from tc_core.qdiscs import (
    Bfifo,
    Cake,
    Clsact,
    Diffserv,
    HtbQdisc,
    Isolation,
    Netem,
    OtherQdisc,
    Prio,
    Sfq,
    Tbf,
    tc_percent,
    tc_time,
)
from tc_core.qdiscs.wire import burst_bytes, burst_ticks, chance, chance_ppm
from tc_core.rtnetlink import answers, requests
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import LinkMessage, TcMessage
from traffic_policy.units import ByteCount, Duration, Rate

RATES = st.integers(min_value=8_000, max_value=10**13).map(Rate)
# Rates of HTB and TBF are whole bytes per second; the kernel has no others.
WHOLE_RATES = st.integers(min_value=1_000, max_value=10**13 // 8).map(Rate.from_bytes_per_second)
PPM = st.integers(min_value=0, max_value=10**6)
TIMES = st.integers(min_value=0, max_value=10**11).map(Duration)
U32_NUMBERS = st.integers(min_value=1, max_value=2**32 - 1)
BURSTS = st.integers(min_value=0, max_value=2**31).map(ByteCount)


def echoed(change: Change, program: int | None = None, device: int | None = None) -> Any:
    """The message of a change, as bytes and back."""
    data = requests.request(3, change, program=program, device=device)
    again = (LinkMessage if isinstance(change, SetLink | AddLink | DeleteLink) else TcMessage).parse(payload(data))
    assert again.index == 3
    return again


def payload(data: bytes) -> bytes:
    """What follows the header of the one message."""
    [message] = read_messages(data, len(data))
    assert (message.start, message.end) == (NLMSGHDR.size, len(data))
    return data[message.start : message.end]


def options_of(message: TcMessage) -> dict[int, bytes]:
    return dict(attributes(message.attributes[m.TCA_OPTIONS]))


def joined(found: Mapping[int, bytes]) -> bytes:
    return b"".join(attribute(kind, data) for kind, data in found.items())


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
        assert answers.filter_of(echoed(AddFilter(each))) == each


def test_an_ebpf_program_in_our_place_is_known_by_its_name() -> None:
    """As earlier versions loaded one there: another program, which is replaced."""
    message = echoed(AddFilter(mark_filter(Handle(1), {1})))
    loaded = {**message.attributes, m.TCA_OPTIONS: text(m.TCA_BPF_NAME, "podlane-1")}
    assert answers.filter_of(replace(message, attributes=loaded)) == BpfFilter(Handle(1), "podlane-1")


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
    pytest.param(DeleteFilter(mark_filter(Handle(1), {1})), 2 << 16 | 0x0300, id="ours, by handle"),
    pytest.param(DeleteFilter(OtherFilter(Handle(1), "u32", 9, 0x0800)), 9 << 16 | 0x0008, id="others, all at once"),
])  # fmt: skip
def test_removing_filters_names_priority_and_protocol(change: DeleteFilter, info: int) -> None:
    message = echoed(change)
    assert message.info == info
    assert message.handle == (0 if isinstance(change.filter, OtherFilter) else 1)


def test_only_named_settings_of_a_link_are_sent() -> None:
    message = echoed(SetLink(gso_max_size=16384))
    assert number(message.attributes, m.IFLA_GSO_MAX_SIZE) == 16384
    assert m.IFLA_TXQLEN not in message.attributes
    assert message.change == 0


# --- every kind of qdisc ---------------------------------------------------------------------------------------------

PLACED = (Handle(0x20), Handle(1, 5))
QDISCS = [
    pytest.param(HtbQdisc(Handle(1), 0x1FF, 20, 500), id="htb"),
    pytest.param(Tbf(*PLACED, Rate(8_000), ByteCount(1600), ByteCount(3000)), id="tbf"),
    pytest.param(Tbf(*PLACED, Rate(4 * 10**11), ByteCount(65_600), ByteCount(2**32 - 1)), id="tbf beyond 32 bits"),
    pytest.param(Prio(*PLACED, 16, tuple(range(16))), id="prio"),
    pytest.param(Bfifo(*PLACED, ByteCount(2**32 - 1)), id="bfifo"),
    pytest.param(Sfq(*PLACED, 1000, ByteCount(9000), Duration(10**10), 100), id="sfq"),
    pytest.param(Clsact(), id="clsact"),
    *(pytest.param(Cake(*PLACED, Rate(10**7), diffserv=mode), id=f"cake {mode}") for mode in Diffserv),
    *(pytest.param(Cake(*PLACED, isolation=mode, overhead=-20), id=f"cake {mode}") for mode in Isolation),
    *(
        pytest.param(Cake(*PLACED, **{switch: switch != "split_gso"}), id=f"cake {switch}")
        for switch in ("nat", "wash", "ack_filter", "ingress", "split_gso")
    ),
    pytest.param(Cake(*PLACED, Rate(4 * 10**11), mpu=64, memory_limit=ByteCount(2**20)), id="cake beyond 32 bits"),
    pytest.param(Netem(*PLACED), id="netem that does nothing"),
    pytest.param(Netem(*PLACED, 7, Duration(10**10), Duration(1)), id="netem delay and jitter"),
    pytest.param(Netem(*PLACED, loss_ppm=1, duplicate_ppm=2, corrupt_ppm=3), id="netem chances"),
    pytest.param(Netem(*PLACED, delay=Duration(5), reorder_ppm=10**6, gap=9), id="netem reordering"),
    pytest.param(Netem(*PLACED, rate=Rate(4 * 10**11)), id="netem beyond 32 bits"),
]


@pytest.mark.parametrize("qdisc", QDISCS)
def test_a_qdisc_is_read_as_it_was_written(qdisc: Any) -> None:
    assert qdisc.agrees_with(answers.qdisc_of(echoed(AddQdisc(qdisc))))
    if not isinstance(qdisc, Clsact):
        assert qdisc.agrees_with(answers.qdisc_of(echoed(ChangeQdisc(qdisc))))


@given(WHOLE_RATES, BURSTS, U32_NUMBERS.map(ByteCount))
def test_any_bucket(rate: Rate, burst: ByteCount, limit: ByteCount) -> None:
    wanted = Tbf(*PLACED, rate, burst, limit)
    read = answers.qdisc_of(echoed(AddQdisc(wanted)))
    if burst_ticks(rate, burst) < 2**32 - 1:
        assert wanted.agrees_with(read), read


@given(U32_NUMBERS, TIMES, TIMES, st.tuples(PPM, PPM, PPM, PPM), st.none() | WHOLE_RATES)
def test_any_emulation(limit: int, delay: Duration, jitter: Duration, ppm: tuple[int, ...], rate: Rate | None) -> None:
    wanted = Netem(*PLACED, limit, delay, jitter, *ppm, rate=rate)
    assert answers.qdisc_of(echoed(AddQdisc(wanted))) == wanted


@given(PPM)
def test_a_chance_is_exact_in_both_directions(ppm: int) -> None:
    assert chance_ppm(chance(ppm)) == ppm
    # tc(8) reads the percentage that we print as a double, and rounds it.
    assert chance_ppm(round(float(tc_percent(ppm).rstrip("%")) / 100 * (2**32 - 1))) == ppm


@pytest.mark.parametrize(("ppm", "text"), [
    pytest.param(0, "0%", id="never"),
    pytest.param(1, "0.0001%", id="one in a million"),
    pytest.param(100, "0.01%", id="one in ten thousand"),
    pytest.param(1_000_000, "100%", id="always"),
])  # fmt: skip
def test_percentages(ppm: int, text: str) -> None:
    assert tc_percent(ppm) == text


@pytest.mark.parametrize(("nanoseconds", "text"), [
    pytest.param(0, "0s", id="none"),
    pytest.param(7, "0.007us", id="nanoseconds"),
    pytest.param(1_500_000, "1500us", id="a fraction of a millisecond"),
    pytest.param(10**10, "10s", id="seconds"),
])  # fmt: skip
def test_times(nanoseconds: int, text: str) -> None:
    assert tc_time(Duration(nanoseconds)) == text


@pytest.mark.parametrize(("qdisc", "text"), [
    pytest.param(QDISCS[1].values[0], "parent 1:5 handle 20: tbf rate 8kbit burst 1600b limit 3000b", id="tbf"),
    pytest.param(Prio(Handle(1), ROOT), "root handle 1: prio bands 3 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1", id="prio"),
    pytest.param(Sfq(*PLACED, 9, ByteCount(1514), Duration(10**10)), "parent 1:5 handle 20: sfq limit 9 quantum 1514 perturb 10 depth 127", id="sfq"),
    pytest.param(Cake(Handle(1), ROOT, Rate(10**7), nat=True, overhead=18, mpu=64), "root handle 1: cake bandwidth 10Mbit diffserv3 triple-isolate nat nowash no-ack-filter egress split-gso rtt 100000us overhead 18 mpu 64", id="cake"),
    pytest.param(Cake(Handle(1), ROOT), "root handle 1: cake unlimited diffserv3 triple-isolate nonat nowash no-ack-filter egress split-gso rtt 100000us raw", id="cake without limit"),
    pytest.param(Netem(Handle(1), ROOT, 9, Duration(10**7), Duration(10**6), 100, 0, 1, 10**5, 3, Rate(8000)), "root handle 1: netem limit 9 delay 10ms 1ms loss 0.01% corrupt 0.0001% reorder 10% gap 3 rate 8kbit", id="netem"),
    pytest.param(Clsact(), "clsact", id="clsact"),
])  # fmt: skip
def test_what_tc_takes(qdisc: Any, text: str) -> None:
    assert str(qdisc) == text


@pytest.mark.parametrize(("one", "other"), [
    pytest.param(Netem(*PLACED, gap=5), Netem(*PLACED, gap=1), id="a gap between nothing"),
    pytest.param(Netem(*PLACED, jitter=Duration(10**10)), Netem(*PLACED, jitter=Duration(2**31 - 1)), id="more jitter than there is"),
    pytest.param(Netem(*PLACED, delay=Duration(1999)), Netem(*PLACED, delay=Duration(1000)), id="nanoseconds"),
    pytest.param(Netem(*PLACED, rate=Rate(8_001)), Netem(*PLACED, rate=Rate(8_000)), id="a fraction of a byte per second"),
    pytest.param(Cake(*PLACED, rtt=Duration(1_000_999)), Cake(*PLACED, rtt=Duration(1_000_000)), id="a fraction of a microsecond"),
    pytest.param(Sfq(*PLACED, 10**6, ByteCount(1514), Duration(0)), Sfq(*PLACED, 127 * 128, ByteCount(1514), Duration(0)), id="more packets than sfq takes"),
])  # fmt: skip
def test_what_the_kernel_rounds_is_no_difference(one: Any, other: Any) -> None:
    assert one.agrees_with(other)


@pytest.mark.parametrize("kind", ["tbf", "fq_codel", "netem", "noqueue"])
def test_what_the_kernel_chose_by_itself_is_not_ours(kind: str) -> None:
    by_kind = {p.values[0].kind: p.values[0] for p in QDISCS}
    message = echoed(AddQdisc(by_kind.get(kind, tree_of(policy()).leaves[0])))
    message = replace(message, handle=0, attributes={**message.attributes, m.TCA_KIND: kind.encode() + b"\0"})
    assert answers.qdisc_of(message) == OtherQdisc(Handle(0), Handle.from_int(message.parent), kind)


# --- filters with an action, explicit programs, links ----------------------------------------------------------------

TO_IFB = RedirectFilter(INGRESS_HOOK, "ifb0")


def test_a_redirection() -> None:
    message = echoed(AddFilter(TO_IFB), device=12)
    assert answers.hook_filter_of(message, {12: "ifb0"}) == TO_IFB
    assert answers.hook_filter_of(message, {11: "ifb0"}) == RedirectFilter(INGRESS_HOOK, "")
    assert message.info == TO_IFB.prio << 16 | 0x0300


def test_a_redirection_with_the_mark_of_the_connection() -> None:
    marked = replace(TO_IFB, connmark=True)
    message = echoed(AddFilter(marked), device=12)
    assert answers.hook_filter_of(message, {12: "ifb0"}) == marked != TO_IFB
    options = options_of(message)
    first, second = attributes(options[m.TCA_BPF_ACT]).values()
    parms = attributes(attributes(first)[m.TCA_ACT_OPTIONS])[m.TCA_CONNMARK_PARMS]
    _, _, action, _, _, zone = m.CONNMARK.unpack(parms)
    assert (action, zone) == (3, 0)
    # In the other order the mark would come too late.
    options[m.TCA_BPF_ACT] = joined({1: second, 2: first})
    turned = replace(message, attributes={**message.attributes, m.TCA_OPTIONS: joined(options)})
    assert isinstance(answers.hook_filter_of(turned, {12: "ifb0"}), OtherFilter)


@pytest.mark.parametrize(("name", "value"), [
    pytest.param("TCA_ACT_KIND", b"gact\0", id="another action"),
    pytest.param("TCA_BPF_OPS", bytes(8), id="another program"),
])  # fmt: skip
def test_what_only_looks_like_a_redirection(name: str, value: bytes) -> None:
    message = echoed(AddFilter(TO_IFB), device=12)
    options = options_of(message)
    [action] = attributes(options[m.TCA_BPF_ACT]).values()
    if name == "TCA_ACT_KIND":
        options[m.TCA_BPF_ACT] = attribute(1, joined({**attributes(action), m.TCA_ACT_KIND: value}))
    else:
        options[m.TCA_BPF_OPS] = value
    other = replace(message, attributes={**message.attributes, m.TCA_OPTIONS: joined(options)})
    assert isinstance(answers.hook_filter_of(other, {12: "ifb0"}), OtherFilter)


def test_a_program_that_is_given_is_sent_as_it_is() -> None:
    program = ((0x20, 0, 0, 4), (0x06, 0, 0, 0x10001))
    given_filter = BpfFilter(Handle(1), "x", instructions=program)
    options = options_of(echoed(AddFilter(given_filter)))
    assert number(options, m.TCA_BPF_OPS_LEN) == 2
    assert options[m.TCA_BPF_OPS] == classic_bytes(program)


@pytest.mark.parametrize(("change", "flags"), [
    pytest.param(SetLink(up=True), 1, id="up"),
    pytest.param(SetLink(up=False), 0, id="down"),
    pytest.param(AddLink("ifb", "ours"), 1, id="a new one"),
])  # fmt: skip
def test_a_link_is_set_up_or_down(change: Change, flags: int) -> None:
    message = echoed(change)
    assert (message.flags, message.change) == (flags, 1)


def test_a_link_is_read() -> None:
    data = payload(requests.add_link_request("ifb0", "ifb")) + text(m.IFLA_IFALIAS, "ours")
    link = answers.link_of(LinkMessage.parse(data))
    assert (link.name, link.kind, link.alias, link.is_up) == ("ifb0", "ifb", "ours", False)


@pytest.mark.parametrize(("change", "text"), [
    pytest.param(AddLink("ifb"), "ip link add name x type ifb && ip link set dev x up", id="a link"),
    pytest.param(AddLink("ifb", "it's"), "ip link add name x type ifb && ip link set dev x alias 'it'\"'\"'s' up", id="a link with an alias"),
    pytest.param(DeleteLink(), "ip link del dev x", id="no link"),
    pytest.param(SetLink(up=False), "ip link set dev x down", id="down"),
    pytest.param(ChangeQdisc(Netem(Handle(1), ROOT, 9)), "tc qdisc change dev x root handle 1: netem limit 9 delay 0s loss 0% duplicate 0% corrupt 0% reorder 0% rate 0bit", id="no emulation"),
    pytest.param(DeleteQdisc(Clsact()), "tc qdisc del dev x clsact", id="no clsact"),
    pytest.param(AddFilter(TO_IFB), "tc filter add dev x parent ffff:fff2 protocol all prio 49153 handle 0x1 bpf bytecode '1,6 0 0 4294967295' action mirred egress redirect dev ifb0", id="a redirection"),
    pytest.param(AddFilter(replace(TO_IFB, connmark=True)), "tc filter add dev x parent ffff:fff2 protocol all prio 49153 handle 0x1 bpf bytecode '1,6 0 0 4294967295' action connmark pipe action mirred egress redirect dev ifb0", id="a redirection with a mark"),
])  # fmt: skip
def test_commands(change: Change, text: str) -> None:
    assert change.command("x") == text
