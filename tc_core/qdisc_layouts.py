"""How rtnetlink lays out the options of qdiscs and of HTB classes (linux/pkt_sched.h), and in what units.

pyroute2 has no layout for bfifo and prio, and its encoders lose something: it computes two tables of 256 floats per HTB
class or token bucket, which kernels have ignored since 3.13 when the link layer is named, rounds bursts twice on their
way to ticks and percentages to whole ones, and knows neither netem's times in nanoseconds nor its rates beyond 32 bits.

Units on the wire (net/sched/sch_htb.c and its neighbours): rates are bytes per second, in 32 bits with a 64-bit
attribute beside them from 4 GB/s on; bursts are the time that they take at their rate, in ticks of 64 ns; probabilities
are parts of 2^32 - 1.
"""

# mypy: allow-subclassing-any
# pyroute2 has no type information.

from __future__ import annotations

from typing import Any, Final

from pyroute2.netlink import nla

from traffic_policy.units import ByteCount, Duration, Rate

U32: Final = (1 << 32) - 1
TICK_NS: Final = 64
"""Nanoseconds of a scheduler tick: PSCHED_SHIFT is 6 (include/net/pkt_sched.h), as /proc/net/psched tells."""
ETHERNET: Final = 1
"""TC_LINKLAYER_ETHERNET: naming it makes the kernel compute its rates itself."""
_MILLION: Final = 10**6


def burst_ticks(rate: Rate, burst: ByteCount) -> int:
    """The time that ``burst`` takes at ``rate``, in ticks, rounded down as tc(8) does. Without rate it is 0."""
    if not rate.bytes_per_second:
        return 0
    return min(U32, burst.count * 10**9 // (rate.bytes_per_second * TICK_NS))


def burst_bytes(rate: Rate, ticks: int) -> ByteCount:
    """The inverse of :func:`burst_ticks`, rounded up: what was written is read back where a tick is at most a byte."""
    return ByteCount(-(-ticks * TICK_NS * rate.bytes_per_second // 10**9))


def ticks(time: Duration) -> int:
    """A time in ticks, rounded down; what does not fit into 32 bits is cut."""
    return min(U32, time.nanoseconds // TICK_NS)


def chance(ppm: int) -> int:
    """A probability of this many parts per million as the kernel has it, rounded to the nearest."""
    return (ppm * U32 + _MILLION // 2) // _MILLION


def chance_ppm(value: int) -> int:
    """The inverse of :func:`chance`: exact for what it made, and the nearest for what others made."""
    return (value * _MILLION + U32 // 2) // U32


_RATE_SPEC: Final = (
    ("cell_log", "B"),
    ("linklayer", "B"),
    ("overhead", "H"),
    ("cell_align", "h"),
    ("mpu", "H"),
    ("rate", "I"),
)
"""struct tc_ratespec."""


def _named(name: str) -> tuple[tuple[str, str], ...]:
    """The fields of a struct tc_ratespec that is part of another: the rate by this name, the others below it."""
    return tuple((name if field == "rate" else f"{name}_{field}", form) for field, form in _RATE_SPEC)


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
            *_named("rate"),
            *_named("ceil"),
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


class _TbfOptions(nla):
    nla_map = (
        ("TCA_TBF_UNSPEC", "none"),
        ("TCA_TBF_PARMS", "parms"),
        ("TCA_TBF_RTAB", "cdata"),
        ("TCA_TBF_PTAB", "cdata"),
        ("TCA_TBF_RATE64", "uint64"),
        ("TCA_TBF_PRATE64", "uint64"),
        ("TCA_TBF_BURST", "uint32"),
        ("TCA_TBF_PBURST", "uint32"),
    )

    class parms(nla):  # noqa: N801
        """struct tc_tbf_qopt."""

        fields = (*_named("rate"), *_named("peakrate"), ("limit", "I"), ("buffer", "I"), ("mtu", "I"))


class _PrioOptions(nla):
    """struct tc_prio_qopt."""

    fields = (("bands", "i"), ("priomap", "16s"))


class _SfqOptions(nla):
    """struct tc_sfq_qopt_v1."""

    fields = (
        *(("quantum", "I"), ("perturb", "i"), ("limit", "I"), ("divisor", "I"), ("flows", "I"), ("depth", "I")),
        *(("headdrop", "I"), ("red_limit", "I"), ("qth_min", "I"), ("qth_max", "I")),
        *(("Wlog", "B"), ("Plog", "B"), ("Scell_log", "B"), ("flags", "B"), ("max_P", "I")),
        *((f"stats_{number}", "I") for number in range(6)),
    )


class _CakeOptions(nla):
    nla_map = (
        ("TCA_CAKE_UNSPEC", "none"),
        ("TCA_CAKE_PAD", "cdata"),
        ("TCA_CAKE_BASE_RATE64", "uint64"),
        ("TCA_CAKE_DIFFSERV_MODE", "uint32"),
        ("TCA_CAKE_ATM", "uint32"),
        ("TCA_CAKE_FLOW_MODE", "uint32"),
        ("TCA_CAKE_OVERHEAD", "int32"),
        ("TCA_CAKE_RTT", "uint32"),
        ("TCA_CAKE_TARGET", "uint32"),
        ("TCA_CAKE_AUTORATE", "uint32"),
        ("TCA_CAKE_MEMORY", "uint32"),
        ("TCA_CAKE_NAT", "uint32"),
        ("TCA_CAKE_RAW", "uint32"),
        ("TCA_CAKE_WASH", "uint32"),
        ("TCA_CAKE_MPU", "uint32"),
        ("TCA_CAKE_INGRESS", "uint32"),
        ("TCA_CAKE_ACK_FILTER", "uint32"),
        ("TCA_CAKE_SPLIT_GSO", "uint32"),
        ("TCA_CAKE_FWMARK", "uint32"),
    )


class _NetemOptions(nla):
    """struct tc_netem_qopt, followed by attributes."""

    fields = (("delay", "I"), ("limit", "I"), ("loss", "I"), ("gap", "I"), ("duplicate", "I"), ("jitter", "I"))
    nla_map = (
        ("TCA_NETEM_UNSPEC", "none"),
        ("TCA_NETEM_CORR", "correlations"),
        ("TCA_NETEM_DELAY_DIST", "cdata"),
        ("TCA_NETEM_REORDER", "correlated"),
        ("TCA_NETEM_CORRUPT", "correlated"),
        ("TCA_NETEM_LOSS", "cdata"),
        ("TCA_NETEM_RATE", "rate"),
        ("TCA_NETEM_ECN", "uint32"),
        ("TCA_NETEM_RATE64", "uint64"),
        ("TCA_NETEM_PAD", "cdata"),
        ("TCA_NETEM_LATENCY64", "int64"),
        ("TCA_NETEM_JITTER64", "int64"),
        ("TCA_NETEM_SLOT", "cdata"),
        ("TCA_NETEM_SLOT_DIST", "cdata"),
    )

    class correlations(nla):  # noqa: N801
        """struct tc_netem_corr."""

        fields = (("delay", "I"), ("loss", "I"), ("duplicate", "I"))

    class correlated(nla):  # noqa: N801
        """struct tc_netem_reorder, struct tc_netem_corrupt."""

        fields = (("probability", "I"), ("correlation", "I"))

    class rate(nla):  # noqa: N801
        """struct tc_netem_rate."""

        fields = (("rate", "I"), ("packet_overhead", "i"), ("cell_size", "I"), ("cell_overhead", "i"))


QDISC_OPTIONS: Final[dict[str, type[Any]]] = {
    "htb": _HtbOptions,
    "tbf": _TbfOptions,
    "prio": _PrioOptions,
    "fq_codel": _FqCodelOptions,
    "bfifo": _FifoOptions,
    "sfq": _SfqOptions,
    "cake": _CakeOptions,
    "netem": _NetemOptions,
}
"""The layout of TCA_OPTIONS by the kind of qdisc; that of HTB is also that of its classes."""
