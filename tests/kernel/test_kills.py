"""Killed at random moments, the sidecar leaves nothing half-way; ``kills.py`` does the same two hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import Target, kills, watching

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(20, marks=pytest.mark.timeout(300)),
        pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(3000)]),
    ],
)
def test_whatever_is_killed_whenever_the_namespace_comes_to_be_whole(
    topology: PodNodeServer, tmp_path: Path, count: int
) -> None:
    target = Target(topology.pod, tmp_path)
    target.prepare()
    with watching(topology) as witness:
        done = list(kills(target, count, seed=7))
    assert {kill.victim for kill in done} == {"proxy", "supervisor", "both"}
    assert "as before" in {kill.result for kill in done}
    assert witness.words
