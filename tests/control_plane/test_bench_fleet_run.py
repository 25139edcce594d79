"""The fleet's benchmark as a user runs it: a real control plane, real connections, and every figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results as benchmark_results
from benchmarks.analysis import Analysis
from benchmarks.fleet.figures import ALL, COMMANDS, FLEET, POSTGRESQL
from benchmarks.fleet.postgresql import programs

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]


def test_a_quick_run_has_every_figure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "fleet", "--quick", "--agents", "12", "--failing-agents", "12"]
    options = ["--seconds", "1", "--output", str(tmp_path)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {*done.stdout.split()} >= {str(tmp_path / "results.json"), str(tmp_path / "results.md")}
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    analysis = Analysis(found)
    for measured in ALL:
        if measured is COMMANDS[POSTGRESQL] and programs() is None:
            continue
        values = {key: analysis.median(measured.name, key, FLEET) for key in measured.figures}
        assert None not in values.values(), done.stderr
    assert analysis.median("taken-back", "seconds", FLEET) > 0  # type: ignore[operator]  # it is there, as was seen above
