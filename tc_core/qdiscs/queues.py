"""Queues without classes of their own: first in first out, and two ways for flows to take turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount, Duration

DEFAULT_FLOWS: Final = 1024
"""Flow queues of fq_codel when none are named (tc-fq_codel(8))."""
DEFAULT_FQ_QUANTUM: Final = ByteCount(1514)
"""Bytes a flow of fq_codel or sfq may send in its turn: one full Ethernet packet, as the kernel chooses there."""
SFQ_FLOWS: Final = 128
"""Flows that sfq serves at once unless told otherwise (SFQ_DEFAULT_FLOWS): with the depth, the most it can queue."""
SFQ_DEPTH: Final = 127
"""Packets that one flow of sfq may have queued, which is also the most that it takes (SFQ_MAX_DEPTH)."""
_CODEL_STEP_NS: Final = 1024
"""CoDel keeps times in units of 1,024 ns (CODEL_SHIFT in include/net/codel.h)."""


@dataclass(frozen=True, slots=True)
class FqCodel(Placed):
    """An fq_codel leaf (RFC 8290, tc-fq_codel(8)). ``limit`` in packets, ``memory_limit`` and ``quantum`` in bytes.

    ``flows`` can only be chosen when the qdisc is made.
    """

    limit: int
    target: Duration
    interval: Duration
    memory_limit: ByteCount
    flows: int = DEFAULT_FLOWS
    quantum: ByteCount = DEFAULT_FQ_QUANTUM
    ecn: bool = True
    kind: str = field(default="fq_codel", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, FqCodel)
            and (self.place, self.limit) == (other.place, other.limit)
            and (self.memory_limit, self.quantum, self.ecn) == (other.memory_limit, other.quantum, other.ecn)
            and self.flows == other.flows
            and _same_codel_time(self.target, other.target)
            and _same_codel_time(self.interval, other.interval)
        )

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue."""
        return isinstance(other, FqCodel) and (self.place, self.flows) == (other.place, other.flows)

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} fq_codel limit {self.limit} flows {self.flows} "
            f"target {self.target.microseconds}us interval {self.interval.microseconds}us "
            f"quantum {self.quantum.count} memory_limit {self.memory_limit.count}b {'ecn' if self.ecn else 'noecn'}"
        )


def _same_codel_time(one: Duration, other: Duration) -> bool:
    return abs(one.nanoseconds - other.nanoseconds) <= 2 * _CODEL_STEP_NS


@dataclass(frozen=True, slots=True)
class Bfifo(Placed):
    """A leaf that queues at most ``limit`` bytes, first in first out (tc-bfifo(8))."""

    limit: ByteCount
    kind: str = field(default="bfifo", init=False)

    def __str__(self) -> str:
        return f"{attachment(self.parent, self.handle)} bfifo limit {self.limit.count}b"


@dataclass(frozen=True, slots=True)
class Sfq(Placed):
    """Stochastic fairness (tc-sfq(8)): flows take turns of ``quantum`` bytes each.

    ``limit`` is in packets, over all flows; ``depth`` the same for one flow, at most 127. Every ``perturb`` (whole
    seconds, 0 never) flows are spread anew, so that two that share a queue do not do so for long. The kernel cuts
    ``limit`` to what ``depth`` and its 128 flows can hold.
    """

    limit: int
    quantum: ByteCount
    perturb: Duration
    depth: int = SFQ_DEPTH
    kind: str = field(default="sfq", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, Sfq)
            and self.place == other.place
            and (self.quantum, self.perturb_seconds, self.depth) == (other.quantum, other.perturb_seconds, other.depth)
            and min(self.limit, self.depth * SFQ_FLOWS) == other.limit
        )

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: sfq has no change operation."""
        return False

    @property
    def perturb_seconds(self) -> int:
        """How often flows are spread anew, as the kernel counts it: whole seconds, rounded down."""
        return self.perturb.nanoseconds // 10**9

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} sfq limit {self.limit} quantum {self.quantum.count} "
            f"perturb {self.perturb_seconds} depth {self.depth}"
        )
