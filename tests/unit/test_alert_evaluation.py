"""When a rule's alerts fire and are over, whatever its values do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.alert_evaluation import CALM, STALE, AlertReading, LaneTotals, RuleWatch, alert_id
from control_plane.domain.alert_rules import AlertKind, AlertRule, render
from control_plane.domain.commands import FireAlert, ResolveAlert

LABELS = {"cluster": "east"}
ID = alert_id("away", LABELS)


def seconds(values: list[float | None], rule: AlertRule, *, fired: bool = False) -> list[tuple[int, str]]:
    """What happens when; None: there is no value. ``fired``: it did before all this."""
    watch = RuleWatch("shop", "away", rule)
    firing = {ID} if fired else set()
    happened = []
    for now, value in enumerate(values, 1000):
        readings = [] if value is None else [AlertReading(LABELS, value)]
        for command in watch.step(readings, frozenset(firing), now):
            assert isinstance(command, FireAlert | ResolveAlert)
            happened.append((now - 1000, type(command).__name__))
            firing ^= {command.alert}
    return happened


def away(hold: int = 0) -> AlertRule:
    return AlertRule(AlertKind.AGENTS_AWAY, 0.5, hold=hold)


def test_it_fires_after_its_time_and_once() -> None:
    assert seconds([0.9] * 100, away(10)) == [(10, "FireAlert")]
    assert seconds([0.9] * 10 + [0.1] + [0.9] * 10, away(10)) == []
    assert seconds([0.9] * 10, away()) == [(0, "FireAlert")]
    assert seconds([0.5] * 10, away()) == [], "what is at the threshold is not beyond it"


def test_it_is_over_when_it_was_good_for_a_while() -> None:
    assert seconds([0.9] + [0.1] * (CALM + 1), away()) == [(0, "FireAlert"), (CALM + 1, "ResolveAlert")]
    flapping = [0.9, 0.1] * 100
    assert seconds(flapping, away()) == [(0, "FireAlert")]


def test_what_fired_before_does_not_fire_again() -> None:
    assert seconds([0.9] * 100, away(), fired=True) == []
    assert seconds([0.1] * (CALM + 1), away(), fired=True) == [(CALM, "ResolveAlert")]
    assert seconds([None] * (STALE + 1), away(), fired=True) == [(STALE, "ResolveAlert")]
    assert seconds([None] * (STALE - 1) + [0.9] * 10, away(), fired=True) == []


def test_less_is_worse_for_certificates() -> None:
    rule = AlertRule(AlertKind.CERTIFICATE_EXPIRY, 3600)
    assert seconds([3601, 3600, 3599], rule) == [(2, "FireAlert")]


@given(
    st.lists(st.one_of(st.none(), st.sampled_from([0.1, 0.9])), max_size=400),
    st.integers(0, 20),
    st.booleans(),
)
def test_in_turn_and_never_too_early(values: list[float | None], hold: int, fired: bool) -> None:
    happened = seconds(values, away(hold), fired=fired)
    kinds = [kind for _, kind in happened]
    first = "ResolveAlert" if fired else "FireAlert"
    other = {"FireAlert": "ResolveAlert", "ResolveAlert": "FireAlert"}
    assert kinds == [first if number % 2 == 0 else other[first] for number in range(len(kinds))]
    for at, kind in happened:
        if kind == "FireAlert":
            assert values[at - hold : at + 1] == [0.9] * (hold + 1)
        else:
            since = values[max(0, at - CALM) : at + 1]
            assert 0.9 not in since


def test_values_of_lanes() -> None:
    busy = LaneTotals(bytes=1000, packets=1000, dropped=250, overlimits=400, ceil=16_000, below=3, heard=6)
    assert busy.value(AlertKind.THROTTLED) == 0.4
    assert busy.value(AlertKind.DROPPED) == 0.2
    assert busy.value(AlertKind.BUDGET) == 0.5
    assert busy.value(AlertKind.BELOW_GUARANTEE) == 0.5
    assert {LaneTotals().value(kind) for kind in AlertKind if kind.of_traffic} == {0.0}


def test_templates() -> None:
    assert (
        render("{{ class }}/{{direction}}: {{ value }}, {{ cluster }}", {"class": "web", "value": "4"}) == "web/: 4, "
    )
    assert render("{{ class }}", {"class": "{{ value }}", "value": "4"}) == "{{ value }}"
