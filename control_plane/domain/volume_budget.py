"""How many bytes may go through lanes in a day or a month. Pure.

A budget is looked at, and alerts are told by it: it changes no lane, and what is beyond it passes as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from control_plane.domain.errors import InvalidError

DAY: Final = 86_400
MOST_BUDGETS: Final = 100
"""Of a tenant."""
_MOST: Final = 2**53 - 1
"""The largest integer that JSON's readers can take."""
_LONGEST: Final = 63
_DIRECTIONS: Final = ("", "egress", "ingress")


class BudgetPeriod(StrEnum):
    """From when on bytes count, by UTC."""

    DAY = "day"
    MONTH = "month"

    def first_day(self, now: float) -> int:
        """The day on which it has begun, counted from 1970-01-01. ``now``: Unix seconds."""
        today = datetime.fromtimestamp(now, UTC)
        first = today if self is BudgetPeriod.DAY else today.replace(day=1)
        return int(first.timestamp()) // DAY

    def end(self, now: float) -> int:
        """When it is over, in Unix seconds."""
        if self is BudgetPeriod.DAY:
            return (self.first_day(now) + 1) * DAY
        # Each month has a 28th, and 4 days later it is the next.
        later = self.first_day(now) * DAY + 32 * DAY
        return self.first_day(later) * DAY


class LaneVolume(NamedTuple):
    """What went through a lane (``policy`` empty: those of workloads' own policies): in this month, and of that
    today."""

    policy: str
    lane: str
    direction: str
    month: int
    day: int


@dataclass(frozen=True, slots=True)
class VolumeBudget:
    """``bytes`` in each ``period`` through all lanes of a tenant, or through those of a policy, a class (``lane``), a
    direction, as far as these are named. It is over the agents of all clusters."""

    bytes: int
    period: BudgetPeriod = BudgetPeriod.MONTH
    policy: str = ""
    lane: str = ""
    direction: str = ""

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if not 0 < self.bytes <= _MOST:
            raise InvalidError("A budget is a number of bytes from 1 on.", "Write one as 500GiB.")
        if self.direction not in _DIRECTIONS:
            raise InvalidError(
                f"{self.direction[:_LONGEST]!r} is no direction.", "Write egress or ingress, or leave it out."
            )
        for text in (self.policy, self.lane):
            if len(text) > _LONGEST or not text.isprintable():
                raise InvalidError("The name of a policy or class is no name.", f"Write {_LONGEST} characters at most.")

    def used(self, volumes: Iterable[LaneVolume]) -> int:
        """How much of it is used. ``volumes``: of all lanes, in the period that is now."""
        wanted = (self.policy, self.lane, self.direction)
        found = [each for each in volumes if all(not w or w == has for w, has in zip(wanted, each[:3], strict=True))]
        return sum(each.day if self.period is BudgetPeriod.DAY else each.month for each in found)

    @property
    def scope(self) -> dict[str, str]:
        """What it is narrowed to, by the names that alerts have for it."""
        named = {"policy": self.policy, "class": self.lane, "direction": self.direction}
        return {name: value for name, value in named.items() if value}

    def to_document(self) -> dict[str, Any]:
        """As it is stored. JSON's own values."""
        return {**asdict(self), "period": self.period.value}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> VolumeBudget:
        """The budget that was stored."""
        return cls(**{**document, "period": BudgetPeriod(document["period"])})


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """``used`` bytes of a budget at ``now``, in the period from ``since`` to ``until``. Times are Unix seconds."""

    budget: VolumeBudget
    used: int
    since: int
    now: int
    until: int

    @property
    def share(self) -> float:
        """1 is all of it."""
        return self.used / self.budget.bytes

    @property
    def used_up(self) -> int | None:
        """When it will be used up if bytes go on as in the period so far, in Unix seconds. None: not before the period
        ends, or it is used up already."""
        if not 0 < self.used < self.budget.bytes:
            return None
        passed = max(1, self.now - self.since)
        at = self.since - (-passed * self.budget.bytes // self.used)
        return at if at < self.until else None
