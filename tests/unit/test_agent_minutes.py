"""The last hour of each lane, on the agent."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from fleet_api.limits import MAX_FROM_AGENT
from node_agent.fleet.minutes import MINUTES, MOST_LANES, MinuteHistory
from tc_core.stats import ClassStats


def stats(bytes: int, drops: int = 0, overlimits: int = 0) -> ClassStats:
    return ClassStats(bytes=bytes, drops=drops, overlimits=overlimits)


def running(**workloads: dict[str, ClassStats]) -> Any:
    """Lanes as the agent has them: of all that they are, history reads the counters and the policy."""
    return {
        name: SimpleNamespace(
            plane=SimpleNamespace(
                counted=(tuple(SimpleNamespace(name=lane, stats=each) for lane, each in lanes.items()), ())
            ),
            workload=SimpleNamespace(fleet_policy="web"),
        )
        for name, lanes in workloads.items()
    }


def test_minutes_are_counted_from_the_first_look_and_the_oldest_are_forgotten() -> None:
    history = MinuteHistory(lambda: 1_800_000_000.0)
    assert history.document({})["workloads"] == []
    sent = 0
    history.look(running(a={"web": stats(sent)}), 60)
    for minute in range(1, 3):
        sent += minute * 7_500_000
        history.look(running(a={"web": stats(sent, minute, minute * 2)}), 60)
    document = history.document(running(a={}))
    assert (document["until"], document["minutes"], document["after"]) == (1_800_000_000, 2, "")
    [workload] = document["workloads"]  # type: ignore[misc]
    assert (workload["workload"], workload["policy"]) == ("a", "web")
    assert workload["lanes"] == [
        {"lane": "web", "direction": "egress", "rate": [1_000_000, 2_000_000], "dropped": [1, 1], "throttled": [2, 2]}
    ]
    for _ in range(MINUTES):
        history.look(running(a={"web": stats(sent)}), 60)
    [workload] = history.document(running(a={}))["workloads"]  # type: ignore[misc]
    assert len(workload["lanes"][0]["rate"]) == MINUTES
    assert not any(workload["lanes"][0]["rate"]), "the rates are more than an hour old"


def test_with_a_pod_goes_what_was_known_of_it() -> None:
    history = MinuteHistory()
    history.look(running(a={"web": stats(0)}, b={"web": stats(0)}), 60)
    history.look(running(b={"web": stats(0)}), 60)
    assert [each["workload"] for each in history.document({})["workloads"]] == ["b"]  # type: ignore[attr-defined]


def test_it_has_bounds_and_answers_in_parts_that_fit() -> None:
    history = MinuteHistory()
    for look in range(MINUTES + 2):
        big = look * 10**13
        many = {f"w{n:03}": {f"lane-{lane}": stats(big, big, big) for lane in range(10)} for n in range(250)}
        history.look(running(**many), 60)
    assert history._lanes == MOST_LANES
    names: list[str] = []
    after = ""
    for _ in range(1000):
        document = history.document({}, after=after)
        assert len(json.dumps(document)) < MAX_FROM_AGENT
        names += [each["workload"] for each in document["workloads"]]  # type: ignore[attr-defined]
        after = str(document["after"])
        if not after:
            break
    assert names == [f"w{n:03}" for n in range(250)], "also those for which there was no room, without lanes"
    [asked] = history.document({}, {"w007", "gone"})["workloads"]  # type: ignore[misc]
    assert len(asked["lanes"]) == 10
