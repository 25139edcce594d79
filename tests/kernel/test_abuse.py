"""Load and abuse as ``python -m benchmarks abuse`` has them, small: a real sidecar before nginx keeps what is promised."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.abuse.arena import Arena
from benchmarks.abuse.figures import ASIDE, INJECTOR, RELAY, Size
from benchmarks.abuse.scenarios import SCENARIOS
from benchmarks.results import load
from benchmarks.stage import Placement

ROOT = Path(__file__).parents[2]
SMALL = Size(scale=0.02, seconds=2.0, rate=60.0, around=0.5)
SOAK_SECONDS = float(os.environ.get("PODLANE_SOAK_SECONDS", "0"))
"""How long the soak takes. Five minutes, as on CI, show growth: memory settles in the first of them."""
_LIMIT_S = 180.0
pytestmark = [pytest.mark.root, pytest.mark.nightly, pytest.mark.timeout(_LIMIT_S)]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    cpus = sorted(os.sched_getaffinity(0))
    with Arena(Placement(cpus[0], cpus[-1])) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "datapath"),
    [
        ("crowd", RELAY),
        ("places", RELAY),
        ("descriptors", RELAY),
        ("detection", RELAY),
        ("resets", RELAY),
        ("zero-windows", RELAY),
        ("http2-rapid-reset", RELAY),
        ("http2-settings", RELAY),
        ("half-open", ASIDE),
        ("injector", INJECTOR),
    ],
)
def test_what_is_promised_is_kept(arena: Arena, name: str, datapath: str) -> None:
    scenario = SCENARIOS[name]
    figures = scenario.run(arena, SMALL, datapath)
    # How much slower it makes the injector is for a machine that does nothing else.
    broken = {p.figure: figures[p.figure] for p in scenario.promises if not p.is_kept(figures[p.figure])}
    assert not broken.keys() - {"slower"}, figures
    if name == "places":
        assert figures["lost"] > 0  # somebody made room


@pytest.mark.timeout(_LIMIT_S + SOAK_SECONDS)
def test_a_long_time_leaves_nothing_behind(arena: Arena) -> None:
    """Two turns of everything; for longer by PODLANE_SOAK_SECONDS."""
    scenario = SCENARIOS["soak"]
    figures = scenario.run(arena, Size(scale=0.1, seconds=SOAK_SECONDS, rate=200.0, around=0.5), RELAY)
    kept = [p for p in scenario.promises if SOAK_SECONDS >= 60 or p.figure != "memory_growth"]
    assert not {p.figure: figures[p.figure] for p in kept if not p.is_kept(figures[p.figure])}, figures


def test_a_run_writes_figures_and_promises(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "abuse", "--quick", "--scenario", "descriptors"),
            *("--seconds", "1", "--rate", "20", "--strict", "--output", str(tmp_path)),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "results.json"), str(tmp_path / "results.md")]
    (sample,) = load(tmp_path / "results.json").samples
    assert (sample.candidate, sample.metric, sample.failure) == (RELAY, "descriptors", None)
    assert "| descriptors | relay | CPU meanwhile | ≤ 0.05 |" in (tmp_path / "results.md").read_text()
