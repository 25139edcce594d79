"""Rates from counters, and ids over a policy change that is taken back."""

from __future__ import annotations

import pytest

from sidecar.shaping import Shaping
from tc_core.capability import ALL_FEATURES
from tc_core.compile import leaf_handle
from tc_core.fake import FakeKernel
from tc_core.policy_file import parse_policy
from tc_core.reconcile import ApplyError
from tc_core.stats import ClassStats
from tc_core.units import Rate

ONE = parse_policy("total: 100Mbit\nclasses: [{name: one, rate: 1Mbit, match: {port: 80}}]")
TWO = parse_policy("total: 100Mbit\nclasses: [{name: two, rate: 1Mbit, match: {port: 80}}]")


def shaped(kernel: FakeKernel) -> Shaping:
    shaping = Shaping(kernel, "eth0", ALL_FEATURES, replace=False)
    shaping.apply(ONE, shaping.ids_for(ONE))
    return shaping


def sample(kernel: FakeKernel, shaping: Shaping, *, at: float, sent: int) -> tuple[Rate, Rate]:
    """The current and the peak rate of class one after a sample."""
    kernel.count(leaf_handle(shaping.ids["one"]), ClassStats(bytes=sent))
    shaping.sample(at)
    one = shaping.snapshots[0]
    assert (one.name, one.stats.bytes) == ("one", sent)
    return one.current_rate, one.peak_rate


def test_a_rate_is_never_the_mean_of_an_instant() -> None:
    """A GSO packet within three milliseconds would look like 175 Mbit/s, and be the peak for ever."""
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    assert sample(kernel, shaping, at=0.0, sent=0) == (Rate(0), Rate(0))
    assert sample(kernel, shaping, at=0.003, sent=65_536) == (Rate(0), Rate(0))
    assert sample(kernel, shaping, at=1.0, sent=125_000) == (Rate(1_000_000), Rate(1_000_000))
    assert sample(kernel, shaping, at=1.003, sent=190_536) == (Rate(1_000_000), Rate(1_000_000))
    assert sample(kernel, shaping, at=2.0, sent=190_536) == (Rate(524_288), Rate(1_000_000))


def test_a_change_that_is_taken_back_gives_the_old_ids_back() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    before, state = shaping.ids, kernel.observe("eth0")
    shaping.apply(TWO, shaping.ids_for(TWO))
    assert shaping.ids["two"] != before["one"]
    shaping.apply(ONE, before)
    assert shaping.ids is before
    assert kernel.observe("eth0") == state


def test_a_change_that_fails_does_not_count() -> None:
    kernel = FakeKernel("eth0")
    shaping = shaped(kernel)
    before = shaping.ids
    kernel.fail_at(1)
    with pytest.raises(ApplyError):
        shaping.apply(TWO, shaping.ids_for(TWO))
    assert shaping.ids is before
    shaping.apply(ONE, before)
    assert shaping.apply(ONE, before).done == ()
