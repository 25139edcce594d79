"""The report of the pages' benchmark."""

from __future__ import annotations

from benchmarks.analysis import Analysis
from benchmarks.report import DOCUMENT
from benchmarks.results import CandidateInfo, Results, Sample
from benchmarks.web.cli import BEGIN, END
from benchmarks.web.figures import ALL, GOALS, LIGHTHOUSE, WEB, collapses, document

MACHINE = dict.fromkeys(("date", "processor", "cpus", "memory", "kernel", "system", "python", "load before"), "x")
SETTINGS = {"rounds": 1, "agents": 10_000, "minutes": 60.0, "chromium": "Chromium 1", "lighthouse": "Lighthouse 12"}


def analysis(value: float, **settings: float) -> Analysis:
    samples = [Sample(1, WEB, measured.name, dict.fromkeys(measured.figures, value)) for measured in ALL]
    about = {WEB: CandidateInfo("the pages", "0")}
    return Analysis(Results(MACHINE, {**SETTINGS, **settings}, about, samples, complete=True))


def test_goals_are_met_or_not() -> None:
    slow = document(analysis(100.0))
    assert "| live: first view, cold, s | ≤ 1.5 | 100 | **not met** |" in slow
    assert "| fleet: main thread, CPU slowed four times, ms/s | ≤ 300 | 100 | met |" in slow
    quick = document(analysis(0.01))
    assert quick.count("**not met**") == 3 * len(LIGHTHOUSE), "scores are the better the more"
    assert quick.count("| met |") == len(GOALS) - 3 * len(LIGHTHOUSE)
    assert "They are for" not in quick
    assert "here were 100 and 60 min" in document(analysis(0.01, agents=100))


def test_only_what_no_busy_machine_explains_is_a_collapse() -> None:
    assert collapses(analysis(0.4)) == []
    assert len(collapses(analysis(500.0))) == 6


def test_the_page_of_benchmarks_has_room_for_it() -> None:
    text = DOCUMENT.read_text()
    assert text.index(BEGIN) < text.index(END)
