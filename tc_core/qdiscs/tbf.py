"""A token bucket."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.netlink.codec import attribute, attributes, number, u32, u64
from tc_core.qdiscs.notation import attachment, same_burst, tc_rate
from tc_core.qdiscs.placed import Placed
from tc_core.qdiscs.wire import RATE_SPEC, U32, burst_bytes, burst_ticks, rate_spec
from traffic_policy.units import ByteCount, Rate

_PARMS, _RATE64, _BURST = 1, 4, 6
"""TCA_TBF_*"""
_OPT: Final = struct.Struct(f"={RATE_SPEC}{RATE_SPEC}III")
"""struct tc_tbf_qopt: rate, peakrate, limit, buffer, mtu."""
_NO_PEAK_RATE: Final = (0,) * 6


@dataclass(frozen=True, slots=True)
class Tbf(Placed):
    """A token bucket (tc-tbf(8)): at most ``rate`` in the mean, ``burst`` bytes at once, ``limit`` bytes waiting.

    It has one class, ``HANDLE:1``, with a FIFO of ``limit`` bytes until another qdisc takes that place.
    """

    rate: Rate
    burst: ByteCount
    limit: ByteCount
    kind: str = field(default="tbf", init=False)

    def agrees_with(self, other: object) -> bool:
        return (
            isinstance(other, Tbf)
            and (self.place, self.limit) == (other.place, other.limit)
            and self.rate.bytes_per_second == other.rate.bytes_per_second
            and same_burst(self.rate, self.burst, other.burst)
        )

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} tbf rate {tc_rate(self.rate)} burst {self.burst.count}b "
            f"limit {self.limit.count}b"
        )

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS."""
        rate = self.rate.bytes_per_second
        buffer = burst_ticks(self.rate, self.burst)
        parms = _OPT.pack(*rate_spec(rate), *_NO_PEAK_RATE, self.limit.count, buffer, 0)
        # Saying the burst in bytes, too, spares the kernel the way back from ticks.
        burst = u32(_BURST, self.burst.count)
        return attribute(_PARMS, parms) + burst + (u64(_RATE64, rate) if rate > U32 else b"")

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Tbf:
        """The qdisc that TCA_OPTIONS describe."""
        found = attributes(options)
        *specs, limit, buffer, _ = _OPT.unpack(found[_PARMS])
        rate = Rate.from_bytes_per_second(number(found, _RATE64, specs[5]))
        return cls(handle, parent, rate, burst_bytes(rate, buffer), ByteCount(limit))
