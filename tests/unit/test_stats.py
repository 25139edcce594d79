"""Rates from counters."""

from __future__ import annotations

import pytest

from tc_core.handles import Handle
from tc_core.stats import ClassStats, rate_between, rates, with_leaf_drops
from traffic_policy.units import Rate

A, B = Handle(1, 0x101), Handle(1, 0x102)


@pytest.mark.parametrize(
    ("before", "after", "seconds", "expected"),
    [
        pytest.param(0, 125_000, 1.0, 1_000_000, id="bytes become bits"),
        pytest.param(1000, 1000, 2.0, 0, id="idle"),
        pytest.param(1000, 2000, 0.5, 16_000, id="parts of a second"),
        pytest.param(10**15, 10**15 + 10, 1.0, 80, id="beyond 32 bits"),
        pytest.param(5000, 1000, 1.0, 8_000, id="a class made anew counts from nothing"),
    ],
)
def test_rate_between(before: int, after: int, seconds: float, expected: int) -> None:
    assert rate_between(ClassStats(bytes=before), ClassStats(bytes=after), seconds) == Rate(expected)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_readings_must_be_apart(seconds: float) -> None:
    with pytest.raises(ValueError, match="apart"):
        rate_between(ClassStats(), ClassStats(), seconds)


def test_a_new_class_counts_and_a_removed_one_is_gone() -> None:
    before = {A: ClassStats(bytes=100)}
    after = {B: ClassStats(bytes=50)}
    assert rates(before, after, 1.0) == {B: Rate(400)}


@pytest.mark.parametrize(("of_class", "of_leaf", "expected"), [
    pytest.param(3, 5, 5, id="the queue dropped what it had accepted"),
    pytest.param(5, 3, 5, id="the queue was replaced and counts anew"),
    pytest.param(4, 4, 4, id="a fifo's refusals are not counted twice"),
])  # fmt: skip
def test_drops_of_class_and_queue(of_class: int, of_leaf: int, expected: int) -> None:
    stats = ClassStats(bytes=7, drops=of_class)
    assert with_leaf_drops(stats, of_leaf) == ClassStats(bytes=7, drops=expected)
