"""Sums that the agent reports: which workloads get less than their rate although something of theirs waits.

The kernel keeps its rates, so that only counters made here show what is said of one that does not.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datapath.shaping import ClassSnapshot
from fleet_api.agent_pb2 import LaneSum
from node_agent.fleet.figures import FleetFigures
from tc_core.model import Handle
from tc_core.stats import ClassStats
from traffic_policy.units import Rate

MBIT = Rate(1_000_000)


def lanes(stats: ClassStats) -> Any:
    """A workload with one class of 1 Mbit/s, at these counters."""
    snapshot = ClassSnapshot("web", 1, Handle(1, 0x101), MBIT, MBIT, 4, stats, Rate(0), Rate(0))
    return SimpleNamespace(
        plane=SimpleNamespace(counted=([snapshot], [])),
        workload=SimpleNamespace(fleet_policy="web", controller="Deployment/web"),
    )


def second_report(before: dict[str, ClassStats], after: dict[str, ClassStats], interval_ms: int = 1000) -> LaneSum:
    figures = FleetFigures()
    figures.report({name: lanes(stats) for name, stats in before.items()}, (), 0, 1000)
    report = figures.report({name: lanes(stats) for name, stats in after.items()}, (), 1000, interval_ms)
    [found] = report.lanes
    return found


WAITING = ClassStats(bytes=1000, backlog_bytes=5000)


@pytest.mark.parametrize(
    ("before", "after", "below"),
    [
        (WAITING, ClassStats(bytes=1000 + 60_000, backlog_bytes=5000), 1),
        (WAITING, WAITING, 1),
        (WAITING, ClassStats(bytes=1000 + 125_000, backlog_bytes=5000), 0),
        (WAITING, ClassStats(bytes=1000 + 120_000, backlog_bytes=5000), 0),
        (WAITING, ClassStats(bytes=1000 + 60_000), 0),
        (ClassStats(bytes=1000), ClassStats(bytes=2000, backlog_bytes=5000), 0),
        (ClassStats(bytes=1000), ClassStats(bytes=2000), 0),
    ],
)
def test_below_is_who_waits_all_the_time_and_gets_less(before: ClassStats, after: ClassStats, below: int) -> None:
    assert second_report({"a": before}, {"a": after}).below == below


def test_it_counts_workloads_and_knows_how_long_a_report_is_about() -> None:
    starved, fine = ClassStats(bytes=61_000, backlog_bytes=1), ClassStats(bytes=901_000, backlog_bytes=1)
    found = second_report({"a": WAITING, "b": WAITING, "c": WAITING}, {"a": starved, "b": fine, "c": starved})
    assert (found.below, found.workloads) == (2, 3)
    assert second_report({"a": WAITING}, {"a": starved}, 600).below == 1
    assert second_report({"a": WAITING}, {"a": starved}, 400).below == 0
