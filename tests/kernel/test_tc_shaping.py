"""Measured with real TCP: ceilings, guarantees, borrowing, and changes while traffic flows.

HTB counts whole frames, TCP delivers payload. What a class's ceil leaves for payload follows from the packets: of every
full frame all but the Ethernet, IP and TCP headers. Congestion control is Reno: the figures are about HTB and not about
what BBR makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tclab import DEVICE, Pair, veth_pair
from trafficlab import ATTEMPTS, SECONDS, SETTLE, at_once, payload, settles_at
from trees import VARIANTS, policy, tree_of

from tc_core.apply.execute import apply
from tc_core.compile.mark_tree import compile_policy, leaf_handle
from tc_core.kernel import ChangeClass
from tc_core.probe import features
from tc_core.stats import rates
from traffic_policy.marks import ClassIds, class_mark
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import Rate

pytestmark = [pytest.mark.root, pytest.mark.measure]

WINDOW = 16384
"""Bytes on their way that wait in a class of 20 Mbit/s without being too many for its queue."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    with veth_pair() as made:
        yield made


def install(pair: Pair, written: TrafficPolicy, ids: ClassIds | None = None) -> ClassIds:
    """Put a policy in force with what this kernel has."""
    ids = ids or ClassIds.assign(c.name for c in written.classes)
    apply(pair.kernel, DEVICE, compile_policy(written, features.probe(), ids))
    return ids


@pytest.mark.nightly  # half of two processors for seconds: on a shared machine that wavers
def test_every_class_keeps_to_its_ceil(pair: Pair) -> None:
    """1, 10, 100 and 500 Mbit/s at the same time, each within 5 % of its ceil less the headers."""
    ceils = {"one": "1Mbit", "ten": "10Mbit", "hundred": "100Mbit", "fivehundred": "500Mbit"}
    ids = install(pair, policy("1Gbit", **{name: f"{ceil} {ceil}" for name, ceil in ceils.items()}))
    streams = {name: pair.stream(5000 + i, class_mark(ids[name]).value) for i, name in enumerate(ceils)}
    at_once(*(lambda n=name, s=stream: settles_at(s, ceils[n]) for name, stream in streams.items()))


def test_a_guarantee_holds_while_another_class_saturates(pair: Pair) -> None:
    """The other class comes first in priority and takes all that is lent; the guarantee is not for lending."""
    written = policy("100Mbit", guaranteed="60Mbit 100Mbit 7", greedy="10Mbit 100Mbit 0")
    ids = install(pair, written)
    guaranteed, *greedy = (
        pair.stream(5000 + i, class_mark(ids[name]).value)
        for i, name in enumerate(("guaranteed", "greedy", "greedy", "greedy"))
    )
    for _ in range(ATTEMPTS):
        kept, *others = at_once(*(lambda s=s: s.goodput(SECONDS, after=SETTLE) for s in (guaranteed, *greedy)))
        share, together = kept / payload("60Mbit", guaranteed), (kept + sum(others)) / payload("100Mbit", guaranteed)
        assert together <= 1.05
        if share >= 0.95 and together >= 0.95:
            return
    pytest.fail(f"{share:.3f} of the guarantee was kept, and {together:.3f} of the link used")


def test_unused_bandwidth_is_borrowed_up_to_the_ceil(pair: Pair) -> None:
    ids = install(pair, policy("200Mbit", borrower="10Mbit 80Mbit", idle="100Mbit"))
    stream = pair.stream(5000, class_mark(ids["borrower"]).value)
    settles_at(stream, "80Mbit")
    stats = pair.kernel.counters(DEVICE)[leaf_handle(ids["borrower"])]
    assert stats.borrowed > 0


def test_what_no_filter_selects_is_held_to_the_default_class(pair: Pair) -> None:
    install(pair, policy("100Mbit", {"rate": "1Mbit", "ceil": "20Mbit"}, a="50Mbit"))
    stream = pair.stream(5000, 0)
    settles_at(stream, "20Mbit", 2.0)


@pytest.mark.nightly  # half of two processors for seconds: on a shared machine that wavers
def test_limits_change_in_place_while_traffic_flows(pair: Pair) -> None:
    """One class is altered; nothing is dropped; the new limit holds from then on, upwards and downwards."""
    ids = install(pair, policy("200Mbit", moving="20Mbit 20Mbit"))
    handle = leaf_handle(ids["moving"])
    stream = pair.stream(5000, class_mark(ids["moving"]).value)
    settles_at(stream, "20Mbit", 2.0)
    for rate in ("80Mbit", "10Mbit"):
        before = pair.kernel.counters(DEVICE)
        wanted = compile_policy(policy("200Mbit", moving=f"{rate} {rate}"), features.probe(), ids)
        report = apply(pair.kernel, DEVICE, wanted)
        after = pair.kernel.counters(DEVICE)
        assert [c.traffic_class.handle for _, c in report.done if isinstance(c, ChangeClass)] == [handle]
        assert after[handle].drops == before[handle].drops
        assert after[handle].bytes >= before[handle].bytes, "the class was made anew"
        settles_at(stream, rate, 2.0)
        assert rates(after, pair.kernel.counters(DEVICE), 3.0)[handle] > Rate(0)


@pytest.mark.alone
def test_a_removed_class_loses_nothing(pair: Pair) -> None:
    """Its traffic goes on in the default class; what it had queued is sent before it goes."""
    ids = install(pair, policy("200Mbit", leaving="20Mbit 20Mbit", staying="10Mbit"))
    handle = leaf_handle(ids["leaving"])
    stream = pair.stream(5000, class_mark(ids["leaving"]).value)
    # Or Reno would fill the queue now and then until it drops: that would look like what is looked for.
    stream.hold_window(WINDOW)
    stream.goodput(1.0, after=SETTLE)
    sent_again = stream.retransmissions
    assert pair.kernel.counters(DEVICE)[handle].backlog_bytes > 0
    wanted = compile_policy(policy("200Mbit", staying="10Mbit"), features.probe(), ids.evolve(["staying"]))
    report = apply(pair.kernel, DEVICE, wanted)
    assert report.dropped_packets == 0
    assert handle not in pair.kernel.counters(DEVICE)
    stream.goodput(0.2)
    assert stream.retransmissions == sent_again
    stream.hold_window(1 << 20)
    settles_at(stream, "200Mbit", 2.0)


def test_fifos_are_short(pair: Pair) -> None:
    """Four greedy connections in a class of 50 Mbit/s leave a queue of some milliseconds, not of a second."""
    ids = ClassIds.assign(["bulk"])
    variant = VARIANTS["classic bpf and fifo"]
    tree = tree_of(policy("100Mbit", bulk="50Mbit 50Mbit"), variant, ids)
    apply(pair.kernel, DEVICE, tree)
    streams = [pair.stream(5000 + i, class_mark(1).value) for i in range(4)]
    at_once(*(lambda s=s: s.goodput(1.0, after=SETTLE) for s in streams))
    backlog = pair.kernel.counters(DEVICE)[leaf_handle(1)].backlog_bytes
    assert 0 < backlog * 8 / 50e6 < 0.015
