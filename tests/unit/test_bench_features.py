"""What features cost: who is measured when, with which policy, and the table, the picture and the document."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import report as comparison
from benchmarks.analysis import Analysis
from benchmarks.candidates.haproxy import inbound_configuration
from benchmarks.candidates.podlane import PodlaneRelay
from benchmarks.cli import main
from benchmarks.errors import BenchmarkError
from benchmarks.features import cli, report
from benchmarks.features.catalogue import FEATURES, OFF, Feature, choose, plan
from benchmarks.features.report import BEGIN, END, costs, document
from benchmarks.metrics import METRICS
from benchmarks.policies import wide
from benchmarks.results import CandidateInfo, Results, Sample
from traffic_policy.policy import Bound, Requests
from traffic_policy.policy_file import policy_from_document

MACHINE = {
    "date": "2026-01-02 03:04 UTC", "processor": "a CPU", "cpus": "2", "memory": "8 GiB", "kernel": "6.18",
    "system": "Debian", "load before": "0.0 0.0 0.0",
}  # fmt: skip
SETTINGS = {"rounds": 3, "seconds": 3, "command": "make bench BENCH_ARGS=features"}


def samples(name: str, metric: str, key: str, values: list[float], errors: int = 0) -> list[Sample]:
    return [Sample(number, name, metric, {key: value}, errors) for number, value in enumerate(values, 1)]


def results(*groups: list[Sample]) -> Results:
    made = Results(MACHINE, SETTINGS)
    made.candidates = {
        feature.label(side): CandidateInfo(candidate.title, "1.0")
        for feature in FEATURES.values()
        for side, candidate in feature.sides.items()
    }
    made.samples = [sample for group in groups for sample in group]
    made.complete = True
    return made


SLOWER = results(
    samples("requests/off", "conn", "per_s", [900, 1000, 5000]),
    samples("requests/follow", "conn", "per_s", [800, 850, 900]),
    samples("requests/off", "conn", "cpu_per_1000", [0.10, 0.10, 0.11]),
    samples("requests/follow", "conn", "cpu_per_1000", [0.12, 0.12, 0.13]),
    samples("downloads/off", "bulk-down-1", "busy_per_gib", [0.0, 0.0, 0.0]),
    samples("downloads/total", "bulk-down-1", "busy_per_gib", [0.5, 0.5, 0.5], errors=2),
)


def sides_of(feature: Feature, number: int) -> list[str]:
    return [turn.name for turn in plan([feature], number) if turn.metrics[0] is feature.metrics[0]]


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_off_and_on_take_turns(feature: Feature) -> None:
    present = [side for side, candidate in feature.sides.items() if not candidate.missing()]
    assert sides_of(feature, 3) == [feature.label(side) for side in present] * 3
    assert [turn.round for turn in plan([feature], 3)] == sorted(turn.round for turn in plan([feature], 3))
    for turn in plan([feature], 1):
        assert {metric.policy for metric in turn.metrics} == {turn.policy}


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_both_sides_can_do_all_that_is_measured(feature: Feature) -> None:
    """But memory, which takes a process."""
    for candidate in feature.sides.values():
        assert all(metric.needs <= candidate.abilities for metric in feature.metrics)
    assert all(feature.figures(metric) for metric in feature.metrics)


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_off_and_on_differ_in_what_they_run_with(feature: Feature) -> None:
    def runs_with(candidate: object, policy: object) -> object:
        if not isinstance(candidate, PodlaneRelay):
            return type(candidate)
        return candidate.document(policy), candidate.options  # type: ignore[arg-type]

    policy = feature.metrics[0].policy
    assert len({repr(runs_with(candidate, policy)) for candidate in feature.sides.values()}) == len(feature.sides)


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_every_policy_is_valid_and_says_what_the_feature_is(feature: Feature) -> None:
    for side, candidate in feature.sides.items():
        if not isinstance(candidate, PodlaneRelay):
            continue
        for metric in feature.metrics:
            policy = policy_from_document(candidate.document(metric.policy), source=side)
            limits = feature.name.startswith("downloads") and side != OFF
            assert (policy.ingress is not None) == limits
            assert all((c.ingress is not None) == (limits and side == "classes") for c in policy.classes)
            assert (policy.requests is Requests.FOLLOW) == (side == "follow")
            directions = {match.direction for c in policy.classes for match in c.match}
            assert directions == {Bound.INBOUND if feature.name == "inbound" else Bound.OUTBOUND}
            by_name = {match.needs_content for c in policy.classes for match in c.match}
            assert by_name == {feature.name != "downloads-by-port"}


def test_haproxy_marks_answers_and_connects_as_the_client() -> None:
    policy = wide(3)
    text = inbound_configuration(policy, ["splice-auto"])
    assert "bind 127.0.0.1:15106 transparent" in text
    assert "source 0.0.0.0 usesrc client\n" in text
    marks = dict(re.findall(r"set-mark (0x[0-9a-f]+) if { req.ssl_sni -i (\S+) }", text))
    assert {int(mark, 16): host for mark, host in marks.items()} == {
        policy.mark(c.name): c.host for c in policy.classes
    }


def test_names_choose_features() -> None:
    assert [feature.name for feature in choose(["watch", "inbound"])] == ["inbound", "watch"]
    assert choose([]) == list(FEATURES.values())
    with pytest.raises(BenchmarkError, match=r"no feature speed.*inbound"):
        choose(["speed"])


def test_costs_are_ratios_of_medians() -> None:
    found = {(c.feature.name, c.side, c.title): c for c in costs(Analysis(SLOWER))}
    rate = found["requests", "follow", "new connections, connections/s"]
    assert rate.ratio == pytest.approx(0.85)
    assert rate.rounds == pytest.approx([800 / 900, 0.85, 0.18])
    assert found["requests", "follow", "new connections: CPU per 1,000 connections, s"].ratio == pytest.approx(1.2)
    assert found["downloads", "total", "bulk down, 1 stream: whole machine per GiB, s"].ratio is None


def test_the_table_names_each_feature_once_and_leaves_nothing_out() -> None:
    made = replace(SLOWER, samples=[*SLOWER.samples, Sample(1, "watch/off", "conn", {}, 1, "it said no")])
    made.candidates["inbound/HAProxy"] = CandidateInfo("HAProxy", "", "Install it")
    text = document(made)
    assert text.count("`requests: follow`") == 1
    assert "| new connections, connections/s | more | 1,000 (900–5,000) | 850 (800–900) | 0.85 |" in text
    assert "watch/off, conn: it said no" in text
    assert "downloads/total, bulk-down-1: 6 errors" in text
    assert "inbound/HAProxy: not available. Install it" in text
    assert "interrupted" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "**The run was interrupted.**" in document(replace(SLOWER, complete=False))


def test_the_picture_has_worse_on_the_left(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.features.plot import goodness

    files = report.write(SLOWER, tmp_path, "results.json", "results.md")
    assert [file.name for file in files] == ["results.json", "results.md", "features.svg"]
    assert (tmp_path / "features.png").read_bytes().startswith(b"\x89PNG")
    assert [goodness(cost, cost.ratio) < 1 for cost in costs(Analysis(SLOWER)) if cost.ratio] == [True, True]


def test_publishing_fills_in_its_own_place_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    target.write_text(f"a\n{comparison.BEGIN}\nkept\n{comparison.END}\n{BEGIN}\nold\n{END}\nb\n")
    assert cli._publish(SLOWER, tmp_path, target) == [target]
    text = target.read_text()
    assert "kept" in text
    assert "old" not in text
    assert "0.85" in text
    with pytest.raises(BenchmarkError, match="interrupted"):
        cli._publish(replace(SLOWER, complete=False), tmp_path, target)


def test_the_document_has_the_markers() -> None:
    text = comparison.DOCUMENT.read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def test_it_is_a_command_that_lists_the_features() -> None:
    said = CliRunner().invoke(main, ["features", "--help"]).output
    assert all(name in said for name in FEATURES)


def test_metrics_of_the_comparison_are_not_changed_by_those_of_features() -> None:
    assert not [metric for metric in METRICS.values() if metric.policy.inbound]
