"""Caps: the most that Pods may have. What a policy has more is lowered, and each such clamp is told. Pure.

A total that is lowered may leave less than the classes are promised; their guarantees are then lowered in proportion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from traffic_policy.check import check
from traffic_policy.cluster.target import PolicyCaps
from traffic_policy.errors import PolicyError, Problem
from traffic_policy.policy import DEFAULT_CLASS, MIN_RATE, ClassIngress, DefaultClass, Ingress, TrafficClass
from traffic_policy.policy import TrafficPolicy as Policy
from traffic_policy.units import Rate


@dataclass(frozen=True, slots=True)
class CapsOf:
    """Caps, and who says them, as ``ClusterTrafficPolicy guard``."""

    name: str
    caps: PolicyCaps


@dataclass(frozen=True, slots=True)
class Clamp:
    """One value that was lowered. ``concerns`` is ``total``, ``ingress total`` or ``class NAME``; ``what`` the value in
    words; ``by`` who says the cap."""

    concerns: str
    what: str
    asked: str
    given: str
    by: str

    def __str__(self) -> str:
        return f"{self.what} is {self.given} instead of {self.asked}, by the caps of {self.by}."


def capped(policy: Policy, caps: Sequence[CapsOf]) -> tuple[Policy, tuple[Clamp, ...]]:
    """The policy within all of these caps, and what that has lowered. Raises :class:`PolicyError` where they leave too
    little to keep a guarantee at all."""
    return _Capping(policy, caps).done()


class _Capping:
    def __init__(self, policy: Policy, caps: Sequence[CapsOf]) -> None:
        self._policy = policy
        self._clamps: list[Clamp] = []
        self._total = _lowest((each.caps.total, each.name) for each in caps)
        self._received = _lowest((each.caps.ingress, each.name) for each in caps)
        self._ceil = _lowest((each.caps.ceil, each.name) for each in caps)
        urgent = [(each.caps.priority, each.name) for each in caps if each.caps.priority is not None]
        self._priority = max(urgent, key=lambda each: each[0], default=None)

    def done(self) -> tuple[Policy, tuple[Clamp, ...]]:
        old = self._policy
        total = self._lowered("total", "total", old.total, self._total)
        ingress = old.ingress
        if self._received is not None:
            asked = None if ingress is None else ingress.total
            ingress = Ingress(total=self._lowered("ingress total", "ingress.total", asked, self._received))
        everyone: list[tuple[str, TrafficClass | DefaultClass]] = [(each.name, each) for each in old.classes]
        everyone.append((DEFAULT_CLASS, old.default))
        changes = [self._limits(name, each, total) for name, each in everyone]
        self._share_out(changes, everyone, "rate", total, self._total)
        if ingress is not None:
            self._share_out(changes, everyone, "ingress", ingress.total, self._received)
        made = [each.model_copy(update=change) for (_, each), change in zip(everyone, changes, strict=True)]
        policy = old.model_copy(
            update={"total": total, "ingress": ingress, "classes": (*made[:-1],), "default": made[-1]}
        )
        if self._clamps and (problems := check(policy)):
            by = " and ".join(dict.fromkeys(each.by for each in self._clamps))
            raise PolicyError([Problem("", f"The caps of {by} leave too little. {each}") for each in problems])
        return policy, tuple(self._clamps)

    def _lowered(self, concerns: str, what: str, asked: Rate | None, cap: tuple[Rate, str] | None) -> Rate:
        """The rate, or the cap where that is less; None is without limit."""
        if cap is None or (asked is not None and asked <= cap[0]):
            assert asked is not None
            return asked
        self._clamps.append(Clamp(concerns, what, "no limit" if asked is None else str(asked), str(cap[0]), cap[1]))
        return cap[0]

    def _limits(self, name: str, each: TrafficClass | DefaultClass, total: Rate) -> dict[str, Any]:
        """Ceil, priority, and a guarantee that is not more than the ceil."""
        change: dict[str, Any] = {}
        concerns, ceil = f"class {name}", each.ceil
        if self._ceil is not None and min(each.ceil or total, total) > self._ceil[0]:
            ceil = change["ceil"] = self._lowered(concerns, f"ceil of class {name}", each.ceil or total, self._ceil)
            if each.rate is not None and each.rate > ceil:
                change["rate"] = self._lowered(concerns, f"rate of class {name}", each.rate, self._ceil)
        if self._priority is not None and each.priority < self._priority[0]:
            urgent, by = self._priority
            self._clamps.append(Clamp(concerns, f"priority of class {name}", str(each.priority), str(urgent), by))
            change["priority"] = urgent
        return change

    def _share_out(
        self,
        changes: list[dict[str, Any]],
        everyone: Sequence[tuple[str, TrafficClass | DefaultClass]],
        key: str,
        total: Rate,
        cap: tuple[Rate, str] | None,
    ) -> None:
        """Lower guarantees in proportion where they are more than the total together."""
        asked = [
            (each.ingress.rate if each.ingress else None) if key == "ingress" else change.get("rate", each.rate)
            for (_, each), change in zip(everyone, changes, strict=True)
        ]
        promised = sum(rate.bits_per_second for rate in asked if rate is not None)
        if cap is None or promised <= total.bits_per_second:
            return
        for (name, each), change, rate in zip(everyone, changes, asked, strict=True):
            if rate is None:
                continue
            given = max(MIN_RATE, Rate(rate.bits_per_second * total.bits_per_second // promised))
            what = f"ingress.rate of class {name}" if key == "ingress" else f"rate of class {name}"
            self._clamps.append(Clamp(f"class {name}", what, str(rate), str(given), cap[1]))
            if key == "ingress":
                change["ingress"] = ClassIngress(rate=given, ceil=each.ingress.ceil if each.ingress else None)
            else:
                change["rate"] = given


def _lowest(caps: Iterable[tuple[Rate | None, str]]) -> tuple[Rate, str] | None:
    return min(((rate, name) for rate, name in caps if rate is not None), default=None)
