"""What the relay has to hold itself of what it receives: a policy's limits, as plain numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """Limits of one class, in bytes per second. Of priorities, lower numbers come first."""

    name: str
    class_id: int
    rate: int
    ceil: int
    priority: int


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """What is received through the relay, in bytes per second. Classes without a lane are in the default class's."""

    total: int
    lanes: tuple[ClassLimits, ...]

    @classmethod
    def from_policy(cls, policy: TrafficPolicy, ids: ClassIds) -> ReceiveLimits | None:
        """Those of a policy; None when it does not limit what arrives."""
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
