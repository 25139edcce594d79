"""How rtnetlink lays out traffic control messages: pyroute2's layouts, completed.

pyroute2 has none for cls_bpf, bfifo and the 64-bit packet counter, and its HTB encoder loses something: it computes two
tables of 256 floats per class, which kernels have ignored since 3.13 when the link layer is named, and rounds bursts
twice on their way to ticks.

Units on the wire (linux/pkt_sched.h, net/sched/sch_htb.c): rates are bytes per second, in 32 bits with a 64-bit
attribute beside them from 4 GB/s on; bursts are the time that they take at their rate, in ticks of 64 ns.
"""

# mypy: allow-subclassing-any
# pyroute2 has no type information.

from __future__ import annotations

from typing import Any, Final

from pyroute2.netlink import nla, rtnl
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from tc_core.units import ByteCount, Rate

U32: Final = (1 << 32) - 1
TICK_NS: Final = 64
"""Nanoseconds of a scheduler tick: PSCHED_SHIFT is 6 (include/net/pkt_sched.h), as /proc/net/psched tells."""


def burst_ticks(rate: Rate, burst: ByteCount) -> int:
    """The time that ``burst`` takes at ``rate``, in ticks, rounded down as tc(8) does. Without rate it is 0."""
    if not rate.bytes_per_second:
        return 0
    return min(U32, burst.count * 10**9 // (rate.bytes_per_second * TICK_NS))


def burst_bytes(rate: Rate, ticks: int) -> ByteCount:
    """The inverse of :func:`burst_ticks`, rounded up: what was written is read back where a tick is at most a byte."""
    return ByteCount(-(-ticks * TICK_NS * rate.bytes_per_second // 10**9))


class _HtbOptions(nla):
    nla_map = (
        ("TCA_HTB_UNSPEC", "none"),
        ("TCA_HTB_PARMS", "parms"),
        ("TCA_HTB_INIT", "glob"),
        ("TCA_HTB_CTAB", "cdata"),
        ("TCA_HTB_RTAB", "cdata"),
        ("TCA_HTB_DIRECT_QLEN", "uint32"),
        ("TCA_HTB_RATE64", "uint64"),
        ("TCA_HTB_CEIL64", "uint64"),
    )

    class parms(nla):  # noqa: N801 - pyroute2 finds layouts by these names
        """struct tc_htb_opt."""

        fields = (
            *((f"rate_{name}", form) for name, form in (("cell_log", "B"), ("linklayer", "B"), ("overhead", "H"))),
            *((f"rate_{name}", form) for name, form in (("cell_align", "h"), ("mpu", "H"))),
            ("rate", "I"),
            *((f"ceil_{name}", form) for name, form in (("cell_log", "B"), ("linklayer", "B"), ("overhead", "H"))),
            *((f"ceil_{name}", form) for name, form in (("cell_align", "h"), ("mpu", "H"))),
            ("ceil", "I"),
            ("buffer", "I"),
            ("cbuffer", "I"),
            ("quantum", "I"),
            ("level", "I"),
            ("prio", "I"),
        )

    class glob(nla):  # noqa: N801
        """struct tc_htb_glob."""

        fields = (("version", "I"), ("rate2quantum", "I"), ("defcls", "I"), ("debug", "I"), ("direct_pkts", "I"))


class _FifoOptions(nla):
    """struct tc_fifo_qopt."""

    fields = (("limit", "I"),)


class _FqCodelOptions(nla):
    nla_map = (
        ("TCA_FQ_CODEL_UNSPEC", "none"),
        ("TCA_FQ_CODEL_TARGET", "uint32"),
        ("TCA_FQ_CODEL_LIMIT", "uint32"),
        ("TCA_FQ_CODEL_INTERVAL", "uint32"),
        ("TCA_FQ_CODEL_ECN", "uint32"),
        ("TCA_FQ_CODEL_FLOWS", "uint32"),
        ("TCA_FQ_CODEL_QUANTUM", "uint32"),
        ("TCA_FQ_CODEL_CE_THRESHOLD", "uint32"),
        ("TCA_FQ_CODEL_DROP_BATCH_SIZE", "uint32"),
        ("TCA_FQ_CODEL_MEMORY_LIMIT", "uint32"),
    )


class _FwOptions(nla):
    nla_map = (
        ("TCA_FW_UNSPEC", "none"),
        ("TCA_FW_CLASSID", "uint32"),
        ("TCA_FW_POLICE", "cdata"),
        ("TCA_FW_INDEV", "cdata"),
        ("TCA_FW_ACT", "cdata"),
        ("TCA_FW_MASK", "uint32"),
    )


class _BpfOptions(nla):
    nla_map = (
        ("TCA_BPF_UNSPEC", "none"),
        ("TCA_BPF_ACT", "cdata"),
        ("TCA_BPF_POLICE", "cdata"),
        ("TCA_BPF_CLASSID", "uint32"),
        ("TCA_BPF_OPS_LEN", "uint16"),
        ("TCA_BPF_OPS", "cdata"),
        ("TCA_BPF_FD", "uint32"),
        ("TCA_BPF_NAME", "asciiz"),
    )


class _Stats2(nla):
    """TCA_STATS2 (linux/gen_stats.h)."""

    nla_map = (
        ("TCA_STATS_UNSPEC", "none"),
        ("TCA_STATS_BASIC", "basic"),
        ("TCA_STATS_RATE_EST", "cdata"),
        ("TCA_STATS_QUEUE", "queue"),
        ("TCA_STATS_APP", "cdata"),
        ("TCA_STATS_RATE_EST64", "cdata"),
        ("TCA_STATS_PAD", "none"),
        ("TCA_STATS_BASIC_HW", "cdata"),
        ("TCA_STATS_PKT64", "uint64"),
    )

    class basic(nla):  # noqa: N801
        """struct gnet_stats_basic."""

        fields = (("bytes", "Q"), ("packets", "I"))

    class queue(nla):  # noqa: N801
        """struct gnet_stats_queue."""

        fields = (("qlen", "I"), ("backlog", "I"), ("drops", "I"), ("requeues", "I"), ("overlimits", "I"))


_OPTIONS: Final[dict[str, type[Any]]] = {
    "htb": _HtbOptions,
    "bfifo": _FifoOptions,
    "fq_codel": _FqCodelOptions,
    "fw": _FwOptions,
    "bpf": _BpfOptions,
}


class TcMessage(tcmsg):
    """struct tcmsg with our layouts of its options and statistics."""

    nla_map = (
        ("TCA_UNSPEC", "none"),
        ("TCA_KIND", "asciiz"),
        ("TCA_OPTIONS", "get_options"),
        ("TCA_STATS", "cdata"),
        ("TCA_XSTATS", "cdata"),
        ("TCA_RATE", "cdata"),
        ("TCA_FCNT", "cdata"),
        ("TCA_STATS2", "stats2"),
        ("TCA_STAB", "cdata"),
    )
    stats2 = _Stats2

    @staticmethod
    def get_options(self: Any, *_arguments: Any, **_named: Any) -> Any:
        """The layout of TCA_OPTIONS, by the kind that comes before it."""
        return _OPTIONS.get(self.get_attr("TCA_KIND"), nla.cdata)


LAYOUTS: Final[dict[int, type[Any]]] = {
    rtnl.RTM_NEWQDISC: TcMessage,
    rtnl.RTM_NEWTCLASS: TcMessage,
    rtnl.RTM_NEWTFILTER: TcMessage,
}
"""For pyroute2's parser: what arrives under these message types."""
