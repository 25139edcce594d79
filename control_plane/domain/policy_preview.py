"""What a policy would change, before it is drafted: limits of lanes, and who would have waited for them. Pure.

Agents know which workloads there are, and choose a policy for each; here are sums over all that have one. So what is
said of the past is the least that would have happened: a second counts only if all workloads together sent more than
all of them may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from traffic_policy.policy import ResolvedClass, TrafficPolicy
from traffic_policy.policy_file import policy_from_document

TOTAL: Final = ""
"""The name of all lanes together."""
_FRAMING: Final = 1.02
"""What is measured is measured at a second that is not exactly one."""


class LaneFate(StrEnum):
    """What becomes of a lane."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """In bit/s; ``priority`` 0 is first."""

    rate: int
    ceil: int
    priority: int


@dataclass(frozen=True, slots=True)
class LanePreview:
    """A lane in one direction (empty name: the total of all). ``before`` or ``after`` None: it is not there then.

    ``waited``: in so many of the seconds looked at more went through than may; ``beyond``: so much of what went through
    in all of them, as a share.
    """

    direction: str
    lane: str
    before: LaneLimits | None
    after: LaneLimits | None
    other_matches: bool
    waited: int = 0
    beyond: float = 0.0

    @property
    def fate(self) -> LaneFate:
        if self.before is None:
            return LaneFate.ADDED
        if self.after is None:
            return LaneFate.REMOVED
        return LaneFate.CHANGED if self.before != self.after or self.other_matches else LaneFate.SAME


@dataclass(frozen=True, slots=True)
class PastLane:
    """What went through a lane: bytes, and how many workloads had it, second by second."""

    direction: str
    lane: str
    bytes: Sequence[int]
    workloads: Sequence[int]


def preview(before: Mapping[str, Any] | None, after: Mapping[str, Any], past: Iterable[PastLane]) -> list[LanePreview]:
    """Each lane of a policy that is in force (None: none is) and of one that may be; documents in the normal form."""
    old = {} if before is None else _lanes(policy_from_document(before))
    new = _lanes(policy_from_document(after))
    seen = _with_totals(past)
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        was, becomes = old.get(key), new.get(key)
        waited, beyond = (0, 0.0) if becomes is None else _waited(seen.get(key), becomes[0].ceil)
        found.append(
            LanePreview(
                *key,
                None if was is None else was[0],
                None if becomes is None else becomes[0],
                was is not None and becomes is not None and was[1] != becomes[1],
                waited,
                beyond,
            )
        )
    return found


_Key = tuple[str, str]
_Lane = tuple[LaneLimits, object]
"""Limits, and the matches."""


def _lanes(policy: TrafficPolicy) -> dict[_Key, _Lane]:
    found: dict[_Key, _Lane] = {}
    for direction, each in (("egress", policy), ("ingress", policy.received())):
        if each is None:
            continue
        total = each.total.bits_per_second
        found[direction, TOTAL] = LaneLimits(total, total, 0), None
        for lane in each.resolved():
            found[direction, lane.name] = _limits(lane), lane.match
    return found


def _limits(lane: ResolvedClass) -> LaneLimits:
    return LaneLimits(lane.rate.bits_per_second, lane.ceil.bits_per_second, lane.priority)


def _with_totals(past: Iterable[PastLane]) -> dict[_Key, PastLane]:
    found: dict[_Key, PastLane] = {}
    for each in past:
        found[each.direction, each.lane] = each
        total = found.get((each.direction, TOTAL))
        if total is None:
            found[each.direction, TOTAL] = PastLane(each.direction, TOTAL, each.bytes, each.workloads)
        else:
            sums = [a + b for a, b in zip(total.bytes, each.bytes, strict=True)]
            most = [max(a, b) for a, b in zip(total.workloads, each.workloads, strict=True)]
            found[each.direction, TOTAL] = PastLane(each.direction, TOTAL, sums, most)
    return found


def _waited(past: PastLane | None, ceil: int) -> tuple[int, float]:
    if past is None or not any(past.bytes):
        return 0, 0.0
    waited, beyond = 0, 0.0
    for count, workloads in zip(past.bytes, past.workloads, strict=True):
        may = ceil * workloads
        if workloads and count * 8 > may * _FRAMING:
            waited += 1
            beyond += count * 8 - may
    return waited, beyond / (sum(past.bytes) * 8)


@dataclass(frozen=True, slots=True)
class SelectorRival:
    """Another policy that some workloads may be selected by, too. ``wins``: it is the one that they have."""

    policy: str
    wins: bool


def rivals(name: str, selector: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> list[SelectorRival]:
    """Of ``others``, selectors by policy: those that can meet this one. See :mod:`traffic_policy.selection`."""
    mine = (-len(selector), name)
    return [
        SelectorRival(other, (-len(theirs), other) < mine)
        for other, theirs in sorted(others.items())
        if other != name and all(selector.get(key, value) == value for key, value in theirs.items())
    ]
