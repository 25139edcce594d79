"""`make bench-kind` in small: real Pods with a sidecar, with an agent and without either, real loads, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from kind_cluster import ROOT, KindCluster

from benchmarks.kind.manifests import MINE
from benchmarks.results import load

pytestmark = pytest.mark.timeout(600, method="signal")

ARGUMENTS = (
    "--quick --only plain,relay,agent,bandwidth --measures connections,accuracy,startup,admission --pods 1 --burst 10"
)


LEFT: Final = "podlane-bench-system"
"""The namespace of a release that a run which was killed has left."""


def test_it_measures_and_tidies_up(agents: KindCluster, tmp_path: Path) -> None:
    agents.make_namespace(LEFT, MINE)
    agents.helm(
        "install", "podlane-bench", "charts/podlane", f"--namespace={LEFT}", "--set=webhook.failurePolicy=Ignore"
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "kind", *ARGUMENTS.split(), "--output", str(tmp_path)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    results = load(tmp_path / "results.json")
    found = {(sample.candidate, sample.metric): sample.values for sample in results.samples}
    assert results.complete
    for rate in (10, 100):
        for variant in ("relay", "agent", "bandwidth"):
            assert found[variant, "accuracy"][f"share_{rate}"] == pytest.approx(1, abs=0.2)
    assert found["bandwidth", "accuracy"]["beyond_100_mib"] > 50 > found["relay", "accuracy"]["beyond_100_mib"]
    for measure, figure in (("connections", "per_s"), ("startup", "ready_p50_ms"), ("admission", "create_p50_ms")):
        assert found["plain", measure][figure] > 0
        assert found["relay", measure][figure] > 0
    assert found["agent", "connections"]["per_s"] > 0
    assert found["agent", "startup"]["ready_p50_ms"] > 0
    assert "inject_mean_ms" in found["relay", "admission"]
    assert "Podlane is installed: it is used as it is" in done.stderr
    assert agents.kubectl("get", "namespace", "podlane-bench", LEFT, "--ignore-not-found") == ""
    assert LEFT not in agents.helm("list", "--all-namespaces")
