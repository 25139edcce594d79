"""Which two readings of counters a rate is made of."""

from __future__ import annotations

import pytest

from tc_core.sampling import RateMeter, Window
from tc_core.stats import ClassStats, grown
from traffic_policy.units import Rate


def test_a_rate_is_a_mean_over_enough_time() -> None:
    meter: RateMeter[str] = RateMeter(0.5)
    assert meter.read({"a": ClassStats(bytes=1000)}, 0.0) == {}
    assert meter.read({"a": ClassStats(bytes=9000)}, 0.4) == {}
    assert meter.read({"a": ClassStats(bytes=2000), "b": ClassStats(bytes=500)}, 1.0) == {
        "a": Rate(8000),
        "b": Rate(4000),
    }
    assert meter.read({"a": ClassStats(bytes=9000)}, 1.4) == {"a": Rate(8000), "b": Rate(4000)}
    assert meter.read({"a": ClassStats(bytes=4000)}, 1.5) == {"a": Rate(32000)}


def test_a_counter_that_has_fallen_was_made_anew() -> None:
    assert [grown(5, 9), grown(5, 5), grown(9, 5)] == [4, 0, 5]


def test_a_window_is_bounded_and_knows_what_was_before() -> None:
    window: Window[str] = Window(2.0)
    with pytest.raises(IndexError):
        _ = window.latest
    for at in range(10):
        window.add(float(at), f"r{at}")
    assert (len(window), window.latest) == (3, "r9")
    assert [window.before(seconds) for seconds in (0.0, 0.5, 1.0, 2.0, 99.0)] == ["r9", "r8", "r8", "r7", "r7"]
    assert list(window.last(1.5)) == ["r8", "r9"]
    window.add(9.0, "the same time")
    assert window.latest == "r9"
    window.add(3.0, "a clock set back")
    assert (len(window), window.before(1.0)) == (1, "a clock set back")


def test_two_readings_are_kept_however_far_apart() -> None:
    window: Window[int] = Window(1.0)
    window.add(0.0, 1)
    window.add(60.0, 2)
    assert (window.before(1.0), window.latest) == (1, 2)
