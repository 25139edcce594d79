"""The report of the agent's benchmark."""

from __future__ import annotations

from benchmarks.agent.figures import AGENT, ALL, collapses, document
from benchmarks.analysis import Analysis
from benchmarks.results import CandidateInfo, Results, Sample

MACHINE = dict.fromkeys(("date", "processor", "cpus", "memory", "kernel", "system", "python", "load before"), "x")
SETTINGS = {"rounds": 1, "workloads": 250, "seconds": 30.0, "coming": 200, "rate": 20.0}


def analysis(value: float) -> Analysis:
    samples = [Sample(1, AGENT, measured.name, dict.fromkeys(measured.figures, value)) for measured in ALL]
    return Analysis(Results(MACHINE, SETTINGS, {AGENT: CandidateInfo("the node's agent", "0")}, samples, complete=True))


def test_goals_are_met_or_not() -> None:
    tables = document(analysis(0.5))
    assert "| all adopted after SIGKILL, s | ≤ 1 | 0.5 | met |" in tables
    assert "| none has traffic: CPU, of one core, % | 0.5 |" in tables
    assert "went wrong" not in tables
    assert document(analysis(200.0)).count("**not met**") == 4


def test_only_what_no_busy_machine_explains_is_a_collapse() -> None:
    assert collapses(analysis(20.0)) == []
    assert collapses(analysis(20_000.0)) == [
        "all but one named at once: CPU for each, its programs included is 20,000 ms.",
        "none has traffic: CPU, of one core is 20,000 %.",
        "namespaces that come at a rate: from the namespace to its lanes, p99 is 20,000 ms.",
    ]
