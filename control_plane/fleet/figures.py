"""What went through lanes: sums over a tenant's agents for each second of the last fifteen minutes.

Agents say it to the process that they are connected to; of others it comes later, second by second.

Bounded, whatever agents say: lanes of the tenant's own policies are told apart, up to a number; others are one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from operator import sub
from threading import Lock
from typing import Final

from control_plane.domain.alert_evaluation import LaneTotals
from fleet_api.agent_pb2 import LaneSum

SECONDS: Final = 900
MOST_LANES: Final = 512
"""Of a tenant: 72 bytes each and second, 32 MiB at most."""
OTHER: Final = "other"
"""The lane of what no lane of the policy is."""
COUNTERS: Final = ("bytes", "packets", "dropped", "overlimits")
GAUGES: Final = ("backlog", "workloads", "rate", "ceil", "below")
FIELDS: Final = COUNTERS + GAUGES
_WIDTH: Final = len(FIELDS)
_HELD: Final = slice(FIELDS.index("workloads"), FIELDS.index("ceil") + 1)
"""What holds until an agent says otherwise: one whose report comes late has its lanes all the same."""
_STEP: Final = 1 + _HELD.stop - _HELD.start
"""Numbers that are kept of a lane of an agent: its place, and what holds."""
_NOTHING: Final = array("Q")
_MOST: Final = 2**53 - 1
"""What JSON's readers can take for an integer; agents may say anything."""

_LATE: Final = 2
"""Seconds after which the sums of other processes are there, too."""

LaneKey = tuple[str, str, str]
"""Policy (empty: the workloads' own), lane, direction."""
LaneRow = tuple[str, str, str, Sequence[int]]
"""A lane's key, and the value of each of :data:`FIELDS` in a second."""


@dataclass(frozen=True, slots=True)
class LaneSeries:
    """One lane: each field's value for each second, the oldest first."""

    policy: str
    lane: str
    direction: str
    values: Mapping[str, list[int]]


_TOLD: Final = tuple(name for name in LaneTotals.__slots__ if name != "heard")
_TOLD_PLACES: Final = tuple(FIELDS.index(name) for name in _TOLD)


def moving_totals(series: LaneSeries, over: int) -> Iterator[LaneTotals]:
    """Sums over the ``over`` seconds before each second of a series, from the first second that has so many before it
    to the end."""
    heard = map(any, zip(*(series.values[name] for name in FIELDS), strict=True))
    counted = [*(series.values[name] for name in _TOLD), heard]
    sums = [list(accumulate(each, initial=0)) for each in counted]
    differences = [list(map(sub, each[over:], each)) for each in sums]
    return map(LaneTotals, *differences)


class TenantFigures:
    """Of one tenant, or of one of its clusters. One thread adds, others read."""

    def __init__(self, most: int = MOST_LANES) -> None:
        """``most``: lanes that are told apart."""
        self._most = most
        self._lanes: Mapping[str, frozenset[str]] = {}
        self._places: dict[LaneKey, int] = {}
        self._now: list[int] = []
        """What was said in this second: a row for each place, of which what is held is not used."""
        self._heard = bytearray()
        """By place, whether anybody has said anything of it in this second."""
        self._held: list[int] = []
        """A row for each place: sums of what holds over all agents that are here."""
        self._said: dict[str, array[int]] = {}
        """By agent, what of these sums is its own."""
        self._second = 0
        self._past: dict[int, array[int]] = {}
        self._elsewhere: dict[int, array[int]] = {}
        """Sums over other processes, by second."""
        self._counted: dict[LaneKey, list[int]] = {}
        self._lock = Lock()

    @property
    def known(self) -> Mapping[str, frozenset[str]]:
        """The lanes of each policy in force."""
        return self._lanes

    def know(self, lanes: Mapping[str, frozenset[str]]) -> None:
        """The lanes of each policy in force, from now on. Those of no policy are forgotten when room is short."""
        with self._lock:
            self._lanes = lanes
            if len(self._places) > self._most // 2:
                self._forget()

    def add(self, second: int, agent: str, sums: Iterable[LaneSum]) -> None:
        """What an agent said in this second (Unix time) of the server's clock."""
        with self._lock:
            # Who reads may have turned to the next second a moment before: what was gathered once is not opened again.
            if second > self._second:
                self._turn(second)
            said = array("Q")
            for each in sums:
                place = self._place(each.policy, each.lane, each.direction)
                if place is None:
                    continue
                self._heard[place] = 1
                now, at = self._now, place * _WIDTH
                now[at] += each.bytes
                now[at + 1] += each.packets
                now[at + 2] += each.dropped
                now[at + 3] += each.overlimits
                now[at + 4] += each.backlog
                now[at + 8] += each.below
                said.extend((place, each.workloads, each.rate, each.ceil))
            self._hold(agent, said)

    def left(self, agent: str) -> None:
        """It is not here any more: nothing of it holds."""
        with self._lock:
            self._hold(agent, _NOTHING)

    def add_elsewhere(self, second: int, rows: Iterable[LaneRow]) -> None:
        """What another process has heard in a second, which is over."""
        with self._lock:
            found = self._elsewhere.get(second, array("Q"))
            for policy, lane, direction, numbers in rows:
                place = self._place(policy, lane, direction)
                if place is None:
                    continue
                at = place * _WIDTH
                found.extend([0] * (at + _WIDTH - len(found)))
                for field, number in enumerate(numbers, at):
                    found[field] = min(found[field] + number, _MOST)
            self._elsewhere[second] = found

    def settled(self, now: int) -> int:
        """The second until which everything is there; ``now`` if no other process has said anything."""
        return now - _LATE if self._elsewhere else now

    def heard_here(self, after: int, until: int) -> list[tuple[int, list[LaneRow]]]:
        """What this process has heard in each second later than ``after`` and before ``until`` (Unix time), in order;
        seconds without news are left out."""
        with self._lock:
            if self._second < until:
                self._turn(until)
            keys = list(self._places)
            past = [(second, row) for second, row in self._past.items() if after < second < until]
        found: list[tuple[int, list[LaneRow]]] = []
        for second, row in past:
            parts = zip(keys, (row[at : at + _WIDTH] for at in range(0, len(row), _WIDTH)), strict=False)
            found.append((second, [(*key, part.tolist()) for key, part in parts if any(part)]))
        return found

    def sums_elsewhere(self, second: int) -> dict[str, int]:
        """Each field in one second, over all lanes, as other processes have heard it."""
        with self._lock:
            row = self._elsewhere.get(second, array("Q"))
        return {name: sum(row[number::_WIDTH]) for number, name in enumerate(FIELDS)}

    def window(self, until: int, seconds: int, policy: str | None = None, *, here: bool = False) -> list[LaneSeries]:
        """The ``seconds`` before ``until`` (Unix time), of one policy or of all. Seconds without news have zeros.

        ``here``: as this process alone has heard it.
        """
        first = until - seconds
        with self._lock:
            if self._second < until:
                self._turn(until)
            places = dict(self._places)
            past = self._between(first, until, here=here)
        found = []
        for (name, lane, direction), place in sorted(places.items()):
            if policy is not None and name != policy:
                continue
            values = {field: [0] * seconds for field in FIELDS}
            seen = False
            for second, row in past:
                part = row[place * _WIDTH : (place + 1) * _WIDTH]
                if any(part):
                    seen = True
                    for field, value in zip(FIELDS, part, strict=True):
                        values[field][second - first] = value
            if seen:
                found.append(LaneSeries(name, lane, direction, values))
        return found

    def counters(self, until: int) -> dict[LaneKey, tuple[int, ...]]:
        """What this process has heard of each of :data:`COUNTERS` before ``until`` (Unix time), since it knows the
        lane."""
        with self._lock:
            if self._second < until:
                self._turn(until)
            return {key: tuple(counted) for key, counted in self._counted.items()}

    def totals(self, until: int, seconds: int) -> dict[LaneKey, LaneTotals]:
        """Sums over the ``seconds`` before ``until`` (Unix time), of lanes of which anything was heard."""
        with self._lock:
            if self._second < until:
                self._turn(until)
            places = dict(self._places)
            past = [row for _, row in self._between(until - seconds, until)]
        found = {}
        for key, place in places.items():
            at = place * _WIDTH
            rows = [part for row in past if any(part := row[at : at + _WIDTH])]
            if rows:
                columns = list(zip(*rows, strict=True))
                counted = {name: sum(columns[place]) for name, place in zip(_TOLD, _TOLD_PLACES, strict=True)}
                found[key] = LaneTotals(**counted, heard=len(rows))
        return found

    def _turn(self, second: int) -> None:
        """Put what was gathered among the past."""
        if any(self._heard):
            for key, place in self._places.items():
                counted, at = self._counted.setdefault(key, [0] * len(COUNTERS)), place * _WIDTH
                for number in range(len(COUNTERS)):
                    counted[number] += self._now[at + number]
                if self._heard[place]:
                    self._now[at + _HELD.start : at + _HELD.stop] = self._held[at + _HELD.start : at + _HELD.stop]
            self._past[self._second] = array("Q", [min(value, _MOST) for value in self._now])
        self._now = [0] * (len(self._places) * _WIDTH)
        self._heard = bytearray(len(self._places))
        self._second = second
        for past in (self._past, self._elsewhere):
            while past and (first := next(iter(past))) < second - SECONDS:
                del past[first]

    def _between(self, first: int, until: int, *, here: bool = False) -> list[tuple[int, array[int]]]:
        """The rows of seconds from ``first`` on and before ``until``, in order."""
        if here or not self._elsewhere:
            return [(second, row) for second, row in self._past.items() if first <= second < until]
        found = []
        for second in range(max(first, self._second - SECONDS), min(until, self._second)):
            own, others = self._past.get(second), self._elsewhere.get(second)
            if own is not None and others is not None:
                own = array("Q", (min(sum(each), _MOST) for each in zip_longest(own, others, fillvalue=0)))
            if (row := own if own is not None else others) is not None:
                found.append((second, row))
        return found

    def _hold(self, agent: str, said: array[int]) -> None:
        """Have an agent's part of the sums be what it said last."""
        before = self._said.get(agent, _NOTHING)
        if said == before:
            return
        for at in range(0, max(len(before), len(said)), _STEP):
            old, new = before[at : at + _STEP], said[at : at + _STEP]
            if old != new:
                self._hold_lane(old, -1)
                self._hold_lane(new, 1)
        if said:
            self._said[agent] = said
        else:
            del self._said[agent]

    def _hold_lane(self, part: array[int], sign: int) -> None:
        """``part``: a place, and what holds there; or nothing."""
        for number, value in enumerate(part[1:], part[0] * _WIDTH + _HELD.start if part else 0):
            self._held[number] += sign * value

    def _place(self, policy: str, lane: str, direction: str) -> int | None:
        if policy:
            known = self._lanes.get(policy)
            if known is None:
                return None  # it was removed a moment ago, or never was
            lane = lane if lane in known else OTHER
        else:
            lane = OTHER
        key = (policy, lane, direction)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= self._most:
                return None
            place = self._places[key] = len(self._places)
            self._now += [0] * _WIDTH
            self._held += [0] * _WIDTH
            self._heard.append(0)
        return place

    def _forget(self) -> None:
        """Leave room to the lanes that there are."""
        kept = {key: place for key, place in self._places.items() if not key[0] or key[0] in self._lanes}
        if len(kept) == len(self._places):
            return
        places = list(kept.values())

        def moved(row: array[int] | list[int]) -> Iterable[int]:
            wide = [*row, *[0] * (len(self._places) * _WIDTH - len(row))]
            return (value for place in places for value in wide[place * _WIDTH : (place + 1) * _WIDTH])

        self._past = {second: array("Q", moved(row)) for second, row in self._past.items()}
        self._elsewhere = {second: array("Q", moved(row)) for second, row in self._elsewhere.items()}
        self._now = list(moved(self._now))
        self._held = list(moved(self._held))
        self._heard = bytearray(self._heard[place] for place in places)
        numbers = {place: number for number, place in enumerate(places)}
        for agent, said in self._said.items():
            parts = (said[at : at + _STEP] for at in range(0, len(said), _STEP))
            left = [(numbers[part[0]], *part[1:]) for part in parts if part[0] in numbers]
            self._said[agent] = array("Q", (value for part in left for value in part))
        self._places = {key: number for number, key in enumerate(kept)}
        self._counted = {key: counted for key, counted in self._counted.items() if key in kept}
