"""Sums of what went through lanes, out of the counters that the agent reads anyway once a second."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Final

from datapath.shaping import ClassSnapshot
from fleet_api.agent_pb2 import LaneSum, Report, WorkloadFigures
from node_agent.lanes import WorkloadLanes
from tc_core.stats import ClassStats, grown

_MOST_SUMS: Final = 1000
"""Users of Pods choose the names of their lanes. Those beyond are summed under no name."""
MOST_WATCHED: Final = 100
"""Workloads of which details are sent."""
_MOST_DETAILS: Final = 1000
"""Lanes of all watched workloads."""
_ENOUGH: Final = 0.95
"""Of a rate: the kernel counts whole packets, and a second is not exactly one."""

SENT: Final = "egress"
RECEIVED: Final = "ingress"

Key = tuple[str, str, str]
"""Policy, lane, direction."""


class _Sum:
    """One :class:`LaneSum` while it is added up; messages are too slow for that."""

    __slots__ = ("backlog", "below", "bytes", "ceil", "dropped", "overlimits", "packets", "rate", "workloads")

    def __init__(self) -> None:
        self.bytes = self.packets = self.dropped = self.overlimits = 0
        self.backlog = self.workloads = self.rate = self.ceil = self.below = 0

    def add(self, snapshot: ClassSnapshot, before: ClassStats, interval_ms: int) -> None:
        now = snapshot.stats
        if now.backlog_bytes and before.backlog_bytes:
            got = grown(before.bytes, now.bytes) * 8000
            self.below += got < snapshot.rate.bits_per_second * interval_ms * _ENOUGH
        if now is not before:
            self.bytes += grown(before.bytes, now.bytes)
            self.packets += grown(before.packets, now.packets)
            self.dropped += grown(before.drops, now.drops)
            self.overlimits += grown(before.overlimits, now.overlimits)
            self.backlog += now.backlog_bytes
        elif now.backlog_bytes:
            self.backlog += now.backlog_bytes
        self.workloads += 1
        self.rate += snapshot.rate.bits_per_second
        self.ceil += snapshot.ceil.bits_per_second

    def message(self, policy: str, lane: str, direction: str) -> LaneSum:
        return LaneSum(
            policy=policy, lane=lane, direction=direction, bytes=self.bytes, packets=self.packets,
            dropped=self.dropped, overlimits=self.overlimits, backlog=self.backlog, workloads=self.workloads,
            rate=self.rate, ceil=self.ceil, below=self.below,
        )  # fmt: skip


class FleetFigures:
    """Sums since the last time. Counters count from when they are seen first."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[str, str], ClassStats]] = {}
        """By workload, then by direction and lane."""

    def report(
        self, running: Mapping[str, WorkloadLanes], watched: Collection[str], at_ms: int, interval_ms: int
    ) -> Report:
        """``at_ms`` in Unix milliseconds; ``interval_ms`` is how long ago the last one was made."""
        sums: dict[Key, _Sum] = {}
        details: list[WorkloadFigures] = []
        left = _MOST_DETAILS
        seen: dict[str, dict[tuple[str, str], ClassStats]] = {}
        for name, lanes in running.items():
            if lanes.plane is None:
                continue
            policy = lanes.workload.fleet_policy
            earlier = self._seen.get(name, {})
            now = seen[name] = {}
            own: dict[Key, _Sum] | None = {} if name in watched else None
            for direction, snapshot in snapshots(lanes):
                place = direction, snapshot.name
                now[place] = snapshot.stats
                before = earlier.get(place, snapshot.stats)
                key = policy, snapshot.name, direction
                for each in (sums, own):
                    if each is not None:
                        _sum_at(each, key).add(snapshot, before, interval_ms)
            if own and left > 0:
                told = [each.message(*key) for key, each in islice(own.items(), left)]
                details.append(WorkloadFigures(workload=name, lanes=told, controller=lanes.workload.controller))
                left -= len(own)
        self._seen = seen
        return Report(
            at=at_ms,
            interval_ms=interval_ms,
            lanes=[each.message(*key) for key, each in sums.items()],
            workloads=details[:MOST_WATCHED],
        )


def _sum_at(sums: dict[Key, _Sum], key: Key) -> _Sum:
    found = sums.get(key)
    if found is None:
        if len(sums) >= _MOST_SUMS:
            key = "", "", key[2]
        found = sums.setdefault(key, _Sum())
    return found


def snapshots(lanes: WorkloadLanes) -> Iterator[tuple[str, ClassSnapshot]]:
    """The counters of lanes in force, with their direction."""
    assert lanes.plane is not None
    sent, received = lanes.plane.counted
    for snapshot in sent:
        yield SENT, snapshot
    for snapshot in received:
        yield RECEIVED, snapshot
