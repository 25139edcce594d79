"""The benchmark's candidates for real: each carries connections, in the class of their name, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidecars import state_of

from benchmarks import results as benchmark_results
from benchmarks.analysis import Analysis
from benchmarks.candidates import CANDIDATES, Ability, Candidate
from benchmarks.metrics import METRICS, Bench
from benchmarks.policies import BenchPolicy, shaped, wide
from benchmarks.stage import INTERFACE, PAGE, PAGE_BYTES, Placement, Stage
from podlane.netns.namespace import NAMES
from tc_core.compile.mark_tree import leaf_handle
from tc_core.rtnetlink.kernel import NetlinkKernel

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
OPTIONAL = {"mitmproxy"}
"""It needs its own environment and is in nobody's package: where it cannot be had, there is nothing to fail."""


def is_here(candidate: Candidate) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(candidate.missing()), reason=str(candidate.missing()))


EVERY = [
    candidate
    for candidate in CANDIDATES.values()
    if Ability.LIBRARY not in candidate.abilities and not (candidate.name in OPTIONAL and candidate.missing())
]


def those_with(*abilities: Ability) -> list[object]:
    """Candidates with these abilities; the tests of one that is not installed are skipped."""
    return [pytest.param(c, id=c.name, marks=is_here(c)) for c in EVERY if c.abilities >= {*abilities}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    cpus = sorted(os.sched_getaffinity(0))
    with Stage(Placement(cpus[0], cpus[-1])) as made:
        yield made


def fetch(stage: Stage, policy: BenchPolicy, scheme: str) -> str:
    """Get the page by the name of the policy's measured class."""
    host = policy.target.host
    return stage.pod.run(
        ["curl", "-sSk", "--max-time", "20", "--resolve", f"{host}:443:{stage.address}", "--resolve",
         f"{host}:80:{stage.address}", f"{scheme}://{host}{PAGE}"]
    ).stdout  # fmt: skip


def packets_by_class(stage: Stage, policy: BenchPolicy) -> dict[str, int]:
    with stage.pod.namespace.entered(), NetlinkKernel() as kernel:
        counters = kernel.counters(INTERFACE)
    return {name: counters[leaf_handle(number)].packets for name, number in policy.ids.items()}


@pytest.mark.nightly
@pytest.mark.parametrize("candidate", those_with())
def test_it_carries_a_page_and_leaves_nothing(stage: Stage, candidate: Candidate) -> None:
    policy = wide(3)
    stage.name_hosts(policy)
    for change in ("-N", "-X"):
        stage.pod.run(["iptables", "-t", "nat", change, "used"])  # built-in chains stay once they have been used
    before = state_of(stage.pod)
    with candidate.running(stage, policy):
        assert fetch(stage, policy, "http") == "x" * PAGE_BYTES
    assert state_of(stage.pod) == before


@pytest.mark.nightly
@pytest.mark.parametrize("candidate", those_with(Ability.PROXY, Ability.TLS))
def test_a_tls_connection_is_in_the_class_of_its_server_name(stage: Stage, candidate: Candidate) -> None:
    """Otherwise a candidate would be measured that does less than the others."""
    policy = wide(3)
    stage.name_hosts(policy)
    with candidate.running(stage, policy):
        fetch(stage, policy, "https")
        packets = packets_by_class(stage, policy)
    assert packets["web"] > 4  # a handshake, a request, an end
    assert packets["c1"] == packets["c2"] == 0


@pytest.mark.nightly
@pytest.mark.parametrize("candidate", those_with(Ability.PROXY))
def test_what_it_costs_is_seen(stage: Stage, candidate: Candidate) -> None:
    metric = METRICS["conn"]
    stage.name_hosts(metric.policy)
    with candidate.running(stage, metric.policy) as running:
        outcome = metric.measure(Bench(stage, metric.policy, running, 1))
    assert outcome.errors == 0
    assert outcome.values["per_s"] > 0
    assert outcome.values["cpu_per_1000"] > 0
    assert outcome.values["p99_us"] >= outcome.values["p50_us"] > 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["direct-htb", "podlane-relay"])
def test_a_class_is_saturated_and_probed(stage: Stage, name: str) -> None:
    policy = shaped(10)
    stage.name_hosts(policy)
    with CANDIDATES[name].running(stage, policy) as running:
        bench = Bench(stage, policy, running, 1)
        share = METRICS["accuracy-10"].measure(bench).values["share"]
        latency = METRICS["under-load-10"].measure(bench).values
    assert 0.2 < share < 1.1  # from above it is exact; a busy machine may send less
    assert latency["inside_p50_ms"] > latency["beside_p50_ms"]  # the queue is inside


@pytest.mark.nightly
def test_parts_are_measured_by_themselves(stage: Stage) -> None:
    with CANDIDATES["podlane-library"].running(stage, wide()) as running:
        for name in ("reconcile-10", "detection"):
            metric = METRICS[name]
            outcome = metric.measure(Bench(stage, metric.policy, running, 1))
            assert set(outcome.values) == set(metric.figures)
            assert min(outcome.values.values()) > 0


def benchmark(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", "--output", str(output), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def namespaces_of(process: subprocess.Popen[str]) -> list[str]:
    return [path.name for path in NAMES.iterdir() if path.name.startswith(f"bench-{process.pid}-")]


def test_a_run_writes_json_tables_and_plots(tmp_path: Path) -> None:
    options = ("--candidates", "direct,podlane-relay", "--metrics", "conn", "--rounds", "2", "--seconds", "1")
    process = benchmark(tmp_path, *options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    assert [(s.round, s.candidate) for s in found.samples] == [
        (1, "direct"), (1, "podlane-relay"), (2, "direct"), (2, "podlane-relay"),
    ]  # fmt: skip
    ratio = Analysis(found).ratio("conn", "per_s", "podlane-relay", "direct")
    assert ratio is not None
    assert ratio > 0
    assert "Podlane relay" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "overview.svg").exists()
    assert not namespaces_of(process)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_samples_and_removes_everything(tmp_path: Path, number: int) -> None:
    options = ("--candidates", "direct,podlane-relay", "--metrics", "conn", "--rounds", "50", "--seconds", "1")
    process = benchmark(tmp_path, *options)
    assert process.stderr is not None
    for line in process.stderr:
        if "podlane-relay" in line:
            break
    assert namespaces_of(process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not namespaces_of(process)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["samples"]
    assert document["complete"] is False
