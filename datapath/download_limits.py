"""The receive limits of a policy that the relay enforces itself, as plain numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """Limits of one class, in bytes per second. Lower priority numbers come first."""

    name: str
    class_id: int
    rate: int
    ceil: int
    priority: int


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """Receive limits through the relay, in bytes per second. Classes not listed share the default class."""

    total: int
    lanes: tuple[ClassLimits, ...]

    @classmethod
    def from_policy(cls, policy: TrafficPolicy, ids: ClassIds) -> ReceiveLimits | None:
        """The limits of a policy; None if it does not limit received traffic."""
        received = policy.received()
        if received is None:
            return None
        return cls(
            received.total.bytes_per_second,
            tuple(
                ClassLimits(c.name, ids[c.name], c.rate.bytes_per_second, c.ceil.bytes_per_second, c.priority)
                for c in received.resolved()
            ),
        )
