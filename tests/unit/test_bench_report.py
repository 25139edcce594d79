"""Samples to medians, ratios, verdicts, tables, plots and the published document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.analysis import Analysis
from benchmarks.errors import BenchmarkError
from benchmarks.goals import ASIDE, ENVOY, GOALS, HAPROXY, RELAY, collapses
from benchmarks.results import CandidateInfo, Results, Sample, load
from benchmarks.tables import document, number

MACHINE = {
    "date": "2026-01-02 03:04 UTC", "processor": "a CPU", "cpus": "2", "memory": "8 GiB", "kernel": "6.18",
    "system": "Debian", "load before": "0.0 0.0 0.0", "wrk": "wrk 4.1.0",
}  # fmt: skip


def conn(candidate: str, rounds: list[float], *, p99: float = 1000.0, errors: int = 0) -> list[Sample]:
    return [
        Sample(number, candidate, "conn", {"per_s": value, "cpu_per_1000": 0.05, "p99_us": p99}, errors)
        for number, value in enumerate(rounds, 1)
    ]


def results(*samples: list[Sample], missing: str | None = None) -> Results:
    names = {"direct": "direct", HAPROXY: "HAProxy, splice", ENVOY: "Envoy tcp_proxy", RELAY: "Podlane relay"}
    made = Results(MACHINE, {"rounds": 3, "seconds": 3})
    made.candidates = {name: CandidateInfo(title, "1.0") for name, title in names.items()}
    made.candidates[ASIDE] = CandidateInfo("Podlane step aside", "", missing or "not in this version")
    made.samples = [sample for group in samples for sample in group]
    made.complete = True
    return made


GOOD = results(conn(RELAY, [900, 1000, 5000]), conn(HAPROXY, [1000, 1200, 1400]), conn(ENVOY, [500, 500, 500]))


def test_medians_and_ratios() -> None:
    analysis = Analysis(GOOD)
    spread = analysis.spread("conn", "per_s", RELAY)
    assert spread is not None
    assert (spread.low, spread.median, spread.high) == (900, 1000, 5000)  # one lucky round does not decide
    assert analysis.ratio("conn", "per_s", RELAY, HAPROXY) == pytest.approx(1000 / 1200)
    assert analysis.ratio("conn", "per_s", RELAY, ASIDE) is None
    assert analysis.ratio("bulk-up-1", "gbit_s", RELAY, HAPROXY) is None


def test_goals_are_met_not_met_or_not_measured() -> None:
    analysis = Analysis(GOOD)
    verdicts = {(g.candidate, g.metric, g.figure, g.peer): g.met(analysis) for g in GOALS}
    assert verdicts[RELAY, "conn", "per_s", ENVOY] is True  # 2.0, wanted 1.8
    assert verdicts[RELAY, "conn", "per_s", HAPROXY] is True  # 0.83, wanted 0.8
    assert verdicts[RELAY, "conn", "cpu_per_1000", ENVOY] is False  # 1.0, wanted at most 0.55
    assert verdicts[RELAY, "conn", "p99_us", HAPROXY] is True
    assert verdicts[ASIDE, "conn", "per_s", HAPROXY] is None


def test_a_goal_without_peer_is_the_figure_itself() -> None:
    idle = [Sample(1, RELAY, "memory", {"mib_per_1000": 1.2})]
    goal = next(g for g in GOALS if g.candidate == RELAY and g.metric == "memory")
    assert goal.met(Analysis(results(idle))) is False


def test_nothing_has_collapsed_in_a_good_run() -> None:
    assert collapses(Analysis(GOOD)) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (results(conn(RELAY, [100, 200]), conn(HAPROXY, [1000, 1000])), "connections/s are 0.20 of haproxy's"),
        (results(conn(RELAY, [1000], errors=7), conn(HAPROXY, [1000])), "7 errors in conn"),
        (results([Sample(1, RELAY, "conn", {}, 1, "it died")], conn(HAPROXY, [1000])), "gave no figure: it died"),
        (results(conn(RELAY, [1000])), "nothing to compare with"),
    ],
)
def test_a_collapse_is_named(bad: Results, words: str) -> None:
    assert any(words in line for line in collapses(Analysis(bad)))


def test_errors_of_peers_are_no_collapse() -> None:
    assert collapses(Analysis(results(conn(RELAY, [900]), conn(HAPROXY, [1000], errors=3)))) == []


def test_one_good_round_is_no_collapse() -> None:
    assert collapses(Analysis(results(conn(RELAY, [10, 900]), conn(HAPROXY, [1000, 1000])))) == []


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    GOOD.write(path)
    assert load(path) == GOOD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"results\.json"):
        load(path)


def test_the_report_leaves_nothing_out() -> None:
    made = results(conn(RELAY, [900]), [Sample(1, HAPROXY, "conn", {}, 1, "it said no")], conn(ENVOY, [500], errors=4))
    made.not_applicable = {"conn-tls": ["envoy-tcp"]}
    text = document(Analysis(made))
    assert "Podlane step aside: not available. not in this version" in text
    assert "HAProxy, splice, conn: it said no" in text
    assert "Envoy tcp_proxy, conn: 4 errors" in text
    assert "Envoy tcp_proxy cannot do: conn-tls" in text
    assert "| connections/s | Podlane relay | Envoy tcp_proxy | ≥ 1.8 | 1.8 | met |" in text
    assert "interrupted" not in text


def test_an_interrupted_run_says_so() -> None:
    made = results(conn(RELAY, [900]))
    made.complete = False
    assert "**The run was interrupted.**" in document(Analysis(made))
    with pytest.raises(BenchmarkError, match="interrupted"):
        report.publish(made, Path("/nowhere"))


def test_tables_are_well_formed() -> None:
    for block in document(Analysis(GOOD)).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.0, "0"), (1234.5, "1,234"), (23.456, "23.5"), (0.000237, "0.000237"),
        (0.00000237, "0.000002"), (0.00000001, "0"), (1.0, "1"), (999.6, "1,000"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_publishing_replaces_what_is_between_the_markers() -> None:
    text = f"# Title\n\nbefore\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.published(text, "### New\n", ["images/benchmark-overview.svg"])
    assert once.startswith("# Title\n\nbefore\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert "![overview](images/benchmark-overview.svg)" in once
    assert report.published(once, "### New\n", ["images/benchmark-overview.svg"]) == once
    with pytest.raises(BenchmarkError, match="no lines"):
        report.published("nothing here", "x", [])


def test_the_document_has_the_markers() -> None:
    text = report.DOCUMENT.read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_plots_are_drawn_and_published(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run, docs = tmp_path / "run", tmp_path / "docs"
    run.mkdir()
    docs.mkdir()
    load_samples = [
        Sample(1, RELAY, "under-load-50", {f"{where}_p{p}_ms": value for where in ("inside", "beside")
                                           for p, value in ((50, 1.0), (99, 3.0))}),
        *(Sample(1, RELAY, f"growth-connections-{n}", {"per_s": 1000 / n, "p99_us": n}) for n in (1, 10)),
    ]  # fmt: skip
    made = results(conn(RELAY, [900, 950]), conn(HAPROXY, [1000]), load_samples)
    files = report.write(made, run)
    assert {f.name for f in files} == {"results.json", "results.md", "overview.svg", "under-load.svg", "growth.svg"}
    assert (run / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert "Podlane" in (run / "results.md").read_text()
    target = docs / "benchmarks.md"
    target.write_text(f"x\n{report.BEGIN}\n{report.END}\n")
    changed = report.publish(made, run, target)
    assert target in changed
    assert "images/benchmark-growth.svg" in target.read_text()
    assert (docs / "images" / "benchmark-under-load.svg").exists()
