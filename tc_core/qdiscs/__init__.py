"""Queueing disciplines as the kernel has them: one frozen value for each kind that we make.

One file per kind has the value, its words in tc(8), and its TCA_OPTIONS in netlink messages.

Each can say three things. ``str()`` is what follows ``tc qdisc add dev IF``. ``agrees_with(other)`` tells whether a
value read back from the kernel means the same: the kernel rounds some numbers (bursts are carried as 64 ns ticks,
CoDel's times as 1,024 ns units, probabilities as parts of 2^32), and such a difference is no change.
``can_become(other)`` tells whether the kernel can turn the one into the other in place, so that the queue stays; where
it cannot (``ops->change`` in net/sched/sch_*.c), only a new qdisc has the new numbers. ``options()`` and
``from_options()`` write and read TCA_OPTIONS; what is not part of a value is sent as the kernel's default wherever a
change would otherwise keep a foreign setting, so that a change leads to the same qdisc as a new one.

Handles, and with them ours from other people's, are the caller's business: all kinds here are equal, save that a handle
with major 0 marks a qdisc that the kernel chose by itself, which is an :class:`OtherQdisc` whatever its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.qdiscs.bfifo import Bfifo
from tc_core.qdiscs.cake import Cake, Diffserv, Isolation
from tc_core.qdiscs.fq_codel import DEFAULT_FLOWS, DEFAULT_FQ_QUANTUM, FqCodel
from tc_core.qdiscs.hooks import EGRESS_HOOK, INGRESS, INGRESS_HOOK, Clsact, IngressQdisc
from tc_core.qdiscs.htb import DEFAULT_R2Q, HtbClass, HtbQdisc
from tc_core.qdiscs.netem import NO_TIME, Netem
from tc_core.qdiscs.notation import same_burst, tc_percent, tc_rate, tc_time
from tc_core.qdiscs.placed import OtherQdisc
from tc_core.qdiscs.prio import DEFAULT_PRIOMAP, Prio
from tc_core.qdiscs.sfq import SFQ_FLOWS, Sfq
from tc_core.qdiscs.tbf import Tbf

__all__ = [
    "DEFAULT_FLOWS",
    "DEFAULT_FQ_QUANTUM",
    "DEFAULT_PRIOMAP",
    "DEFAULT_R2Q",
    "EGRESS_HOOK",
    "INGRESS",
    "INGRESS_HOOK",
    "NO_TIME",
    "SFQ_FLOWS",
    "Bfifo",
    "Cake",
    "Clsact",
    "Diffserv",
    "FqCodel",
    "HtbClass",
    "HtbQdisc",
    "IngressQdisc",
    "Isolation",
    "LeafQdisc",
    "Netem",
    "OtherQdisc",
    "OurQdisc",
    "Prio",
    "Qdisc",
    "RootQdisc",
    "Sfq",
    "Tbf",
    "qdisc_from",
    "same_burst",
    "tc_percent",
    "tc_rate",
    "tc_time",
]


LeafQdisc = FqCodel | Bfifo | Sfq | Cake | Netem
RootQdisc = HtbQdisc | Tbf | Prio | Cake | Netem
OurQdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact
"""Every kind that we make."""
Qdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact | IngressQdisc | OtherQdisc

_WITHOUT_OPTIONS: Final[dict[str, type[Clsact | IngressQdisc]]] = {"clsact": Clsact, "ingress": IngressQdisc}
_READERS: Final[dict[str, Callable[[Handle, Handle, bytes], Qdisc]]] = {
    "htb": HtbQdisc.from_options,
    "tbf": Tbf.from_options,
    "prio": Prio.from_options,
    "fq_codel": FqCodel.from_options,
    "bfifo": Bfifo.from_options,
    "sfq": Sfq.from_options,
    "cake": Cake.from_options,
    "netem": Netem.from_options,
}


def qdisc_from(kind: str, handle: Handle, parent: Handle, options: bytes | None) -> Qdisc:
    """The qdisc that a message describes: its TCA_KIND, place and TCA_OPTIONS.

    One that the kernel chose by itself is an :class:`OtherQdisc`.
    """
    if not handle.major or (kind == "htb" and parent != ROOT):
        return OtherQdisc(handle, parent, kind)
    if kind in _WITHOUT_OPTIONS:
        return _WITHOUT_OPTIONS[kind](handle, parent)
    read = _READERS.get(kind)
    return OtherQdisc(handle, parent, kind) if read is None or options is None else read(handle, parent, options)
