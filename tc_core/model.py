"""Classes, filters and whole trees as the kernel has them: frozen values that both compile and observation produce.

``str()`` of a value is what follows ``tc qdisc add dev IF`` (or ``class``, ``filter``), so that a plan can be read, and
even run, by people. ``agrees_with`` says whether a value read back from the kernel means the same: the kernel rounds
some numbers (bursts are carried as 64 ns ticks), and tc(8) before 6.10 cuts bursts to whole microseconds. A difference
which is only that rounding is no change. The qdiscs themselves are in :mod:`tc_core.qdiscs`, and importable from here.
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
    """What of an interface matters here. Sizes in bytes, ``tx_queue_len`` in packets (ip-link(8)).

    ``gso_max_size`` bounds the segments that TCP hands down at once; ``tso_max_size`` is the most the device takes.
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
"""Every protocol (linux/if_ether.h): what our filters look at."""

# Filters of different kinds cannot share a priority, so that each of ours has its own and one kind can take over from
# the other without a gap. Lower is asked first.
FW_PRIO: Final = 1
BPF_PRIO: Final = 2
REDIRECT_PRIO: Final = 0xC001
"""Of our filter at the ingress hook: after all that the kernel numbers by itself (from 0xC000 down, tcf_auto_prio() in
net/sched/cls_api.c), so that other people's filters have their say first."""

BpfInstruction = tuple[int, int, int, int]
"""One instruction of classic BPF: code, jump if true, jump if false, constant (struct sock_filter, linux/filter.h)."""


MATCH_ALL: Final[tuple[BpfInstruction, ...]] = ((0x06, 0, 0, 0xFFFFFFFF),)
"""The program that matches every packet: ``ret #0xffffffff`` (BPF_RET | BPF_K), for which cls_bpf runs its action."""
MATCH_ALL_TEXT: Final = "1,6 0 0 4294967295"
"""The same as tc-bpf(8) reads it."""


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


@dataclass(frozen=True, slots=True)
class BpfFilter:
    """A program of classic BPF that finds a packet's class (cls_bpf, tc-bpf(8), :mod:`tc_core.bpf.mark_classifier`).

    ``fingerprint`` identifies the program. It is the one that turns the mark's class field into a class handle, and
    ``class_ids`` are the ids it selects; or the one that is given as ``instructions``, made from ``rules``. None of
    these is known of a program that was read back; for one of eBPF, which is not ours, the fingerprint is its name.
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
        """What identifies a filter under its parent: kind, priority, handle."""
        return ("bpf", self.prio, self.handle)

    def __str__(self) -> str:
        program = f"bytecode '{self.text}'" if self.text else f"name {self.fingerprint}"
        return f"parent {self.parent} protocol all prio {self.prio} handle {self.handle:#x} bpf {program}"


@dataclass(frozen=True, slots=True)
class RedirectFilter:
    """Whatever arrives leaves again by ``device``, as if sent there (tc-mirred(8)): to an ifb, that is, to be shaped.

    ``device`` is empty when what was read back names a device that is gone; such packets are lost. ``program`` is the
    fingerprint of the eBPF program that finds the class by the packet's socket on the way
    (:mod:`tc_core.bpf.socket_program`), empty without one; ``class_ids`` are the ids that it selects, None when read
    back. ``connmark``: before, the packet gets the mark of its connection (tc-connmark(8)), the whole word.
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
        """What identifies a filter under its parent: kind, priority, handle."""
        return ("bpf", self.prio, self.handle)

    def __str__(self) -> str:
        before = "action connmark pipe " if self.connmark else ""
        return (
            f"parent {self.parent} protocol all prio {self.prio} handle {self.handle:#x} "
            f"bpf bytecode '{MATCH_ALL_TEXT}' {before}action mirred egress redirect dev {self.device}"
        )


@dataclass(frozen=True, slots=True)
class OtherFilter:
    """Filters that we did not make, on our root or at the ingress hook.

    Each stands for all that one kind has at one priority for one ``protocol``, an Ethernet type in host order. What is
    inside is not told apart: kinds such as u32 have inner nodes that cannot be removed one by one.
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


ClassFilter = FwFilter | BpfFilter
"""What selects classes."""
OurFilter = ClassFilter | RedirectFilter
Filter = FwFilter | BpfFilter | RedirectFilter | OtherFilter


@dataclass(frozen=True, slots=True)
class TrafficTree:
    """An HTB tree for an interface. ``classes`` are the leaves, in policy order, the default class last.

    ``gso_max_size`` in bytes, None to leave the interface's alone. ``names`` are for people only.
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
        """The class of whatever no filter selects."""
        return self.classes[-1]


@dataclass(frozen=True, slots=True)
class Observed:
    """All that an interface has. ``qdiscs`` includes the root, ``classes`` are those of an HTB root.

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
        """The root qdisc, the kernel's default one included."""
        return next((q for q in self.qdiscs if q.parent == ROOT), None)

    @property
    def ingress_qdisc(self) -> Clsact | IngressQdisc | None:
        """What gives filters a place to see what arrives; None without any."""
        return next((q for q in self.qdiscs if isinstance(q, Clsact | IngressQdisc)), None)

    @property
    def filtering(self) -> tuple[HtbQdisc | Prio, ...]:
        """The qdiscs that filters can hang on: an HTB root, and every prio qdisc."""
        return tuple(q for q in self.qdiscs if isinstance(q, Prio) or (isinstance(q, HtbQdisc) and q.parent == ROOT))

    def leaf_of(self, handle: Handle) -> Qdisc | None:
        """The qdisc attached to a class; None for the hidden FIFO that HTB makes by itself."""
        return next((q for q in self.qdiscs if q.parent == handle), None)

    def class_named(self, handle: Handle) -> HtbClass | None:
        """The class with this handle."""
        return next((c for c in self.classes if c.handle == handle), None)
