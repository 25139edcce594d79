"""The benchmark of admission: when requests are due, what is made of their times, patches, tables."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from click.testing import CliRunner

from benchmarks.admission import reviews
from benchmarks.admission.figures import FLAT_OUT, INJECTOR, LOADS, MEMORY, PACED, PATCH, choose, collapses, document
from benchmarks.admission.load import due_times, percentile
from benchmarks.admission.run import patched
from benchmarks.analysis import Analysis
from benchmarks.cli import main
from benchmarks.errors import MeasurementError
from benchmarks.results import Results, Sample
from injector.admission import mutate, validate
from injector.defaults import InjectionDefaults

MACHINE = dict.fromkeys(("date", "processor", "cpus", "memory", "kernel", "system", "python", "load before"), "x")
SETTINGS = {"rounds": 2, "seconds": 30.0, "rate": 200.0, "precedence": False}


def nobody(_namespace: str, name: str) -> str | None:
    raise AssertionError(f"no shared policy is named, but {name} was asked for")


def results(p99: float = 4.0, reached: float = 200.0, errors: int = 0) -> Analysis:
    paced = {**dict.fromkeys(PACED.figures, 1.0), "p99_ms": p99, "per_s": reached}
    samples = [
        Sample(number, name, measured.name, values, errors if measured is PACED else 0)
        for number in (1, 2)
        for name, measured, values in (
            ("reviews", PACED, {**paced, "p99_ms": p99 * number}),
            ("reviews", FLAT_OUT, dict.fromkeys(FLAT_OUT.figures, 700.0)),
            (INJECTOR, MEMORY, dict.fromkeys(MEMORY.figures, 70.0)),
            ("plain", PATCH, {"review": 3353.0, "patch": 1816.0}),
        )
    ]
    return Analysis(Results(MACHINE, SETTINGS, {}, samples, complete=True))


def test_requests_are_due_at_the_rate_at_times_that_are_always_the_same() -> None:
    times = due_times(200, 30)
    assert times == due_times(200, 30)
    assert len(times) == 6000
    assert times[-1] == pytest.approx(30, rel=0.05)
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    assert gaps[0] > 0
    assert gaps[len(gaps) // 2] == pytest.approx(0.693 / 200, rel=0.1)  # independent arrivals: ln 2 of the mean
    assert len(due_times(1, 0.1)) == 1


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)], ids=lambda v: str(v)
)
def test_percentiles_are_nearest_rank(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value
    assert percentile([], share) == 0


def test_each_pod_is_injected_and_then_valid() -> None:
    defaults = InjectionDefaults()
    for pod in reviews.pods().values():
        question = reviews.mutation(pod)
        response = mutate(json.loads(question.body), defaults, nobody)["response"]
        assert response["allowed"] and "patch" in response and "warnings" not in response  # noqa: PT018
    left = reviews.mutation(reviews.untouched())
    for webhook in (mutate, validate):
        response = webhook(json.loads(left.body), defaults, nobody)["response"]
        assert (response["allowed"], "patch" in response) == (True, False)


def test_each_request_has_a_uid_of_its_own_that_its_answer_must_have() -> None:
    question = reviews.mutation(reviews.untouched())
    (first, one), (second, two) = question.numbered(1), question.numbered(2)
    assert len(first) == len(second) == len(question.body)
    assert json.loads(first)["request"]["uid"].encode() == one != two
    said = b'{"patch":"","uid":"' + one + b'"}'
    assert question.answers(200, said, one)
    assert not question.answers(200, said, two)
    assert not question.answers(500, said, one)
    assert not question.answers(200, b'{"uid":"' + one + b'"}', one)


def test_patches_that_add_are_carried_out() -> None:
    pod = {"spec": {"containers": [{"name": "a"}]}, "metadata": {}}
    changed = patched(
        pod,
        [
            {"op": "add", "path": "/spec/containers/0", "value": {"name": "b"}},
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "c"}},
            {"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "add", "path": "/metadata/annotations/a~1b~0c", "value": "x"},
        ],
    )
    assert [each["name"] for each in changed["spec"]["containers"]] == ["b", "a", "c"]
    assert changed["metadata"] == {"annotations": {"a/b~c": "x"}}
    assert pod == {"spec": {"containers": [{"name": "a"}]}, "metadata": {}}
    with pytest.raises(MeasurementError, match="'remove'"):
        patched(pod, [{"op": "remove", "path": "/spec"}])


def test_the_tables_have_medians_and_their_range() -> None:
    text = document(results())
    assert "| p99 of reviews at the rate, ms | ≤ 10 | 6 | met |" in text
    assert "| memory of the injector at its peak, MiB | ≤ 80 | 70 | met |" in text
    assert "| p99, ms | 6 (4–8) |" in text
    assert "### At 200 requests/s" in text
    assert "| plain | 3,353 | 1,816 |" in text
    assert "wrong" not in text
    assert "1 wrong or missing answers" not in text
    assert "* reviews, paced: 4 wrong or missing answers." in document(results(errors=2))
    assert "**not met**" in document(results(p99=10))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (results(), []),
        (results(p99=40), []),
        (results(p99=900), ["reviews of Pods with limits: p99 is 1,350 ms, above 1,000 ms."]),
        (results(reached=40), ["reviews of Pods with limits: 40 of 200 requests/s were answered."]),
        (results(errors=1), ["reviews: 2 wrong or missing answers (paced)."]),
    ],
    ids=["well", "busy machine", "slow", "behind", "wrong"],
)
def test_only_a_collapse_is_one(found: Analysis, says: list[str]) -> None:
    assert collapses(found, 200) == says


def test_loads_are_chosen_in_their_order() -> None:
    assert [load.name for load in choose(("health", "reviews"))] == ["reviews", "health"]
    assert len(choose(())) == 3
    with pytest.raises(KeyError, match="soon"):
        choose(("soon",))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param(["admission", "--loads", "x"], 1, "no load x. There are: reviews, untouched,", id="load"),
        pytest.param(["--quick", "admission"], 2, "Write --quick behind admission", id="option before the command"),
        pytest.param(["admission", "--seconds", "0"], 2, "0.1<=x<=600", id="seconds"),
        pytest.param(["admission", "--output", "/dev/null/x"], 1, "Name another folder by --output", id="folder"),
    ],
)
def test_mistakes_are_told(arguments: list[str], status: int, says: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, says in done.output) == (status, True), done.output


def test_the_help_names_every_load() -> None:
    told = CliRunner().invoke(main, ["admission", "--help"]).output
    for load in LOADS.values():
        assert f"  {load.name:<14} {load.title}\n" in told
    assert "admission" in CliRunner().invoke(main, ["--help"]).output
