"""Policies in force by traffic control alone, on a real kernel: no marks, no proxy, every shaper that is here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tclab import DEVICE, Pair, veth_pair
from trafficlab import ATTEMPTS, SETTLE, at_once, payload, settles_at

from tc_core import features, lanes
from tc_core.errors import MissingFeatureError
from tc_core.handles import Handle
from tc_core.policy_file import parse_policy
from tc_core.reconcile import ApplyError

pytestmark = pytest.mark.root

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES
POLICIES = {
    "htb": "{total: 50Mbit, classes: [{name: a, rate: 10Mbit, match: {application: ssh}}, {name: b, rate: 1Mbit, match: {source: 10.0.0.0/8}}]}",
    "tbf": "{total: 5Mbit, shaper: tbf}",
    "prio": "{total: 9Mbit, shaper: prio, classes: [{name: a, priority: 7, ceil: 2Mbit, match: {port: 1-99}}, {name: b, match: {protocol: udp}}]}",
    "cake": "{total: 5Mbit, shaper: cake}",
    "rehearsal": "{total: 5Mbit, rehearsal: {delay: 20ms, jitter: 1ms, loss: 0.5%}}",
    "rehearsal of all": "{total: 5Mbit, shaper: tbf, rehearsal: {delay: 20ms}}",
    "fair": "{total: 5Mbit, default: {queue: fair}, classes: [{name: a, rate: 1Mbit, queue: sfq, match: {port: 1}}]}",
    "queues": "{total: 5Mbit, classes: [{name: a, rate: 1Mbit, queue: cake, match: {port: 1}}, {name: b, rate: 1Mbit, queue: low-latency, match: {port: 2}}]}",
    "ingress": "{total: 5Mbit, ingress: {total: 9Mbit}, classes: [{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 1}}]}",
}  # fmt: skip


def _runs_here(text: str) -> bool:
    try:
        lanes.lanes_of(parse_policy(text), DEVICE, HERE)
    except MissingFeatureError:
        return False
    return True


RUN_HERE = {name: text for name, text in POLICIES.items() if _runs_here(text)}
every = pytest.mark.parametrize("text", RUN_HERE.values(), ids=RUN_HERE)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with veth_pair() as made:
        yield made


def compiled(text: str) -> lanes.Lanes:
    return lanes.lanes_of(parse_policy(text), DEVICE, HERE)


def install(pair: Pair, text: str) -> None:
    lanes.apply(pair.kernel, DEVICE, compiled(text))


@every
def test_the_second_time_nothing_changes_and_clearing_leaves_no_trace(pair: Pair, text: str) -> None:
    untouched = pair.kernel.observe(DEVICE), set(pair.kernel.interfaces())
    install(pair, text)
    assert lanes.plan(pair.kernel, DEVICE, compiled(text)) == []
    lanes.clear(pair.kernel, DEVICE)
    assert (pair.kernel.observe(DEVICE), set(pair.kernel.interfaces())) == untouched


def test_every_policy_can_follow_every_other(pair: Pair) -> None:
    for first in RUN_HERE.values():
        for second in RUN_HERE.values():
            install(pair, first)
            install(pair, second)
            assert lanes.plan(pair.kernel, DEVICE, compiled(second)) == []


@every
def test_tc_and_ip_make_the_same(pair: Pair, text: str) -> None:
    """The commands of a plan, run by a shell, do what we do: nothing is left to be changed."""
    for name, change in lanes.plan(pair.kernel, DEVICE, compiled(text)):
        pair.on_client("sh", "-ec", change.command(name))
    left = [change.command(name) for name, change in lanes.plan(pair.kernel, DEVICE, compiled(text))]
    # Before 6.10 tc cut the times of bursts to whole microseconds and CAKE's memory to what it liked best: no matter.
    assert left == []


def test_a_refusal_in_the_middle_is_made_good_by_the_next_call(pair: Pair) -> None:
    """The ifb's name is taken by a bridge, which the kernel says only when ours is to be made."""
    made = compiled(POLICIES["ingress"])
    steps = lanes.plan(pair.kernel, DEVICE, made)
    pair.on_client("ip", "link", "add", "ifb-eth0", "type", "bridge")
    with pytest.raises(ApplyError, match="File exists") as caught:
        lanes.carry_out(pair.kernel, DEVICE, steps)
    assert caught.value.report.done
    pair.on_client("ip", "link", "del", "ifb-eth0")
    lanes.apply(pair.kernel, DEVICE, made)
    assert lanes.plan(pair.kernel, DEVICE, made) == []


@pytest.mark.measure
def test_classes_without_marks_keep_their_ceils(pair: Pair) -> None:
    install(pair, """
        total: 100Mbit
        classes:
          - {name: a, rate: 1Mbit, ceil: 10Mbit, match: {port: 5001, source: 10.87.0.0/24}}
          - {name: never, rate: 1Mbit, ceil: 2Mbit, match: {port: 5002, cidr: 10.88.0.0/24}}
          - {name: b, rate: 1Mbit, ceil: 40Mbit, match: {port: 5002, protocol: tcp}}
          - {name: marked, rate: 1Mbit, ceil: 20Mbit, match: {mark: 0x40/0xf0}}
        default: {ceil: 5Mbit}
    """)  # fmt: skip
    streams = {"10Mbit": pair.stream(5001), "40Mbit": pair.stream(5002), "20Mbit": pair.stream(5003, 0x45), "5Mbit": pair.stream(5004)}  # fmt: skip
    at_once(*(lambda r=rate, s=stream: settles_at(s, r, 3.0) for rate, stream in streams.items()))


@pytest.mark.measure
@pytest.mark.parametrize("shaper", [name for name in ("tbf", "cake") if getattr(HERE, name).available])
def test_the_total_holds_without_classes(pair: Pair, shaper: str) -> None:
    install(pair, f"{{total: 20Mbit, shaper: {shaper}}}")
    settles_at(pair.stream(5001), "20Mbit", 3.0)


@pytest.mark.measure
def test_what_arrives_is_held_to_its_own_limits(pair: Pair) -> None:
    install(pair, """
        total: 100Mbit
        ingress: {total: 40Mbit}
        classes:
          - {name: a, rate: 1Mbit, ingress: {rate: 5Mbit, ceil: 10Mbit}, match: {port: 5001, cidr: 10.87.0.2/32}}
    """)  # fmt: skip
    limited, rest, upload = pair.stream(5001, download=True), pair.stream(5002, download=True), pair.stream(5003)
    at_once(
        lambda: settles_at(limited, "10Mbit", 3.0),
        lambda: settles_at(rest, "30Mbit", 3.0),
        lambda: settles_at(upload, "100Mbit", 3.0),
    )


# Not every kernel has these two; the stock kernel, which tests/stock runs, does.
if HERE.prio.available:

    @pytest.mark.measure
    def test_strict_priority_lets_the_first_go_first_and_holds_it_to_its_ceil(pair: Pair) -> None:
        install(pair, """
            total: 20Mbit
            shaper: prio
            classes:
              - {name: bulk, priority: 5, match: {port: 5002}}
              - {name: first, priority: 0, ceil: 8Mbit, match: {port: 5001}}
        """)  # fmt: skip
        first, bulk, _starved = (pair.stream(port) for port in (5001, 5002, 5003))
        for _ in range(ATTEMPTS):
            before = pair.kernel.qdisc_counters(DEVICE)
            got, bulk_got = at_once(*(lambda s=s: s.goodput(3.0, after=SETTLE) for s in (first, bulk)))
            after = pair.kernel.qdisc_counters(DEVICE)
            assert got <= 1.05 * payload("8Mbit", first)
            assert got + bulk_got <= 1.05 * payload("20Mbit", first)
            # The last band sends only while the others have nothing, as after a loss; a hundredth is plenty.
            queues = [Handle(number) for number in (0x101, 0x102, 0x103)]
            *_, rest = sent = [after[q].bytes - before[q].bytes for q in queues]
            if got >= 0.95 * payload("8Mbit", first) and bulk_got >= 0.9 * payload("12Mbit", bulk):
                assert rest < sum(sent) / 100
                return
        pytest.fail(f"first {got:.0f}, bulk {bulk_got:.0f} bit/s")


if HERE.netem.available:

    @pytest.mark.measure
    @pytest.mark.parametrize("shaper", ["htb", "tbf"])
    def test_a_rehearsed_delay_is_felt(pair: Pair, shaper: str) -> None:
        install(pair, f"{{total: 50Mbit, shaper: {shaper}, rehearsal: {{delay: 60ms}}}}")
        stream = pair.stream(5001)
        stream.goodput(1.0)
        assert stream.round_trip >= 0.055
