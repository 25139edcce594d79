"""Budgets of bytes: when their time begins and ends, and which lanes they are about."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidError
from control_plane.domain.volume_budget import DAY, BudgetPeriod, BudgetUse, LaneVolume, VolumeBudget

VOLUMES = [
    LaneVolume("web", "page", "egress", 100, 10),
    LaneVolume("web", "page", "ingress", 200, 20),
    LaneVolume("web", "backup", "egress", 400, 40),
    LaneVolume("", "other", "egress", 800, 80),
]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "begins", "ends"),
    [
        ("2026-01-31T23:59:59", "2026-01-01", "2026-02-01"),
        ("2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("2026-12-01T00:00:00", "2026-12-01", "2027-01-01"),
        ("2026-11-30T00:00:00", "2026-11-01", "2026-12-01"),
    ],
)
def test_a_month_is_that_of_the_calendar(now: str, begins: str, ends: str) -> None:
    assert BudgetPeriod.MONTH.first_day(at(now)) * DAY == at(begins)
    assert BudgetPeriod.MONTH.end(at(now)) == at(ends)


@given(st.integers(0, 2**32), st.sampled_from(BudgetPeriod))
def test_now_is_in_its_period_and_the_next_follows(now: int, period: BudgetPeriod) -> None:
    end = period.end(now)
    assert period.first_day(now) * DAY <= now < end
    assert period.first_day(end) * DAY == end
    assert period.first_day(end - 1) == period.first_day(now)


@pytest.mark.parametrize(
    ("scope", "used"),
    [
        ({}, 1500),
        ({"policy": "web"}, 700),
        ({"policy": "web", "lane": "page"}, 300),
        ({"lane": "page", "direction": "egress"}, 100),
        ({"direction": "ingress"}, 200),
        ({"policy": "shop"}, 0),
        ({"period": BudgetPeriod.DAY}, 150),
        ({"period": BudgetPeriod.DAY, "lane": "backup"}, 40),
    ],
)
def test_a_budget_is_about_what_it_names(scope: dict[str, str], used: int) -> None:
    budget = VolumeBudget(1000, **scope)
    assert budget.used(VOLUMES) == used
    assert VolumeBudget.from_document(budget.to_document()) == budget


@pytest.mark.parametrize(
    ("used", "now", "used_up"),
    [
        (250, 1000 + 100, 1000 + 400),
        (300, 1000 + 100, 1000 + 334),
        (999, 1000, 1000 + 2),
        (100, 1000 + 100, None),
        (99, 1000 + 100, None),
        (0, 1000 + 100, None),
        (1000, 1000 + 100, None),
        (5000, 1000 + 100, None),
    ],
)
def test_a_budget_says_when_it_is_used_up_if_that_is_before_its_period_ends(
    used: int, now: int, used_up: int | None
) -> None:
    assert BudgetUse(VolumeBudget(1000), used, 1000, now, 2000).used_up == used_up


@pytest.mark.parametrize(
    "wrong", [{"bytes": 0}, {"bytes": 2**53}, {"bytes": 1, "direction": "up"}, {"bytes": 1, "lane": "x" * 64}]
)
def test_what_is_no_budget_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        VolumeBudget(**wrong)
