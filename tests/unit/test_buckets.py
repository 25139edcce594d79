"""Token buckets for what is received: guarantees, borrowing, priorities, turns, and several processes that share them."""

from __future__ import annotations

import pytest

from datapath.download_limits import ClassLimits, ReceiveLimits
from datapath.shared_counters import CLASSES, SharedCounters
from sidecar.transport.token_bucket import TURN_S, Buckets
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy

FRAMED = 1514 / 1448
SECONDS = 2.0
MBIT = 125_000


def limits(total: float, **classes: tuple[float, float, int]) -> ReceiveLimits:
    """In Mbit/s: of each class rate, ceil and priority."""
    lanes = [
        ClassLimits(name, number, int(rate * MBIT), int(ceil * MBIT), priority)
        for number, (name, (rate, ceil, priority)) in enumerate(classes.items(), 1)
    ]
    return ReceiveLimits(int(total * MBIT), (*lanes, ClassLimits("default", 255, 1000, int(total * MBIT), 7)))


def received(of: ReceiveLimits, *who: str, rows: int = 1) -> dict[str, float]:
    """Mbit/s, as HTB counts them, that greedy connections of these classes get; ``a2`` is another of class ``a``.

    With several ``rows`` the connections take turns in being of one process or another.
    """
    received_counters = SharedCounters(rows)
    crew = [Buckets[str](of, received_counters.row(number)) for number in range(rows)]
    for number, each in enumerate(who):
        buckets = crew[number % rows]
        buckets.wait(buckets.lane(each.rstrip("0123456789")), each)
    got = dict.fromkeys(who, 0)
    for tick in range(1, int(SECONDS / TURN_S) + 1):
        for buckets in crew[tick % rows :] + crew[: tick % rows]:
            for one, size in buckets.turns(tick * TURN_S):
                lane = buckets.lane(one.rstrip("0123456789"))
                buckets.charge(lane, size, tick * TURN_S)
                got[one] += size
                buckets.wait(lane, one)
    return {name: size * FRAMED / SECONDS / MBIT for name, size in got.items()}


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize(("ceil", "total"), [(1, 1000), (10, 1000), (500, 1000), (80, 20)])
def test_a_class_gets_its_ceil_or_the_total(ceil: float, total: float, rows: int) -> None:
    got = received(limits(total, a=(0.5, ceil, 0)), "a", "a2", "a3", rows=rows)
    # A bucket that is full at the beginning is a fortieth of two seconds.
    assert sum(got.values()) == pytest.approx(min(ceil, total), rel=0.06)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_guarantee_holds_against_a_better_priority(rows: int) -> None:
    got = received(limits(50, kept=(30, 50, 7), greedy=(5, 50, 0)), "kept", "greedy", "greedy2", rows=rows)
    assert got["kept"] >= 29
    assert sum(got.values()) == pytest.approx(50, rel=0.06)


def test_what_is_left_goes_by_priority_and_then_by_rate() -> None:
    got = received(limits(50, first=(1, 20, 0), a=(2, 50, 3), b=(4, 50, 3), last=(1, 50, 7)), "first", "a", "b", "last")
    assert got["first"] == pytest.approx(20, rel=0.06)
    assert got["last"] == pytest.approx(1, rel=0.1)
    assert (got["b"] - 4) / (got["a"] - 2) == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("rows", [1, 2])
def test_connections_of_one_class_get_the_same(rows: int) -> None:
    got = received(limits(1000, a=(1, 20, 0)), *(f"a{n}" for n in range(4)), rows=rows)
    assert max(got.values()) <= 1.1 * min(got.values())


def test_who_had_no_use_for_its_share_does_not_get_it_afterwards() -> None:
    buckets = Buckets[str](limits(10, a=(1, 10, 0), b=(1, 10, 0)), SharedCounters().row(0))
    a, b = buckets.lane("a"), buckets.lane("b")

    def run(begin: float, end: float) -> dict[str, int]:
        got = {"a": 0, "b": 0}
        for tick in range(int(begin / TURN_S), int(end / TURN_S)):
            for who, size in buckets.turns(tick * TURN_S):
                got[who] += size
                buckets.charge(buckets.lane(who), size, tick * TURN_S)
                buckets.wait(buckets.lane(who), who)
        return got

    buckets.wait(a, "a")
    assert run(0, 2)["b"] == 0
    buckets.wait(b, "b")
    got = run(2, 3)
    assert got["a"] == pytest.approx(got["b"], rel=0.15)


def test_a_process_that_had_nothing_to_do_shares_at_once() -> None:
    """What another one has received meanwhile was its right, and leaves no debt."""
    of, received_counters = limits(20, a=(5, 20, 0)), SharedCounters(2)
    busy, idle = (Buckets[str](of, received_counters.row(number)) for number in range(2))
    got = {"busy": 0, "idle": 0}

    def turns(buckets: Buckets[str], tick: int) -> None:
        for who, size in buckets.turns(tick * TURN_S):
            got[who] += size
            buckets.charge(buckets.lane("a"), size, tick * TURN_S)
            buckets.wait(buckets.lane("a"), who)

    busy.wait(busy.lane("a"), "busy")
    for tick in range(2500):
        turns(busy, tick)
    assert got["busy"] * FRAMED / 10 / MBIT == pytest.approx(20, rel=0.03)
    got["busy"] = 0
    idle.wait(idle.lane("a"), "idle")
    for tick in range(2500, 2750):
        for buckets in (busy, idle)[:: 1 if tick % 2 else -1]:
            turns(buckets, tick)
    assert sum(got.values()) * FRAMED / MBIT == pytest.approx(20, rel=0.1)
    assert got["idle"] > 0.4 * got["busy"]


def test_who_does_not_wait_goes_at_once_unless_others_do() -> None:
    buckets = Buckets[str](limits(8, a=(1, 8, 0)), SharedCounters().row(0))
    lane = buckets.lane("a")
    now = 100.0
    assert buckets.allowance(lane, now, contended=True) == lane.small_turn
    buckets.charge(lane, 10_000, now)  # more than its own rate has
    assert buckets.allowance(lane, now, contended=True) == 0
    assert buckets.allowance(lane, now, contended=False) == lane.large_turn
    buckets.wait(lane, "before")
    assert buckets.allowance(lane, now, contended=False) == 0
    assert buckets.waits
    assert list(buckets.everybody()) == ["before"]
    assert not buckets.waits


def test_classes_without_limits_are_in_the_default_class() -> None:
    policy = parse_policy(
        "{total: 1Gbit, ingress: {total: 80Mbit}, default: {ingress: {rate: 8Mbit, ceil: 16Mbit}}, classes: ["
        "{name: a, rate: 1Mbit, ingress: {rate: 8Mbit}, match: {host: a.example}},"
        "{name: b, rate: 1Mbit, match: {host: b.example}}]}"
    )
    of = ReceiveLimits.from_policy(policy, ClassIds.assign(["a", "b"]))
    assert of is not None
    assert of.total == 10_000_000
    assert [(each.name, each.class_id, each.rate, each.ceil) for each in of.lanes] == [
        ("a", 1, 1_000_000, 10_000_000),
        ("default", 255, 1_000_000, 2_000_000),
    ]
    buckets = Buckets[str](of, SharedCounters().row(0))
    assert buckets.lane("b") is buckets.lane("default") is buckets.lane(None)
    assert ReceiveLimits.from_policy(parse_policy("total: 1Gbit"), ClassIds.assign([])) is None


def test_however_often_limits_change_no_more_is_received() -> None:
    of = limits(1000, a=(1, 8, 0))
    row = SharedCounters().row(0)
    got = 0
    for tick in range(1, 501):
        now = tick * TURN_S
        buckets = Buckets[str](of, row)
        buckets.wait(buckets.lane("a"), "a")
        for _, size in buckets.turns(now):
            got += size
            buckets.charge(buckets.lane("a"), size, now)
        list(buckets.everybody())
    assert got * FRAMED / 2 / MBIT == pytest.approx(8, rel=0.06)


def test_a_ledger_has_a_row_for_each_and_sums_for_all() -> None:
    received_counters = SharedCounters(3)
    rows = [received_counters.row(number) for number in range(3)]
    for number, row in enumerate(rows, 1):
        row.add(7, 100 * number)
        row.add(CLASSES - 1, number)
    assert (received_counters.total(7), received_counters.total(CLASSES - 1), received_counters.total(8)) == (600, 6, 0)
    assert rows[0].times is rows[1].times
    rows[2].clear(7)
    assert (received_counters.total(7), received_counters.total(CLASSES - 1)) == (300, 6)
    with pytest.raises(ValueError, match="3 rows"):
        received_counters.row(3)
