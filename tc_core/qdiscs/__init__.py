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

from tc_core.qdiscs.cake import Cake, Diffserv, Isolation
from tc_core.qdiscs.classful import DEFAULT_PRIOMAP, DEFAULT_R2Q, HtbQdisc, Prio, Tbf
from tc_core.qdiscs.hooks import EGRESS_HOOK, INGRESS, INGRESS_HOOK, Clsact, Ingress
from tc_core.qdiscs.netem import NO_TIME, Netem
from tc_core.qdiscs.notation import same_burst, tc_percent, tc_rate, tc_time
from tc_core.qdiscs.other import OtherQdisc
from tc_core.qdiscs.queues import DEFAULT_FLOWS, DEFAULT_FQ_QUANTUM, SFQ_FLOWS, Bfifo, FqCodel, Sfq

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
    "HtbQdisc",
    "Ingress",
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
    "same_burst",
    "tc_percent",
    "tc_rate",
    "tc_time",
]


LeafQdisc = FqCodel | Bfifo | Sfq | Cake | Netem
RootQdisc = HtbQdisc | Tbf | Prio | Cake | Netem
OurQdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact
"""Every kind that we make."""
Qdisc = HtbQdisc | Tbf | Prio | FqCodel | Bfifo | Sfq | Cake | Netem | Clsact | Ingress | OtherQdisc
