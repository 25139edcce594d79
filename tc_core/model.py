"""The kernel's classes, filters and trees as frozen values, produced by both the compiler and observation.

``str()`` of a value gives the arguments after ``tc qdisc add dev IF`` (or ``class``, ``filter``), so that people can
read a plan, or run it. ``agrees_with`` is true if a value read back from the kernel means the same: the kernel rounds
some numbers (bursts are stored in 64 ns ticks), and tc(8) before 6.10 truncates bursts to whole microseconds. A
difference by rounding only is no change. The qdiscs are defined in :mod:`tc_core.qdiscs` and re-exported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tc_core.compile.packet_rules import PacketRule
from tc_core.handles import ROOT, Handle
from tc_core.qdiscs import DEFAULT_FLOWS as DEFAULT_FLOWS
from tc_core.qdiscs import DEFAULT_FQ_QUANTUM as DEFAULT_FQ_QUANTUM
from tc_core.qdiscs import DEFAULT_PRIOMAP as DEFAULT_PRIOMAP
from tc_core.qdiscs import DEFAULT_R2Q as DEFAULT_R2Q
from tc_core.qdiscs import EGRESS_HOOK as EGRESS_HOOK
from tc_core.qdiscs import INGRESS as INGRESS
from tc_core.qdiscs import INGRESS_HOOK as INGRESS_HOOK
from tc_core.qdiscs import Bfifo as Bfifo
from tc_core.qdiscs import Cake as Cake
from tc_core.qdiscs import Clsact as Clsact
from tc_core.qdiscs import Diffserv as Diffserv
from tc_core.qdiscs import FqCodel as FqCodel
from tc_core.qdiscs import HtbClass as HtbClass
from tc_core.qdiscs import HtbQdisc as HtbQdisc
from tc_core.qdiscs import IngressQdisc as IngressQdisc
from tc_core.qdiscs import Isolation as Isolation
from tc_core.qdiscs import LeafQdisc as LeafQdisc
from tc_core.qdiscs import Netem as Netem
from tc_core.qdiscs import OtherQdisc as OtherQdisc
from tc_core.qdiscs import OurQdisc as OurQdisc
from tc_core.qdiscs import Prio as Prio
from tc_core.qdiscs import Qdisc as Qdisc
from tc_core.qdiscs import RootQdisc as RootQdisc
from tc_core.qdiscs import Sfq as Sfq
from tc_core.qdiscs import Tbf as Tbf
from tc_core.qdiscs import tc_rate as tc_rate
from traffic_policy.marks import Mark


@dataclass(frozen=True, slots=True)
class Link:
    """The relevant properties of an interface. Sizes in bytes, ``tx_queue_len`` in packets (ip-link(8)).

    ``gso_max_size`` limits the size of GSO packets; ``tso_max_size`` is the device's own limit.
    ``kind`` is that of a virtual device (``veth``, ``ifb`` ...), empty for hardware and ``lo``; ``alias`` is free text.
    """

    name: str
    gso_max_size: int = 65536
    tso_max_size: int = 65536
    tx_queue_len: int = 1000
    kind: str = ""
    alias: str = ""
    is_up: bool = True


ETH_P_ALL: Final = 3
"""Every protocol (linux/if_ether.h): the protocol of our filters."""

# Filters of different kinds cannot share a priority. Each of our kinds has its own, so that one can replace the other
# without a gap. Lower priorities come first.
FW_PRIO: Final = 1
BPF_PRIO: Final = 2
REDIRECT_PRIO: Final = 0xC001
"""Priority of our filter at the ingress hook: after all that the kernel assigns automatically (from 0xC000 down,
tcf_auto_prio() in net/sched/cls_api.c), so that foreign filters run first."""

BpfInstruction = tuple[int, int, int, int]
"""One instruction of classic BPF: code, jump if true, jump if false, constant (struct sock_filter, linux/filter.h)."""


MATCH_ALL: Final[tuple[BpfInstruction, ...]] = ((0x06, 0, 0, 0xFFFFFFFF),)
"""The program that matches every packet: ``ret #0xffffffff`` (BPF_RET | BPF_K), for which cls_bpf runs its action."""
MATCH_ALL_TEXT: Final = "1,6 0 0 4294967295"
"""MATCH_ALL in the syntax of tc-bpf(8)."""


@dataclass(frozen=True, slots=True)
class FwFilter:
    """Selects class ``target`` for packets whose mark equals ``mark`` under its mask (tc-fw(8)).

    All fw filters at one priority share one mask, which makes them a single hash lookup.
    """

    parent: Handle
    mark: Mark
    target: Handle
    prio: int = FW_PRIO
    kind: str = field(default="fw", init=False)

    @property
    def key(self) -> tuple[str, int, int]:
        """Identity of the filter under its parent: kind, priority, handle."""
        return ("fw", self.prio, self.mark.value)

    def __str__(self) -> str:
        return (
            f"parent {self.parent} protocol all prio {self.prio} handle {self.mark.value:#x}/{self.mark.mask:#x} "
            f"fw classid {self.target}"
        )


@dataclass(frozen=True, slots=True)
class BpfFilter:
    """A classic BPF program that selects the class (cls_bpf, tc-bpf(8), :mod:`tc_core.bpf.mark_classifier`).

    ``fingerprint`` identifies the program. The program either maps the mark's class field to a class handle, for the
    ids in ``class_ids``; or it is given as ``instructions``, compiled from ``rules``. These are unknown for a program
    that was read back; for an eBPF program, which is not ours, the fingerprint is its name.
    """

    parent: Handle
    fingerprint: str
    class_ids: frozenset[int] | None = field(default=None, compare=False)
    text: str = field(default="", compare=False, repr=False)
    handle: int = 1
    prio: int = BPF_PRIO
    kind: str = field(default="bpf", init=False)
    rules: tuple[PacketRule, ...] = field(default=(), compare=False)
    instructions: tuple[BpfInstruction, ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> tuple[str, int, int]:
        """Identity of the filter under its parent: kind, priority, handle."""
        return ("bpf", self.prio, self.handle)

    def __str__(self) -> str:
        program = f"bytecode '{self.text}'" if self.text else f"name {self.fingerprint}"
        return f"parent {self.parent} protocol all prio {self.prio} handle {self.handle:#x} bpf {program}"


@dataclass(frozen=True, slots=True)
class RedirectFilter:
    """Redirects all received packets to the egress of ``device``, an ifb, for shaping (tc-mirred(8)).

    ``device`` is empty when read back from a filter whose device no longer exists; its packets are dropped. ``program``
    is the fingerprint of the eBPF program that first selects the class by the packet's socket
    (:mod:`tc_core.bpf.socket_program`), empty without one; ``class_ids`` are the ids that it selects, None when read
    back. ``connmark``: copy the connection's mark to the packet first (tc-connmark(8)), all 32 bits.
    """

    parent: Handle
    device: str
    handle: int = 1
    prio: int = REDIRECT_PRIO
    kind: str = field(default="bpf", init=False)
    program: str = ""
    class_ids: frozenset[int] | None = field(default=None, compare=False)
    connmark: bool = False

    @property
    def key(self) -> tuple[str, int, int]:
        """Identity of the filter under its parent: kind, priority, handle."""
        return ("bpf", self.prio, self.handle)

    def __str__(self) -> str:
        before = "action connmark pipe " if self.connmark else ""
        return (
            f"parent {self.parent} protocol all prio {self.prio} handle {self.handle:#x} "
            f"bpf bytecode '{MATCH_ALL_TEXT}' {before}action mirred egress redirect dev {self.device}"
        )


@dataclass(frozen=True, slots=True)
class OtherFilter:
    """Foreign filters on our root or at the ingress hook.

    One value stands for all filters of a kind at one priority for one ``protocol``, an Ethernet type in host order.
    They are not listed individually: kinds such as u32 have inner nodes that cannot be removed one by one.
    """

    parent: Handle
    kind: str
    prio: int
    protocol: int

    @property
    def key(self) -> tuple[str, int, int]:
        """Identity of the filters: kind, priority, and the protocol in place of a handle."""
        return (self.kind, self.prio, self.protocol)

    def __str__(self) -> str:
        protocol = "all" if self.protocol == ETH_P_ALL else f"{self.protocol:#06x}"
        return f"parent {self.parent} protocol {protocol} prio {self.prio} {self.kind}"


ClassFilter = FwFilter | BpfFilter
"""A filter that selects classes."""
OurFilter = ClassFilter | RedirectFilter
Filter = FwFilter | BpfFilter | RedirectFilter | OtherFilter


@dataclass(frozen=True, slots=True)
class TrafficTree:
    """An HTB tree for an interface. ``classes`` are the leaves, in policy order, the default class last.

    ``gso_max_size`` in bytes, None to keep the interface's. ``names`` are for display only.
    """

    root: HtbQdisc
    inner: HtbClass
    classes: tuple[HtbClass, ...]
    leaves: tuple[LeafQdisc, ...]
    filters: tuple[ClassFilter, ...]
    gso_max_size: int | None = None
    names: Mapping[Handle, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)

    @property
    def default_class(self) -> HtbClass:
        """The class of packets that no filter selects."""
        return self.classes[-1]


@dataclass(frozen=True, slots=True)
class Observed:
    """The traffic control of an interface as read. ``qdiscs`` includes the root, ``classes`` are those of an HTB root.

    ``filters`` are those of an HTB or prio root; ``ingress`` and ``egress`` are those of a clsact or ingress qdisc.
    """

    link: Link
    qdiscs: tuple[Qdisc, ...] = ()
    classes: tuple[HtbClass, ...] = ()
    filters: tuple[Filter, ...] = ()
    ingress: tuple[Filter, ...] = ()
    egress: tuple[Filter, ...] = ()

    @property
    def root(self) -> Qdisc | None:
        """The root qdisc, possibly the kernel's default one."""
        return next((q for q in self.qdiscs if q.parent == ROOT), None)

    @property
    def ingress_qdisc(self) -> Clsact | IngressQdisc | None:
        """The qdisc that provides the ingress hook, if any."""
        return next((q for q in self.qdiscs if isinstance(q, Clsact | IngressQdisc)), None)

    @property
    def filtering(self) -> tuple[HtbQdisc | Prio, ...]:
        """The qdiscs that can have filters: an HTB root, and every prio qdisc."""
        return tuple(q for q in self.qdiscs if isinstance(q, Prio) or (isinstance(q, HtbQdisc) and q.parent == ROOT))

    def leaf_of(self, handle: Handle) -> Qdisc | None:
        """The qdisc attached to a class; None for HTB's implicit FIFO."""
        return next((q for q in self.qdiscs if q.parent == handle), None)

    def class_named(self, handle: Handle) -> HtbClass | None:
        """The class with this handle, if any."""
        return next((c for c in self.classes if c.handle == handle), None)
