"""Queueing disciplines as the kernel has them: one frozen value for each kind that we make.

Each can say three things. ``str()`` is what follows ``tc qdisc add dev IF``. ``agrees_with(other)`` tells whether a
value read back from the kernel means the same: the kernel rounds some numbers (bursts are carried as 64 ns ticks,
CoDel's times as 1,024 ns units, probabilities as parts of 2^32), and such a difference is no change.
``can_become(other)`` tells whether the kernel can turn the one into the other in place, so that the queue stays; where
it cannot (``ops->change`` in net/sched/sch_*.c), only a new qdisc has the new numbers.

Handles, and with them ours from other people's, are the caller's business: all kinds here are equal, save that a handle
with major 0 marks a qdisc that the kernel chose by itself, which is an :class:`OtherQdisc` whatever its kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.units import ByteCount, Duration, Rate

DEFAULT_R2Q: Final = 10
"""HTB's rate-to-quantum divisor (tc-htb(8)), used only by classes without a quantum of their own; ours all have one."""
DEFAULT_FLOWS: Final = 1024
"""Flow queues of fq_codel when none are named (tc-fq_codel(8))."""
DEFAULT_FQ_QUANTUM: Final = ByteCount(1514)
"""Bytes a flow of fq_codel or sfq may send in its turn: one full Ethernet packet, as the kernel chooses there."""
DEFAULT_PRIOMAP: Final = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
"""The band of each of the 16 packet priorities, as tc-prio(8) has it: interactive 0, best effort 1, bulk 2."""
SFQ_FLOWS: Final = 128
"""Flows that sfq serves at once unless told otherwise (SFQ_DEFAULT_FLOWS): with the depth, the most it can queue."""
SFQ_DEPTH: Final = 127
"""Packets that one flow of sfq may have queued, which is also the most that it takes (SFQ_MAX_DEPTH)."""
NO_TIME: Final = Duration(0)
INTERNET_RTT: Final = Duration(100_000_000)
"""What CAKE is tuned for unless told otherwise: 100 ms, fit for most of the Internet (tc-cake(8))."""
BY_ITSELF: Final = ByteCount(0)
"""A size that the kernel is to choose."""
_CODEL_STEP_NS: Final = 1024
"""CoDel keeps times in units of 1,024 ns (CODEL_SHIFT in include/net/codel.h)."""
_MAX_JITTER_NS: Final = 2**31 - 1
"""The most jitter that netem's random numbers can have (tabledist() in sch_netem.c): it cuts what is above."""
_TC_TIME_STEP_NS: Final = 1000
"""tc(8) drops fractions of a microsecond, though netem keeps nanoseconds."""

INGRESS: Final = Handle(0xFFFF, 0xFFF1)
"""TC_H_INGRESS and TC_H_CLSACT: where ``clsact`` and ``ingress`` are attached."""
INGRESS_HANDLE: Final = Handle(0xFFFF)
"""The only handle that either of them can have."""
INGRESS_HOOK: Final = Handle(0xFFFF, 0xFFF2)
"""TC_H_MIN_INGRESS: the parent of filters that see what arrives, below either of the two."""
EGRESS_HOOK: Final = Handle(0xFFFF, 0xFFF3)
"""TC_H_MIN_EGRESS: the parent of filters that see what leaves, before any queue, below ``clsact`` alone."""


def tc_rate(rate: Rate) -> str:
    """A rate for tc(8), with a prefix only where no fraction is left: tc reads fractions as inexact doubles."""
    for suffix, factor in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if rate.bits_per_second and rate.bits_per_second % factor == 0:
            return f"{rate.bits_per_second // factor}{suffix}"
    return f"{rate.bits_per_second}bit"


def tc_time(duration: Duration) -> str:
    """A time for tc(8), in the largest unit that leaves no fraction; not all releases know nanoseconds."""
    for suffix, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if duration.nanoseconds % factor == 0:
            return f"{duration.nanoseconds // factor}{suffix}"
    return f"{Decimal(duration.nanoseconds) / 1000}us"


def tc_percent(ppm: int) -> str:
    """Parts per million as a percentage for tc(8): ``0.01%``."""
    return f"{(Decimal(ppm) / 10_000).normalize():f}%"


def attachment(parent: Handle, handle: Handle) -> str:
    """Where a qdisc is, in the words of tc(8)."""
    where = "root" if parent == ROOT else f"parent {parent}"
    return f"{where} handle {handle}"


def same_burst(rate: Rate, one: ByteCount, other: ByteCount) -> bool:
    """Equal up to what passes in one microsecond, the coarsest step of any tool that writes bursts."""
    return abs(one.count - other.count) <= 1 + rate.bytes_per_second // 1_000_000


def _same_codel_time(one: Duration, other: Duration) -> bool:
    return abs(one.nanoseconds - other.nanoseconds) <= 2 * _CODEL_STEP_NS


# --- with classes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HtbQdisc:
    """An HTB root. ``default_minor`` names the class of unclassified packets, ``direct_qlen`` is in packets.

    ``r2q`` has no effect on classes with an explicit quantum, and all of ours have one. :mod:`tc_core.diff` keeps the
    interface's previous ``gso_max_size`` in it, so that removal can restore it even after a restart: the kernel keeps
    the number exactly as long as the tree that made the change.
    """

    handle: Handle
    default_minor: int
    r2q: int = DEFAULT_R2Q
    direct_qlen: int = 1000
    parent: Handle = ROOT
    kind: str = field(default="htb", init=False)

    def agrees_with(self, other: object) -> bool:
        """HTB cannot be altered once it is there, and r2q and direct_qlen mean nothing to a complete tree of ours."""
        return (
            isinstance(other, HtbQdisc)
            and (self.handle, self.parent) == (other.handle, other.parent)
            and self.default_minor == other.default_minor
        )

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: HTB has no change operation."""
        return False

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} htb default {self.default_minor:x} r2q {self.r2q} "
            f"direct_qlen {self.direct_qlen}"
        )


@dataclass(frozen=True, slots=True)
class Tbf:
    """A token bucket (tc-tbf(8)): at most ``rate`` in the mean, ``burst`` bytes at once, ``limit`` bytes waiting.

    It has one class, ``HANDLE:1``, with a FIFO of ``limit`` bytes until another qdisc takes that place.
    """

    handle: Handle
    parent: Handle
    rate: Rate
    burst: ByteCount
    limit: ByteCount
    kind: str = field(default="tbf", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, Tbf)
            and (self.handle, self.parent, self.limit) == (other.handle, other.parent, other.limit)
            and self.rate.bytes_per_second == other.rate.bytes_per_second
            and same_burst(self.rate, self.burst, other.burst)
        )

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue, which it can for any numbers."""
        return isinstance(other, Tbf) and (self.handle, self.parent) == (other.handle, other.parent)

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} tbf rate {tc_rate(self.rate)} burst {self.burst.count}b "
            f"limit {self.limit.count}b"
        )


@dataclass(frozen=True, slots=True)
class Prio:
    """Strict priorities (tc-prio(8)): band 0 first, the next only while it is empty.

    ``bands`` (2 to 16) are the classes ``HANDLE:1`` to ``HANDLE:bands``, each with a FIFO of its own until another
    qdisc takes that place; ``priomap`` has the band of each of the 16 packet priorities that no filter overrules.
    """

    handle: Handle
    parent: Handle
    bands: int = 3
    priomap: tuple[int, ...] = DEFAULT_PRIOMAP
    kind: str = field(default="prio", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return self == other

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other``. Bands that go lose what they have queued."""
        return isinstance(other, Prio) and (self.handle, self.parent) == (other.handle, other.parent)

    def __str__(self) -> str:
        bands = " ".join(str(band) for band in self.priomap)
        return f"{attachment(self.parent, self.handle)} prio bands {self.bands} priomap {bands}"


# --- queues ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FqCodel:
    """An fq_codel leaf (RFC 8290, tc-fq_codel(8)). ``limit`` in packets, ``memory_limit`` and ``quantum`` in bytes.

    ``flows`` can only be chosen when the qdisc is made.
    """

    handle: Handle
    parent: Handle
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
            and (self.handle, self.parent, self.limit) == (other.handle, other.parent, other.limit)
            and (self.memory_limit, self.quantum, self.ecn) == (other.memory_limit, other.quantum, other.ecn)
            and self.flows == other.flows
            and _same_codel_time(self.target, other.target)
            and _same_codel_time(self.interval, other.interval)
        )

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue."""
        return isinstance(other, FqCodel) and (self.handle, self.parent, self.flows) == (
            other.handle,
            other.parent,
            other.flows,
        )

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} fq_codel limit {self.limit} flows {self.flows} "
            f"target {self.target.microseconds}us interval {self.interval.microseconds}us "
            f"quantum {self.quantum.count} memory_limit {self.memory_limit.count}b {'ecn' if self.ecn else 'noecn'}"
        )


@dataclass(frozen=True, slots=True)
class Bfifo:
    """A leaf that queues at most ``limit`` bytes, first in first out (tc-bfifo(8))."""

    handle: Handle
    parent: Handle
    limit: ByteCount
    kind: str = field(default="bfifo", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return self == other

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue."""
        return isinstance(other, Bfifo) and (self.handle, self.parent) == (other.handle, other.parent)

    def __str__(self) -> str:
        return f"{attachment(self.parent, self.handle)} bfifo limit {self.limit.count}b"


@dataclass(frozen=True, slots=True)
class Sfq:
    """Stochastic fairness (tc-sfq(8)): flows take turns of ``quantum`` bytes each.

    ``limit`` is in packets, over all flows; ``depth`` the same for one flow, at most 127. Every ``perturb`` (whole
    seconds, 0 never) flows are spread anew, so that two that share a queue do not do so for long. The kernel cuts
    ``limit`` to what ``depth`` and its 128 flows can hold.
    """

    handle: Handle
    parent: Handle
    limit: int
    quantum: ByteCount
    perturb: Duration
    depth: int = SFQ_DEPTH
    kind: str = field(default="sfq", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, Sfq)
            and (self.handle, self.parent) == (other.handle, other.parent)
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


class Diffserv(StrEnum):
    """How many priorities CAKE tells apart by a packet's DSCP, in the words of tc-cake(8)."""

    DIFFSERV3 = "diffserv3"
    DIFFSERV4 = "diffserv4"
    DIFFSERV8 = "diffserv8"
    BESTEFFORT = "besteffort"
    PRECEDENCE = "precedence"


class Isolation(StrEnum):
    """Between whom CAKE shares fairly, in the words of tc-cake(8)."""

    FLOWBLIND = "flowblind"
    SRCHOST = "srchost"
    DSTHOST = "dsthost"
    HOSTS = "hosts"
    FLOWS = "flows"
    DUAL_SRCHOST = "dual-srchost"
    DUAL_DSTHOST = "dual-dsthost"
    TRIPLE_ISOLATE = "triple-isolate"


@dataclass(frozen=True, slots=True)
class Cake:
    """CAKE (tc-cake(8)): shaping, fairness between hosts and flows, and short queues in one qdisc.

    ``bandwidth`` None is unlimited. ``rtt`` (whole microseconds) is what its queues are sized for, their target delay a
    twentieth of it. ``nat`` looks behind address translation for the hosts; ``wash`` clears the DSCP afterwards;
    ``ack_filter`` thins out TCP acknowledgements (an aggressive filter is read back as one); ``ingress`` counts what
    it drops, too, as having crossed the link. ``overhead`` and ``mpu`` are bytes per packet that the link adds and
    the least it carries; None takes sizes as they are. ``memory_limit`` 0 leaves the choice to CAKE. In a change, tc(8)
    sends neither ``mpu`` nor this when they are 0, so that they stay as they were; our own message does send them.
    """

    handle: Handle
    parent: Handle
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
        """Whether ``other``, read from the kernel, is this qdisc."""
        return isinstance(other, Cake) and self._on_the_wire == other._on_the_wire

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue, which it can for any numbers."""
        return isinstance(other, Cake) and (self.handle, self.parent) == (other.handle, other.parent)

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
        return (self.handle, self.parent, *modes, *switches, *sizes)

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


@dataclass(frozen=True, slots=True)
class Netem:
    """What a bad network does to packets, for rehearsals (tc-netem(8)).

    ``limit`` in packets, of which there must be enough for ``delay`` times the rate; ``jitter`` (at most 2.1 s) is the
    spread of the delay. Probabilities are parts per million of packets. ``reorder_ppm`` sends that part of every
    ``gap``-th packet at once, the others after ``delay``, without which there is nothing to reorder. ``rate`` None is
    unlimited.
    """

    handle: Handle
    parent: Handle
    limit: int = 1000
    delay: Duration = NO_TIME
    jitter: Duration = NO_TIME
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    corrupt_ppm: int = 0
    reorder_ppm: int = 0
    gap: int = 1
    rate: Rate | None = None
    kind: str = field(default="netem", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return (
            isinstance(other, Netem)
            and self._on_the_wire == other._on_the_wire
            and abs(self.delay.nanoseconds - other.delay.nanoseconds) < _TC_TIME_STEP_NS
            and abs(self._bounded_jitter - other._bounded_jitter) < _TC_TIME_STEP_NS
        )

    def can_become(self, other: object) -> bool:
        """Whether the kernel can alter this qdisc into ``other`` and keep its queue, which it can for any numbers."""
        return isinstance(other, Netem) and (self.handle, self.parent) == (other.handle, other.parent)

    @property
    def bytes_per_second(self) -> int:
        """The rate as the kernel is told it: 0 is unlimited."""
        return self.rate.bytes_per_second if self.rate else 0

    @property
    def _on_the_wire(self) -> tuple[object, ...]:
        """Everything but times as the kernel keeps it: without reordering the gap means nothing."""
        gap = self.gap if self.reorder_ppm else 0
        chances = (self.loss_ppm, self.duplicate_ppm, self.corrupt_ppm, self.reorder_ppm, gap)
        return (self.handle, self.parent, self.limit, *chances, self.bytes_per_second)

    @property
    def _bounded_jitter(self) -> int:
        return min(self.jitter.nanoseconds, _MAX_JITTER_NS)

    def __str__(self) -> str:
        return self._text([words for words, matter in self._words() if matter])

    @property
    def spelled_out(self) -> str:
        """The same with what is 0: in a change, what is not named stays."""
        return self._text([words for words, _ in self._words()])

    def _text(self, words: list[str]) -> str:
        return f"{attachment(self.parent, self.handle)} netem limit {self.limit} {' '.join(words)}".rstrip()

    def _words(self) -> list[tuple[str, bool]]:
        """What is done to packets, and whether it is anything at all."""
        jitter = f" {tc_time(self.jitter)}" if self.jitter.nanoseconds else ""
        gap = f" gap {self.gap}" if self.reorder_ppm else ""
        return [
            (f"delay {tc_time(self.delay)}{jitter}", bool(self.delay.nanoseconds or jitter)),
            (f"loss {tc_percent(self.loss_ppm)}", bool(self.loss_ppm)),
            (f"duplicate {tc_percent(self.duplicate_ppm)}", bool(self.duplicate_ppm)),
            (f"corrupt {tc_percent(self.corrupt_ppm)}", bool(self.corrupt_ppm)),
            (f"reorder {tc_percent(self.reorder_ppm)}{gap}", bool(self.reorder_ppm)),
            (f"rate {tc_rate(self.rate) if self.rate else '0bit'}", self.rate is not None),
        ]


# --- places for filters ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clsact:
    """No queue, but places for filters: what arrives (:data:`INGRESS_HOOK`) and what leaves (:data:`EGRESS_HOOK`)."""

    handle: Handle = INGRESS_HANDLE
    parent: Handle = INGRESS
    kind: str = field(default="clsact", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return self == other

    def can_become(self, other: object) -> bool:
        """There is nothing about it that could change."""
        return self == other

    def __str__(self) -> str:
        return "clsact"


@dataclass(frozen=True, slots=True)
class Ingress:
    """The older form of :class:`Clsact`, with only the place for what arrives. We use it, but never make it."""

    handle: Handle = INGRESS_HANDLE
    parent: Handle = INGRESS
    kind: str = field(default="ingress", init=False)

    def agrees_with(self, other: object) -> bool:
        """Whether ``other``, read from the kernel, is this qdisc."""
        return self == other

    def can_become(self, other: object) -> bool:
        """There is nothing about it that could change."""
        return self == other

    def __str__(self) -> str:
        return "ingress"


@dataclass(frozen=True, slots=True)
class OtherQdisc:
    """A qdisc of a kind that we never make. A handle with major 0 marks one that the kernel chose by default."""

    handle: Handle
    parent: Handle
    kind: str

    def agrees_with(self, other: object) -> bool:
        """Whether ``other`` is this qdisc, as far as we can tell."""
        return self == other

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: we do not know its options."""
        return False

    @property
    def is_default(self) -> bool:
        """Whether the kernel put it there by itself (``noqueue``, ``pfifo_fast``, ``mq`` ...)."""
        return self.handle.major == 0

    def __str__(self) -> str:
        return f"{attachment(self.parent, self.handle)} {self.kind}"


LeafQdisc = FqCodel | Bfifo | Sfq | Cake | Netem
RootQdisc = HtbQdisc | Tbf | Prio | Cake | Netem
OurQdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact
"""Every kind that we make."""
Qdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact | Ingress | OtherQdisc
