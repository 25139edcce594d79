"""What went through lanes in each minute of the last hour, by workload: a control plane asks for it before it changes a
policy. Kept whether or not one is connected, in bounded memory."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import trio

from node_agent.fleet.figures import snapshots
from node_agent.lanes import WorkloadLanes
from tc_core.stats import ClassStats, grown

MINUTES: Final = 60
MOST_LANES: Final = 2000
"""Of all workloads, both directions: 720 bytes each for the figures. Those that come later are not kept."""
_MOST_ANSWERED: Final = 80
"""Lanes of one answer: with 13 digits for each figure it has less than 256 KiB."""
_WIDTH: Final = 3

Place = tuple[str, str]
"""Direction and lane."""


class _Lane:
    """Rates (bit/s), drops and waits of a lane, in a ring."""

    __slots__ = ("ring", "seen")

    def __init__(self, seen: ClassStats) -> None:
        self.seen = seen
        self.ring = array("f", bytes(4 * _WIDTH * MINUTES))

    def take(self, slot: int, now: ClassStats, seconds: float) -> None:
        self.ring[slot * _WIDTH] = grown(self.seen.bytes, now.bytes) * 8 / seconds
        self.ring[slot * _WIDTH + 1] = grown(self.seen.drops, now.drops)
        self.ring[slot * _WIDTH + 2] = grown(self.seen.overlimits, now.overlimits)
        self.seen = now

    def blank(self, slot: int) -> None:
        self.ring[slot * _WIDTH : (slot + 1) * _WIDTH] = array("f", (0, 0, 0))

    def listed(self, slots: list[int], field: int) -> list[int]:
        return [round(self.ring[slot * _WIDTH + field]) for slot in slots]


class MinuteHistory:
    """Of the workloads that there are: with a Pod goes what was known of it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: Unix seconds."""
        self._clock = clock
        self._workloads: dict[str, dict[Place, _Lane]] = {}
        self._lanes = 0
        self._minutes = 0
        """How many have passed."""
        self._until = 0

    async def run(self, running: Callable[[], Mapping[str, WorkloadLanes]]) -> None:
        """Look once a minute, until cancelled."""
        before = trio.current_time()
        self.look(running(), 60.0)  # counters count from here
        while True:
            await trio.sleep(60.0 - (trio.current_time() - before) % 60.0)
            now = trio.current_time()
            self.look(running(), now - before)
            before = now

    def look(self, running: Mapping[str, WorkloadLanes], seconds: float) -> None:
        """A minute has passed, which took so long."""
        slot = self._minutes % MINUTES
        for gone in self._workloads.keys() - running.keys():
            self._lanes -= len(self._workloads.pop(gone))
        for name, lanes in running.items():
            known = self._workloads.setdefault(name, {})
            now = {} if lanes.plane is None else {(d, s.name): s.stats for d, s in snapshots(lanes)}
            for place, lane in known.items():
                if place in now:
                    lane.take(slot, now[place], seconds)
                else:
                    lane.blank(slot)
            for place in now.keys() - known.keys():
                if self._lanes < MOST_LANES:
                    known[place] = _Lane(now[place])
                    self._lanes += 1
        self._minutes += 1
        self._until = round(self._clock())

    def document(
        self, running: Mapping[str, WorkloadLanes], workloads: Collection[str] = (), after: str = ""
    ) -> dict[str, object]:
        """As the answer has it: ``until`` (Unix seconds) is when the last of ``minutes`` ended, the oldest is the
        first of each list. ``rate`` is in bit/s, ``dropped`` and ``throttled`` (how often something had to wait) are
        counts of a minute. ``after`` is the name to go on after; empty: that is all."""
        minutes = min(self._minutes - 1, MINUTES) if self._minutes else 0
        slots = [number % MINUTES for number in range(self._minutes - minutes, self._minutes)]
        wanted = sorted(name for name in (workloads or self._workloads) if name in self._workloads and name > after)
        found: list[dict[str, object]] = []
        left, last = _MOST_ANSWERED, ""
        for name in wanted:
            lanes = self._workloads[name]
            if found and len(lanes) > left:
                break
            last = name
            left -= len(lanes)
            policy = running[name].workload.fleet_policy if name in running else ""
            found.append({"workload": name, "policy": policy, "lanes": list(_described(lanes, slots))})
        more = bool(wanted) and last != wanted[-1]
        return {"until": self._until, "minutes": minutes, "workloads": found, "after": last if more else ""}


def _described(lanes: Mapping[Place, _Lane], slots: list[int]) -> Iterator[dict[str, object]]:
    for direction, name in sorted(lanes)[:_MOST_ANSWERED]:
        lane = lanes[direction, name]
        yield {
            "lane": name,
            "direction": direction,
            "rate": lane.listed(slots, 0),
            "dropped": lane.listed(slots, 1),
            "throttled": lane.listed(slots, 2),
        }
