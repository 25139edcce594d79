"""fq_codel: short queues, and flows that take turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.netlink.codec import attributes, number, u32
from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount, Duration

DEFAULT_FLOWS: Final = 1024
"""Flow queues of fq_codel when none are named (tc-fq_codel(8))."""
DEFAULT_FQ_QUANTUM: Final = ByteCount(1514)
"""Bytes a flow of fq_codel or sfq may send in its turn: one full Ethernet packet, as the kernel chooses there."""
_CODEL_STEP_NS: Final = 1024
"""CoDel keeps times in units of 1,024 ns (CODEL_SHIFT in include/net/codel.h)."""
_TARGET, _LIMIT, _INTERVAL, _ECN, _FLOWS, _QUANTUM, _MEMORY_LIMIT = 1, 2, 3, 4, 5, 6, 9
"""TCA_FQ_CODEL_*"""


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
        return (
            isinstance(other, FqCodel)
            and (self.place, self.limit) == (other.place, other.limit)
            and (self.memory_limit, self.quantum, self.ecn) == (other.memory_limit, other.quantum, other.ecn)
            and self.flows == other.flows
            and _same_codel_time(self.target, other.target)
            and _same_codel_time(self.interval, other.interval)
        )

    def can_become(self, other: object) -> bool:
        return isinstance(other, FqCodel) and (self.place, self.flows) == (other.place, other.flows)

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} fq_codel limit {self.limit} flows {self.flows} "
            f"target {self.target.microseconds}us interval {self.interval.microseconds}us "
            f"quantum {self.quantum.count} memory_limit {self.memory_limit.count}b {'ecn' if self.ecn else 'noecn'}"
        )

    def options(self, *, creating: bool) -> bytes:
        """TCA_OPTIONS. The number of flows is refused in a change, even when it is the same."""
        values = (
            (_TARGET, self.target.microseconds),
            (_LIMIT, self.limit),
            (_INTERVAL, self.interval.microseconds),
            (_ECN, int(self.ecn)),
            (_QUANTUM, self.quantum.count),
            (_MEMORY_LIMIT, self.memory_limit.count),
            *([(_FLOWS, self.flows)] if creating else []),
        )
        return b"".join(u32(kind, value) for kind, value in values)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> FqCodel:
        """The qdisc that TCA_OPTIONS describe."""
        found = attributes(options)
        return cls(
            handle,
            parent,
            limit=number(found, _LIMIT),
            target=Duration(number(found, _TARGET) * 1000),
            interval=Duration(number(found, _INTERVAL) * 1000),
            memory_limit=ByteCount(number(found, _MEMORY_LIMIT)),
            flows=number(found, _FLOWS),
            quantum=ByteCount(number(found, _QUANTUM)),
            ecn=bool(number(found, _ECN)),
        )


def _same_codel_time(one: Duration, other: Duration) -> bool:
    return abs(one.nanoseconds - other.nanoseconds) <= 2 * _CODEL_STEP_NS
