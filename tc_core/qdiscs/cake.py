"""CAKE: a shaper, fairness and short queues in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tc_core.handles import Handle
from tc_core.netlink.codec import attributes, number, u32, u64
from tc_core.qdiscs.notation import attachment, tc_rate
from tc_core.qdiscs.placed import Placed
from traffic_policy.units import ByteCount, Duration, Rate

INTERNET_RTT: Final = Duration(100_000_000)
"""What CAKE is tuned for unless told otherwise: 100 ms, fit for most of the Internet (tc-cake(8))."""
BY_ITSELF: Final = ByteCount(0)
"""A size that the kernel is to choose."""
_FLOW_MASK: Final = 7
"""CAKE_FLOW_MASK: the rest of a flow mode are flags."""
_TARGETS_PER_RTT: Final = 20
"""CAKE's target delay is the twentieth part of the round trip, as tc(8) sets it."""
_BASE_RATE64, _DIFFSERV_MODE, _FLOW_MODE, _OVERHEAD, _RTT, _TARGET, _AUTORATE, _MEMORY = 2, 3, 5, 6, 7, 8, 9, 10
_NAT, _RAW, _WASH, _MPU, _INGRESS, _ACK_FILTER, _SPLIT_GSO = 11, 12, 13, 14, 15, 16, 17
"""TCA_CAKE_*"""


class Diffserv(StrEnum):
    """How many priorities CAKE tells apart by a packet's DSCP, in the words of tc-cake(8).

    CAKE_DIFFSERV_* of linux/pkt_sched.h count from 0 in this order.
    """

    DIFFSERV3 = "diffserv3"
    DIFFSERV4 = "diffserv4"
    DIFFSERV8 = "diffserv8"
    BESTEFFORT = "besteffort"
    PRECEDENCE = "precedence"


class Isolation(StrEnum):
    """Between whom CAKE shares fairly, in the words of tc-cake(8). CAKE_FLOW_* count from 0 in this order."""

    FLOWBLIND = "flowblind"
    SRCHOST = "srchost"
    DSTHOST = "dsthost"
    HOSTS = "hosts"
    FLOWS = "flows"
    DUAL_SRCHOST = "dual-srchost"
    DUAL_DSTHOST = "dual-dsthost"
    TRIPLE_ISOLATE = "triple-isolate"


@dataclass(frozen=True, slots=True)
class Cake(Placed):
    """CAKE (tc-cake(8)): shaping, fairness between hosts and flows, and short queues in one qdisc.

    ``bandwidth`` None is unlimited. ``rtt`` (whole microseconds) is what its queues are sized for, their target delay a
    twentieth of it. ``nat`` looks behind address translation for the hosts; ``wash`` clears the DSCP afterwards;
    ``ack_filter`` thins out TCP acknowledgements (an aggressive filter is read back as one); ``ingress`` counts what
    it drops, too, as having crossed the link. ``overhead`` and ``mpu`` are bytes per packet that the link adds and
    the least it carries; None takes sizes as they are. ``memory_limit`` 0 leaves the choice to CAKE. In a change, tc(8)
    sends neither ``mpu`` nor this when they are 0, so that they stay as they were; our own message does send them.
    """

    bandwidth: Rate | None = None
    diffserv: Diffserv = Diffserv.DIFFSERV3
    isolation: Isolation = Isolation.TRIPLE_ISOLATE
    rtt: Duration = INTERNET_RTT
    nat: bool = False
    wash: bool = False
    ack_filter: bool = False
    ingress: bool = False
    split_gso: bool = True
    overhead: int | None = None
    mpu: int = 0
    memory_limit: ByteCount = BY_ITSELF
    kind: str = field(default="cake", init=False)

    def agrees_with(self, other: object) -> bool:
        return isinstance(other, Cake) and self._on_the_wire == other._on_the_wire

    @property
    def bytes_per_second(self) -> int:
        """The bandwidth as the kernel is told it: 0 is unlimited."""
        return self.bandwidth.bytes_per_second if self.bandwidth else 0

    @property
    def _on_the_wire(self) -> tuple[object, ...]:
        """Everything as the kernel keeps it: whole bytes per second, whole microseconds."""
        switches = (self.nat, self.wash, self.ack_filter, self.ingress, self.split_gso)
        sizes = (self.overhead, self.mpu, self.memory_limit)
        modes = (self.bytes_per_second, self.diffserv, self.isolation, self.rtt.microseconds)
        return (self.place, *modes, *switches, *sizes)

    def __str__(self) -> str:
        words = [
            f"bandwidth {tc_rate(self.bandwidth)}" if self.bandwidth else "unlimited",
            self.diffserv,
            self.isolation,
            "nat" if self.nat else "nonat",
            "wash" if self.wash else "nowash",
            "ack-filter" if self.ack_filter else "no-ack-filter",
            "ingress" if self.ingress else "egress",
            "split-gso" if self.split_gso else "no-split-gso",
            f"rtt {self.rtt.microseconds}us",
            "raw" if self.overhead is None else f"overhead {self.overhead}",
            *([f"mpu {self.mpu}"] if self.mpu else []),
            *([f"memlimit {self.memory_limit.count}b"] if self.memory_limit.count else []),
        ]
        return f"{attachment(self.parent, self.handle)} cake {' '.join(words)}"

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS. What others may have set is sent as the kernel's default: automatic rate."""
        rtt = max(1, self.rtt.microseconds)
        values = (
            (_AUTORATE, 0),
            (_DIFFSERV_MODE, tuple(Diffserv).index(self.diffserv)),
            (_FLOW_MODE, tuple(Isolation).index(self.isolation)),
            (_RTT, rtt),
            (_TARGET, max(1, rtt // _TARGETS_PER_RTT)),
            (_NAT, self.nat),
            (_WASH, self.wash),
            (_ACK_FILTER, self.ack_filter),
            (_INGRESS, self.ingress),
            (_SPLIT_GSO, self.split_gso),
            (_OVERHEAD, self.overhead or 0),
            (_MPU, self.mpu),
            (_MEMORY, self.memory_limit.count),
            *([(_RAW, 0)] if self.overhead is None else []),  # its presence counts
        )
        return u64(_BASE_RATE64, self.bytes_per_second) + b"".join(u32(kind, int(value)) for kind, value in values)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Cake:
        """The qdisc that TCA_OPTIONS describe."""
        found = attributes(options)
        rate = number(found, _BASE_RATE64)
        return cls(
            handle,
            parent,
            bandwidth=Rate.from_bytes_per_second(rate) if rate else None,
            diffserv=tuple(Diffserv)[number(found, _DIFFSERV_MODE)],
            isolation=tuple(Isolation)[number(found, _FLOW_MODE) & _FLOW_MASK],
            rtt=Duration(number(found, _RTT) * 1000),
            nat=bool(number(found, _NAT)),
            wash=bool(number(found, _WASH)),
            ack_filter=bool(number(found, _ACK_FILTER)),
            ingress=bool(number(found, _INGRESS)),
            split_gso=bool(number(found, _SPLIT_GSO)),
            overhead=None if _RAW in found else number(found, _OVERHEAD, signed=True),
            mpu=number(found, _MPU),
            memory_limit=ByteCount(number(found, _MEMORY)),
        )
