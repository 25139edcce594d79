"""Stochastic fairness: flows take turns."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.qdiscs.notation import attachment
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount, Duration

SFQ_FLOWS: Final = 128
"""Flows that sfq serves at once unless told otherwise (SFQ_DEFAULT_FLOWS): with the depth, the most it can queue."""
SFQ_DEPTH: Final = 127
"""Packets that one flow of sfq may have queued, which is also the most that it takes (SFQ_MAX_DEPTH)."""
_OPT: Final = struct.Struct("=IiIIII48x")
"""struct tc_sfq_qopt_v1: quantum, perturb_period, limit, divisor, flows, depth; what follows is RED, and statistics."""


@dataclass(frozen=True, slots=True)
class Sfq(Placed):
    """Stochastic fairness (tc-sfq(8)): flows take turns of ``quantum`` bytes each.

    ``limit`` is in packets, over all flows; ``depth`` the same for one flow, at most 127. Every ``perturb`` (whole
    seconds, 0 never) flows are rehashed, so that two that share a queue do not do so for long. The kernel cuts
    ``limit`` to what ``depth`` and its 128 flows can hold.
    """

    limit: int
    quantum: ByteCount
    perturb: Duration
    depth: int = SFQ_DEPTH
    kind: str = field(default="sfq", init=False)

    def agrees_with(self, other: object) -> bool:
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
        """The rehash interval in the kernel's unit: whole seconds, rounded down."""
        return self.perturb.nanoseconds // 10**9

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} sfq limit {self.limit} quantum {self.quantum.count} "
            f"perturb {self.perturb_seconds} depth {self.depth}"
        )

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS."""
        return _OPT.pack(self.quantum.count, self.perturb_seconds, self.limit, 0, 0, self.depth)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Sfq:
        """The qdisc that TCA_OPTIONS describe."""
        quantum, perturb, limit, _, _, depth = _OPT.unpack_from(options.ljust(_OPT.size, b"\0"))
        return cls(handle, parent, limit, ByteCount(quantum), Duration(perturb * 10**9), depth)
