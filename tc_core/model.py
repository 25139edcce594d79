"""Qdiscs, classes and filters as the kernel has them: frozen values that both compile and observation produce.

``str()`` of a value is what follows ``tc qdisc add dev IF`` (or ``class``, ``filter``), so that a plan can be read, and
even run, by people. ``agrees_with`` says whether a value read back from the kernel means the same: the kernel rounds
some numbers (bursts are carried as 64 ns ticks, CoDel's times as 1,024 ns units), and tc(8) before 6.10 cuts bursts to
whole microseconds. A difference which is only that rounding is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.marks import Mark
from tc_core.units import ByteCount, Duration, Rate

DEFAULT_R2Q: Final = 10
"""HTB's rate-to-quantum divisor (tc-htb(8)), used only by classes without a quantum of their own; ours all have one."""
DEFAULT_FLOWS: Final = 1024
"""Flow queues of fq_codel when none are named (tc-fq_codel(8))."""
DEFAULT_FQ_QUANTUM: Final = ByteCount(1514)
"""Bytes a flow of fq_codel may send in its turn: one full Ethernet packet, as the kernel chooses for such a link."""
_CODEL_STEP_NS: Final = 1024
"""CoDel keeps times in units of 1,024 ns (CODEL_SHIFT in include/net/codel.h)."""


def tc_rate(rate: Rate) -> str:
    """A rate for tc(8), with a prefix only where no fraction is left: tc reads fractions as inexact doubles."""
    for suffix, factor in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if rate.bits_per_second and rate.bits_per_second % factor == 0:
            return f"{rate.bits_per_second // factor}{suffix}"
    return f"{rate.bits_per_second}bit"


def _attachment(parent: Handle, handle: Handle) -> str:
    where = "root" if parent == ROOT else f"parent {parent}"
    return f"{where} handle {handle}"


@dataclass(frozen=True, slots=True)
class Link:
    """What of an interface matters here. Sizes in bytes, ``tx_queue_len`` in packets (ip-link(8)).

    ``gso_max_size`` bounds the segments that TCP hands down at once; ``tso_max_size`` is the most the device takes.
    """

    name: str
    gso_max_size: int = 65536
    tso_max_size: int = 65536
    tx_queue_len: int = 1000

    @property
    def default_gso_max_size(self) -> int:
        """What the kernel gives a new device: GSO_LEGACY_MAX_SIZE, or less where the hardware takes less."""
        return min(65536, self.tso_max_size)


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

    def agrees_with(self, other: object) -> bool:
        """HTB cannot be altered once it is there, and r2q and direct_qlen mean nothing to a complete tree of ours."""
        return (
            isinstance(other, HtbQdisc)
            and (self.handle, self.parent) == (other.handle, other.parent)
            and self.default_minor == other.default_minor
        )

    def __str__(self) -> str:
        return (
            f"{_attachment(self.parent, self.handle)} htb default {self.default_minor:x} r2q {self.r2q} "
            f"direct_qlen {self.direct_qlen}"
        )


@dataclass(frozen=True, slots=True)
class HtbClass:
    """An HTB class (tc-htb(8)). ``quantum`` and ``prio`` count only for leaves; ``is_inner`` has children."""

    handle: Handle
    parent: Handle
    rate: Rate
    ceil: Rate
    burst: ByteCount
    cburst: ByteCount
    prio: int
    quantum: ByteCount
    is_inner: bool = False

    def agrees_with(self, other: HtbClass) -> bool:
        """Whether ``other``, read from the kernel, is this class. Quantum and priority of inner classes do nothing."""
        return (
            (self.handle, self.parent, self.rate, self.ceil) == (other.handle, other.parent, other.rate, other.ceil)
            and _same_burst(self.rate, self.burst, other.burst)
            and _same_burst(self.ceil, self.cburst, other.cburst)
            and (self.is_inner or (self.prio, self.quantum) == (other.prio, other.quantum))
        )

    def __str__(self) -> str:
        lending = "" if self.is_inner else f" prio {self.prio}"
        return (
            f"parent {self.parent} classid {self.handle} htb rate {tc_rate(self.rate)} ceil {tc_rate(self.ceil)} "
            f"burst {self.burst.count}b cburst {self.cburst.count}b quantum {self.quantum.count}{lending}"
        )


def _same_burst(rate: Rate, one: ByteCount, other: ByteCount) -> bool:
    """Equal up to what passes in one microsecond, the coarsest step of any tool that writes bursts."""
    return abs(one.count - other.count) <= 1 + rate.bytes_per_second // 1_000_000


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
            and _same_time(self.target, other.target)
            and _same_time(self.interval, other.interval)
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
            f"{_attachment(self.parent, self.handle)} fq_codel limit {self.limit} flows {self.flows} "
            f"target {self.target.microseconds}us interval {self.interval.microseconds}us "
            f"quantum {self.quantum.count} memory_limit {self.memory_limit.count}b {'ecn' if self.ecn else 'noecn'}"
        )


def _same_time(one: Duration, other: Duration) -> bool:
    return abs(one.nanoseconds - other.nanoseconds) <= 2 * _CODEL_STEP_NS


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
        return f"{_attachment(self.parent, self.handle)} bfifo limit {self.limit.count}b"


@dataclass(frozen=True, slots=True)
class OtherQdisc:
    """A qdisc of a kind that we never make. A handle with major 0 marks one that the kernel chose by default."""

    handle: Handle
    parent: Handle
    kind: str

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: we do not know its options."""
        return False

    @property
    def is_default(self) -> bool:
        """Whether the kernel put it there by itself (``noqueue``, ``pfifo_fast``, ``mq`` ...)."""
        return self.handle.major == 0

    def __str__(self) -> str:
        return f"{_attachment(self.parent, self.handle)} {self.kind}"


LeafQdisc = FqCodel | Bfifo
Qdisc = HtbQdisc | FqCodel | Bfifo | OtherQdisc

ETH_P_ALL: Final = 3
"""Every protocol (linux/if_ether.h): what our filters look at."""

# Filters of different kinds cannot share a priority, so that each of ours has its own and one kind can take over from
# the other without a gap. Lower is asked first.
FW_PRIO: Final = 1
BPF_PRIO: Final = 2


@dataclass(frozen=True, slots=True)
class FwFilter:
    """Packets whose mark equals ``mark`` under its mask go to class ``target`` (tc-fw(8)).

    All fw filters at one priority share one mask: that is what makes them a single hash look-up.
    """

    parent: Handle
    mark: Mark
    target: Handle
    prio: int = FW_PRIO
    kind: str = field(default="fw", init=False)

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies a filter under its parent: kind, priority, handle."""
        return ("fw", self.prio, self.mark.value)

    def __str__(self) -> str:
        return (
            f"parent {self.parent} protocol all prio {self.prio} handle {self.mark.value:#x}/{self.mark.mask:#x} "
            f"fw classid {self.target}"
        )


class BpfFlavour(StrEnum):
    """How the program gets into the kernel: by bpf(2) as eBPF, or as classic BPF inside the netlink message."""

    EBPF = "ebpf"
    CLASSIC = "classic"


@dataclass(frozen=True, slots=True)
class BpfFilter:
    """A cls_bpf program that turns the mark's class field into a class handle (tc-bpf(8), :mod:`tc_core.bpf`).

    ``fingerprint`` identifies the program; ``class_ids`` are the ids it selects, unknown (None) when read back.
    """

    parent: Handle
    flavour: BpfFlavour
    fingerprint: str
    class_ids: frozenset[int] | None = field(default=None, compare=False)
    text: str = field(default="", compare=False, repr=False)
    handle: int = 1
    prio: int = BPF_PRIO
    kind: str = field(default="bpf", init=False)

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies a filter under its parent: kind, priority, handle."""
        return ("bpf", self.prio, self.handle)

    def __str__(self) -> str:
        program = f"bytecode '{self.text}'" if self.text else f"name {self.fingerprint}"
        return f"parent {self.parent} protocol all prio {self.prio} handle {self.handle:#x} bpf {program}"


@dataclass(frozen=True, slots=True)
class OtherFilter:
    """Filters on our root that we did not make: all that one kind has at one priority for one protocol.

    ``protocol`` is an Ethernet type in host order. What is inside is not told apart: kinds such as u32 have inner nodes
    that cannot be removed one by one.
    """

    parent: Handle
    kind: str
    prio: int
    protocol: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies it: kind, priority, and the protocol in the place of a handle."""
        return (self.kind, self.prio, self.protocol)

    def __str__(self) -> str:
        protocol = "all" if self.protocol == ETH_P_ALL else f"{self.protocol:#06x}"
        return f"parent {self.parent} protocol {protocol} prio {self.prio} {self.kind}"


OurFilter = FwFilter | BpfFilter
Filter = FwFilter | BpfFilter | OtherFilter


@dataclass(frozen=True, slots=True)
class TrafficTree:
    """All that an interface should have. ``classes`` are the leaves, in policy order, the default class last.

    ``gso_max_size`` in bytes, None to leave the interface's alone. ``names`` are for people only.
    """

    root: HtbQdisc
    inner: HtbClass
    classes: tuple[HtbClass, ...]
    leaves: tuple[LeafQdisc, ...]
    filters: tuple[OurFilter, ...]
    gso_max_size: int | None = None
    names: Mapping[Handle, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)

    @property
    def default_class(self) -> HtbClass:
        """The class of whatever no filter selects."""
        return self.classes[-1]


@dataclass(frozen=True, slots=True)
class Observed:
    """All that an interface has. ``qdiscs`` includes the root; classes and filters are those of an HTB root."""

    link: Link
    qdiscs: tuple[Qdisc, ...] = ()
    classes: tuple[HtbClass, ...] = ()
    filters: tuple[Filter, ...] = ()

    @property
    def root(self) -> Qdisc | None:
        """The root qdisc, the kernel's default one included."""
        return next((q for q in self.qdiscs if q.parent == ROOT), None)

    def leaf_of(self, handle: Handle) -> Qdisc | None:
        """The qdisc attached to a class; None for the hidden FIFO that HTB makes by itself."""
        return next((q for q in self.qdiscs if q.parent == handle), None)

    def class_named(self, handle: Handle) -> HtbClass | None:
        """The class with this handle."""
        return next((c for c in self.classes if c.handle == handle), None)
