"""The agent's benchmark as a user runs it: real agents, files, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results as benchmark_results
from benchmarks.agent.figures import AGENT, ALL
from benchmarks.analysis import Analysis
from podlane.netns.namespace import NAMES

pytestmark = [pytest.mark.root, pytest.mark.nightly]

ROOT = Path(__file__).parents[2]


def test_a_quick_run_has_every_figure_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "agent", "--quick", "--workloads", "3", "--output", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert told.split() == [str(tmp_path / "results.json"), str(tmp_path / "results.md")]
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    analysis = Analysis(found)
    for measured in ALL:
        values = {key: analysis.median(measured.name, key, AGENT) for key in measured.figures}
        assert None not in values.values(), measured.name
    assert analysis.median("together", "cpu_ms", AGENT) > 0  # type: ignore[operator]  # it is there, as was seen above
    assert list(NAMES.glob(f"bench-{process.pid}-*")) == []
