"""Counters become classes with rates: which counter speaks for a class under each shaper, and how the table reads."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tc_core import statistics
from tc_core.apply.execute import apply, clear
from tc_core.compile.packet_tree import ifb_name, lanes_of
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.kernel import AddQdisc
from tc_core.model import HtbQdisc
from tc_core.probe.capability import ALL_FEATURES
from tc_core.statistics import Statistics
from tc_core.stats import ClassStats
from tc_core.trees import PLAIN_ROOT, Lanes
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Duration, Rate

HTB = """
total: 10Mbit
ingress: {total: 5Mbit}
classes:
  - {name: a, rate: 1Mbit, ceil: 2Mbit, match: {port: 1}}
  - {name: b, rate: 2Mbit, ingress: {rate: 1Mbit}, match: {port: 2}}
"""
PRIO = """
total: 10Mbit
shaper: prio
classes:
  - {name: bulk, priority: 6, ceil: 2Mbit, match: {port: 873}}
  - {name: voice, priority: 0, match: {port: 5060}}
"""


class Traffic:
    """What passes while :func:`statistics.measure` waits, and a clock that runs only then."""

    def __init__(self, kernel: FakeKernel, handle: Handle, before: ClassStats, after: ClassStats) -> None:
        self.kernel, self.handle, self.after = kernel, handle, after
        self.now = 100.0
        kernel.count(handle, before)

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.kernel.count(self.handle, self.after)

    def clock(self) -> float:
        return self.now


def in_force(text: str) -> tuple[FakeKernel, Lanes]:
    kernel = FakeKernel("eth0")
    made = lanes_of(parse_policy(text), "eth0", ALL_FEATURES)
    apply(kernel, "eth0", made)
    return kernel, made


def measured(kernel: FakeKernel, made: Lanes, traffic: Traffic, over: str = "2s") -> Statistics:
    return statistics.measure(
        kernel,
        "eth0",
        Duration.parse(over),
        sending=made.tree.names,
        receiving=made.ingress.tree.names if made.ingress else {},
        pause=traffic.pause,
        clock=traffic.clock,
    )


@pytest.mark.parametrize(
    ("text", "handle", "name", "ceil"),
    [
        pytest.param(HTB, Handle(1, 0x101), "a", "2Mbit", id="htb: the class"),
        pytest.param(PRIO, Handle(0x101), "voice", None, id="prio: the queue of the band"),
        pytest.param(PRIO, Handle(0x202), "bulk", "2Mbit", id="prio: the token bucket of the band"),
        pytest.param("{total: 5Mbit, shaper: tbf}", PLAIN_ROOT, "default", "5Mbit", id="tbf: the root"),
        pytest.param("{total: 5Mbit, shaper: cake}", PLAIN_ROOT, "default", "5Mbit", id="cake: the root"),
    ],
)
def test_the_right_counter_speaks_for_a_class(text: str, handle: Handle, name: str, ceil: str | None) -> None:
    kernel, made = in_force(text)
    before = ClassStats(bytes=1_000, packets=1)
    traffic = Traffic(kernel, handle, before, ClassStats(bytes=1_001_000, packets=701, drops=3, backlog_bytes=99))
    result = measured(kernel, made, traffic)
    one = result[name]
    assert (one.rate, one.sent.count, one.packets, one.dropped, one.queued.count) == (
        Rate.parse("4Mbit"), 1_001_000, 701, 3, 99,
    )  # fmt: skip
    assert one.ceil == (Rate.parse(ceil) if ceil else None)
    assert all(other.rate == Rate(0) for other in result.sending if other is not one)
    assert result.over == Duration.parse("2s")


def test_drops_of_the_queue_below_count() -> None:
    kernel, made = in_force("{total: 5Mbit, shaper: tbf}")
    queue = Handle(0x1FF)
    result = measured(kernel, made, Traffic(kernel, queue, ClassStats(), ClassStats(drops=5)))
    assert result["default"].dropped == 5


def test_classes_come_in_the_order_of_the_policy_or_of_their_priority() -> None:
    for text, names in ((HTB, ["a", "b", "default"]), (PRIO, ["voice", "bulk", "default"])):
        kernel, made = in_force(text)
        result = measured(kernel, made, Traffic(kernel, PLAIN_ROOT, ClassStats(), ClassStats()))
        assert [one.name for one in result.sending] == names


def test_what_arrives_is_measured_on_the_ifb_and_only_on_ours() -> None:
    kernel, made = in_force(HTB)
    # The fake has one set of counters for all interfaces: b's class has the same handle on both.
    traffic = Traffic(kernel, Handle(1, 0x102), ClassStats(), ClassStats(bytes=250_000))
    result = measured(kernel, made, traffic)
    assert [(one.name, str(one.guaranteed), str(one.rate)) for one in result.receiving] == [
        ("b", "1Mbit", "1Mbit"),
        ("default", "50kbit", "0bit"),
    ]
    ours = kernel.observe(ifb_name("eth0"))
    kernel.put(replace(ours, link=replace(ours.link, alias="somebody else's")))
    assert measured(kernel, made, traffic).receiving == ()
    kernel.put(ours)
    clear(kernel, "eth0")
    assert ifb_name("eth0") not in kernel.interfaces()
    assert measured(kernel, made, traffic).receiving == ()


def test_a_class_made_anew_in_between_counts_from_nothing() -> None:
    kernel, made = in_force(HTB)
    traffic = Traffic(kernel, Handle(1, 0x101), ClassStats(bytes=10**9), ClassStats(bytes=250_000))
    assert measured(kernel, made, traffic)["a"].rate == Rate.parse("1Mbit")


def test_somebody_elses_classes_are_not_shown() -> None:
    kernel = FakeKernel("eth0")
    kernel.apply("eth0", AddQdisc(HtbQdisc(Handle(0x10), 1)))
    ticks = itertools.count()
    result = statistics.measure(
        kernel, "eth0", Duration(0), sending={ROOT: "x"}, receiving={}, pause=lambda _: None, clock=lambda: next(ticks)
    )
    assert result.sending == ()
    assert str(result) == "Podlane does not shape eth0."


def test_the_table_and_the_document() -> None:
    kernel, made = in_force(HTB)
    traffic = Traffic(kernel, Handle(1, 0x102), ClassStats(), ClassStats(bytes=250_000, packets=170, drops=2))
    result = measured(kernel, made, traffic)
    assert str(result).splitlines() == [
        "eth0 sends",
        "class         now  guaranteed      up to       sent  packets  dropped  queued",
        "a         0 bit/s    1 Mbit/s   2 Mbit/s        0 B        0        0     0 B",
        "b        1 Mbit/s    2 Mbit/s  10 Mbit/s  244.1 KiB      170        2     0 B",
        "default   0 bit/s  100 kbit/s  10 Mbit/s        0 B        0        0     0 B",
        "",
        "eth0 receives",
        "class         now  guaranteed     up to   received  packets  dropped  queued",
        "b        1 Mbit/s    1 Mbit/s  5 Mbit/s  244.1 KiB      170        2     0 B",
        "default   0 bit/s   50 kbit/s  5 Mbit/s        0 B        0        0     0 B",
    ]
    document = result.as_document()
    assert (document["interface"], document["over"], len(document["receiving"])) == ("eth0", 2.0, 2)
    assert document["sending"][1] == {
        "name": "b", "rate": 1_000_000, "guaranteed": 2_000_000, "ceil": 10_000_000, "sent": 250_000, "packets": 170,
        "dropped": 2, "queued": 0,
    }  # fmt: skip
