"""The report of the fleet's benchmark, and what its agents note."""

from __future__ import annotations

import json

import pytest

from benchmarks.analysis import Analysis
from benchmarks.fleet.agents import FAILING, Ledger, fails
from benchmarks.fleet.figures import ALL, FLEET, GOALS, collapses, document
from benchmarks.results import CandidateInfo, Results, Sample
from fleet_api.desired import DesiredState, FleetPolicy

MACHINE = dict.fromkeys(("date", "processor", "cpus", "memory", "kernel", "system", "python", "load before"), "x")
SETTINGS = {
    "rounds": 1, "agents": 10_000, "changes": 5, "seconds": 10.0, "database": "sqlite", "control_plane_cpus": "0",
    "agents_cpus": "1",
}  # fmt: skip


def analysis(value: float) -> Analysis:
    samples = [Sample(1, FLEET, measured.name, dict.fromkeys(measured.figures, value)) for measured in ALL]
    return Analysis(Results(MACHINE, SETTINGS, {FLEET: CandidateInfo("x", "0")}, samples, complete=True))


def test_goals_are_met_or_not() -> None:
    tables = document(analysis(0.5))
    assert "| back and in sync after a restart, s | ≤ 30 | 0.5 | met |" in tables
    assert tables.count("**not met**") == 2, "0.5 commands a second are too few"
    assert "agents: 10,000" in tables
    assert "went wrong" not in tables
    assert document(analysis(2000.0)).count("**not met**") == len(GOALS) - 2


def test_only_what_no_busy_machine_explains_is_a_collapse() -> None:
    assert collapses(analysis(50.0)) == []
    assert len(collapses(analysis(1000.0))) == 3


def test_a_ledger_says_when_agents_had_a_revision() -> None:
    ledger = Ledger()
    for number in range(100):
        ledger.applied(7, 10.0 + number / 100)
    ledger.applied(8, 20.0)
    assert ledger.revisions()[7] == {
        "count": 100,
        "p50": pytest.approx(10.49),
        "p99": pytest.approx(10.98),
        "last": 10.99,
    }
    ledger.applied(7, 12.0)
    assert ledger.revisions()[7]["last"] == 12.0
    for revision in range(100, 200):
        ledger.applied(revision, 30.0)
    assert 7 not in ledger.revisions(), "it forgets what is old"


def test_one_of_a_hundred_agents_fails_when_asked_to() -> None:
    ledger = Ledger()
    state = DesiredState(7, {"web": FleetPolicy("web", 1, json.dumps({"total": FAILING}), {})})
    assert fails(ledger, "simulated-00002", state) is None
    failure = fails(ledger, "simulated-00101", state)
    assert failure is not None
    assert failure.policy == "web"
    first = ledger.failed[7]
    fails(ledger, "simulated-00001", state)
    assert ledger.failed == {7: first}
    assert fails(ledger, "simulated-00101", DesiredState()) is None
