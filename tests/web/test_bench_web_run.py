"""The pages' benchmark as a user runs it: a real control plane, a real browser, and every figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from stage import ROOT

from benchmarks import results as benchmark_results
from benchmarks.analysis import Analysis
from benchmarks.web.figures import HEAP, THREAD, VIEW, WEB

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(400)]


def test_a_quick_run_has_every_figure(browser: Browser, tmp_path: Path) -> None:  # noqa: ARG001  # skips without it
    command = [sys.executable, "-m", "benchmarks", "web", "--quick", "--agents", "12", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = benchmark_results.load(tmp_path / "results.json")
    assert found.complete
    analysis = Analysis(found)
    for measured in (*VIEW.values(), *THREAD.values(), HEAP):
        values = {key: analysis.median(measured.name, key, WEB) for key in measured.figures}
        assert None not in values.values(), done.stderr
    assert analysis.median(VIEW["live"].name, "script_kb", WEB) > 10  # type: ignore[operator]  # it is there
