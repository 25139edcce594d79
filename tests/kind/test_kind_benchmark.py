"""`make bench-kind` in small: real Pods with a sidecar and without, real loads, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kind_cluster import ROOT, KindCluster

from benchmarks.results import load

pytestmark = pytest.mark.timeout(600, method="signal")

ARGUMENTS = "--quick --only plain,relay,bandwidth --measures connections,accuracy,startup,admission --pods 1 --burst 10"


def test_it_measures_and_tidies_up(installed: KindCluster, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "kind", *ARGUMENTS.split(), "--output", str(tmp_path)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    results = load(tmp_path / "results.json")
    found = {(sample.candidate, sample.metric): sample.values for sample in results.samples}
    assert results.complete
    for rate in (10, 100):
        for variant in ("relay", "bandwidth"):
            assert found[variant, "accuracy"][f"share_{rate}"] == pytest.approx(1, abs=0.2)
    assert found["bandwidth", "accuracy"]["beyond_100_mib"] > 50 > found["relay", "accuracy"]["beyond_100_mib"]
    for measure, figure in (("connections", "per_s"), ("startup", "ready_p50_ms"), ("admission", "create_p50_ms")):
        assert found["plain", measure][figure] > 0
        assert found["relay", measure][figure] > 0
    assert "inject_mean_ms" in found["relay", "admission"]
    assert "Podlane is installed: it is used as it is" in done.stderr
    assert installed.kubectl("get", "namespace", "podlane-bench", "--ignore-not-found") == ""
