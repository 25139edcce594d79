"""Qdiscs as TCA_OPTIONS and back: one pair of functions for each kind. No I/O.

What is not part of a value is sent as the kernel's default wherever a change would otherwise keep what somebody else
had set (netem's correlations, CAKE's automatic rate): a change leads to the same qdisc as a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tc_core.handles import ROOT, Handle
from tc_core.qdisc_layouts import ETHERNET, U32, burst_bytes, burst_ticks, chance, chance_ppm, ticks
from tc_core.qdiscs import (
    Bfifo,
    Cake,
    Clsact,
    Diffserv,
    FqCodel,
    HtbQdisc,
    Ingress,
    Isolation,
    Netem,
    OtherQdisc,
    OurQdisc,
    Prio,
    Qdisc,
    Sfq,
    Tbf,
)
from traffic_policy.units import ByteCount, Duration, Rate

_HTB_VERSION: Final = 3
# CAKE_DIFFSERV_* and CAKE_FLOW_* of linux/pkt_sched.h count from 0 in the order of these.
_DIFFSERV: Final = tuple(Diffserv)
_ISOLATION: Final = tuple(Isolation)
_ISOLATION_MASK: Final = 7
"""CAKE_FLOW_MASK: the rest of a flow mode are flags."""
_CAKE_TARGETS_PER_RTT: Final = 20
"""CAKE's target delay is the twentieth part of the round trip, as tc(8) sets it."""


def number(options: Any, name: str, default: int) -> int:
    """An attribute's number, or the default where the kernel sends none."""
    value = options.get_attr(name)
    return default if value is None else int(value)


def options_of(qdisc: OurQdisc, *, creating: bool) -> list[Any]:
    """TCA_KIND and TCA_OPTIONS of a qdisc to be made, or of one that is to become it."""
    match qdisc:
        case HtbQdisc():
            return _attributes(qdisc.kind, _htb_options(qdisc))
        case Tbf():
            return _attributes(qdisc.kind, _tbf_options(qdisc))
        case FqCodel():
            return _attributes(qdisc.kind, _fq_codel_options(qdisc, creating=creating))
        case Cake():
            return _attributes(qdisc.kind, _cake_options(qdisc))
        case Netem():
            return [["TCA_KIND", qdisc.kind], ["TCA_OPTIONS", _netem_options(qdisc)]]
        case Prio(bands=bands, priomap=priomap):
            return [["TCA_KIND", qdisc.kind], ["TCA_OPTIONS", {"bands": bands, "priomap": bytes(priomap)}]]
        case Bfifo(limit=limit):
            return [["TCA_KIND", qdisc.kind], ["TCA_OPTIONS", {"limit": limit.count}]]
        case Sfq():
            return [["TCA_KIND", qdisc.kind], ["TCA_OPTIONS", _sfq_options(qdisc)]]
        case Clsact():
            return [["TCA_KIND", qdisc.kind]]


def qdisc_from(kind: str, handle: Handle, parent: Handle, options: Any) -> Qdisc:
    """The qdisc that a message describes. One that the kernel chose by itself is an :class:`OtherQdisc`."""
    if not handle.major or (kind == "htb" and parent != ROOT):
        return OtherQdisc(handle, parent, kind)
    if kind in _WITHOUT_OPTIONS:
        return _WITHOUT_OPTIONS[kind](handle, parent)
    read = _READERS.get(kind)
    return OtherQdisc(handle, parent, kind) if read is None or options is None else read(handle, parent, options)


def _attributes(kind: str, attributes: list[Any]) -> list[Any]:
    return [["TCA_KIND", kind], ["TCA_OPTIONS", {"attrs": attributes}]]


def _htb_options(qdisc: HtbQdisc) -> list[Any]:
    glob = {"version": _HTB_VERSION, "rate2quantum": qdisc.r2q, "defcls": qdisc.default_minor}
    return [["TCA_HTB_INIT", glob], ["TCA_HTB_DIRECT_QLEN", qdisc.direct_qlen]]


def _htb(handle: Handle, parent: Handle, options: Any) -> HtbQdisc:
    glob = options.get_attr("TCA_HTB_INIT")
    direct_qlen = number(options, "TCA_HTB_DIRECT_QLEN", 0)
    return HtbQdisc(handle, glob["defcls"], glob["rate2quantum"], direct_qlen, parent)


def _tbf_options(qdisc: Tbf) -> list[Any]:
    rate = qdisc.rate.bytes_per_second
    parms = {
        "rate": min(rate, U32),
        "rate_linklayer": ETHERNET,
        "limit": qdisc.limit.count,
        "buffer": burst_ticks(qdisc.rate, qdisc.burst),
    }
    beyond = [["TCA_TBF_RATE64", rate]] if rate > U32 else []
    # Saying the burst in bytes, too, spares the kernel the way back from ticks.
    return [["TCA_TBF_PARMS", parms], ["TCA_TBF_BURST", qdisc.burst.count], *beyond]


def _tbf(handle: Handle, parent: Handle, options: Any) -> Tbf:
    parms = options.get_attr("TCA_TBF_PARMS")
    rate = Rate.from_bytes_per_second(number(options, "TCA_TBF_RATE64", parms["rate"]))
    return Tbf(handle, parent, rate, burst_bytes(rate, parms["buffer"]), ByteCount(parms["limit"]))


def _prio(handle: Handle, parent: Handle, options: Any) -> Prio:
    return Prio(handle, parent, options["bands"], tuple(options["priomap"]))


def _fq_codel_options(qdisc: FqCodel, *, creating: bool) -> list[Any]:
    values = [
        ["TCA_FQ_CODEL_TARGET", qdisc.target.microseconds],
        ["TCA_FQ_CODEL_LIMIT", qdisc.limit],
        ["TCA_FQ_CODEL_INTERVAL", qdisc.interval.microseconds],
        ["TCA_FQ_CODEL_ECN", int(qdisc.ecn)],
        ["TCA_FQ_CODEL_QUANTUM", qdisc.quantum.count],
        ["TCA_FQ_CODEL_MEMORY_LIMIT", qdisc.memory_limit.count],
    ]
    if creating:  # the number of flows is refused in a change, even when it is the same
        values.append(["TCA_FQ_CODEL_FLOWS", qdisc.flows])
    return values


def _fq_codel(handle: Handle, parent: Handle, options: Any) -> FqCodel:
    value: Callable[[str, int], int] = partial(number, options)
    return FqCodel(
        handle,
        parent,
        limit=value("TCA_FQ_CODEL_LIMIT", 0),
        target=Duration(value("TCA_FQ_CODEL_TARGET", 0) * 1000),
        interval=Duration(value("TCA_FQ_CODEL_INTERVAL", 0) * 1000),
        memory_limit=ByteCount(value("TCA_FQ_CODEL_MEMORY_LIMIT", 0)),
        flows=value("TCA_FQ_CODEL_FLOWS", 0),
        quantum=ByteCount(value("TCA_FQ_CODEL_QUANTUM", 0)),
        ecn=bool(value("TCA_FQ_CODEL_ECN", 0)),
    )


def _bfifo(handle: Handle, parent: Handle, options: Any) -> Bfifo:
    return Bfifo(handle, parent, ByteCount(options["limit"]))


def _sfq_options(qdisc: Sfq) -> dict[str, int]:
    return {
        "quantum": qdisc.quantum.count,
        "perturb": qdisc.perturb_seconds,
        "limit": qdisc.limit,
        "depth": qdisc.depth,
    }


def _sfq(handle: Handle, parent: Handle, options: Any) -> Sfq:
    quantum, perturb = ByteCount(options["quantum"]), Duration(options["perturb"] * 10**9)
    return Sfq(handle, parent, options["limit"], quantum, perturb, options["depth"])


def _cake_options(qdisc: Cake) -> list[Any]:
    rtt = max(1, qdisc.rtt.microseconds)
    values = [
        ["TCA_CAKE_BASE_RATE64", qdisc.bytes_per_second],
        ["TCA_CAKE_AUTORATE", 0],
        ["TCA_CAKE_DIFFSERV_MODE", _DIFFSERV.index(qdisc.diffserv)],
        ["TCA_CAKE_FLOW_MODE", _ISOLATION.index(qdisc.isolation)],
        ["TCA_CAKE_RTT", rtt],
        ["TCA_CAKE_TARGET", max(1, rtt // _CAKE_TARGETS_PER_RTT)],
        ["TCA_CAKE_NAT", int(qdisc.nat)],
        ["TCA_CAKE_WASH", int(qdisc.wash)],
        ["TCA_CAKE_ACK_FILTER", int(qdisc.ack_filter)],
        ["TCA_CAKE_INGRESS", int(qdisc.ingress)],
        ["TCA_CAKE_SPLIT_GSO", int(qdisc.split_gso)],
        ["TCA_CAKE_OVERHEAD", qdisc.overhead or 0],
        ["TCA_CAKE_MPU", qdisc.mpu],
        ["TCA_CAKE_MEMORY", qdisc.memory_limit.count],
    ]
    if qdisc.overhead is None:  # its presence counts
        values.append(["TCA_CAKE_RAW", 0])
    return values


def _cake(handle: Handle, parent: Handle, options: Any) -> Cake:
    value: Callable[[str, int], int] = partial(number, options)
    rate = value("TCA_CAKE_BASE_RATE64", 0)
    return Cake(
        handle,
        parent,
        bandwidth=Rate.from_bytes_per_second(rate) if rate else None,
        diffserv=_DIFFSERV[value("TCA_CAKE_DIFFSERV_MODE", 0)],
        isolation=_ISOLATION[value("TCA_CAKE_FLOW_MODE", 0) & _ISOLATION_MASK],
        rtt=Duration(value("TCA_CAKE_RTT", 0) * 1000),
        nat=bool(value("TCA_CAKE_NAT", 0)),
        wash=bool(value("TCA_CAKE_WASH", 0)),
        ack_filter=bool(value("TCA_CAKE_ACK_FILTER", 0)),
        ingress=bool(value("TCA_CAKE_INGRESS", 0)),
        split_gso=bool(value("TCA_CAKE_SPLIT_GSO", 0)),
        overhead=value("TCA_CAKE_OVERHEAD", 0) if options.get_attr("TCA_CAKE_RAW") is None else None,
        mpu=value("TCA_CAKE_MPU", 0),
        memory_limit=ByteCount(value("TCA_CAKE_MEMORY", 0)),
    )


def _netem_options(qdisc: Netem) -> dict[str, Any]:
    rate = qdisc.bytes_per_second
    beyond = [["TCA_NETEM_RATE64", rate]] if rate > U32 else []
    return {
        "delay": ticks(qdisc.delay),
        "jitter": ticks(qdisc.jitter),
        "limit": qdisc.limit,
        "loss": chance(qdisc.loss_ppm),
        "duplicate": chance(qdisc.duplicate_ppm),
        # A gap alone means "all of them", which is not what a Netem without reordering says.
        "gap": qdisc.gap if qdisc.reorder_ppm else 0,
        "attrs": [
            ["TCA_NETEM_CORR", {}],
            ["TCA_NETEM_REORDER", {"probability": chance(qdisc.reorder_ppm)}],
            ["TCA_NETEM_CORRUPT", {"probability": chance(qdisc.corrupt_ppm)}],
            ["TCA_NETEM_RATE", {"rate": min(rate, U32)}],
            *beyond,
            ["TCA_NETEM_LATENCY64", qdisc.delay.nanoseconds],
            ["TCA_NETEM_JITTER64", qdisc.jitter.nanoseconds],
        ],
    }


def _netem(handle: Handle, parent: Handle, options: Any) -> Netem:
    reorder, corrupt = options.get_attr("TCA_NETEM_REORDER"), options.get_attr("TCA_NETEM_CORRUPT")
    limited = options.get_attr("TCA_NETEM_RATE")
    rate = number(options, "TCA_NETEM_RATE64", limited["rate"] if limited else 0)
    return Netem(
        handle,
        parent,
        limit=options["limit"],
        delay=Duration(number(options, "TCA_NETEM_LATENCY64", options["delay"])),
        jitter=Duration(number(options, "TCA_NETEM_JITTER64", options["jitter"])),
        loss_ppm=chance_ppm(options["loss"]),
        duplicate_ppm=chance_ppm(options["duplicate"]),
        corrupt_ppm=chance_ppm(corrupt["probability"]) if corrupt else 0,
        reorder_ppm=chance_ppm(reorder["probability"]) if reorder else 0,
        gap=options["gap"] or 1,
        rate=Rate.from_bytes_per_second(rate) if rate else None,
    )


_WITHOUT_OPTIONS: Final[dict[str, Callable[[Handle, Handle], Qdisc]]] = {"clsact": Clsact, "ingress": Ingress}
_READERS: Final[dict[str, Callable[[Handle, Handle, Any], Qdisc]]] = {
    "htb": _htb,
    "tbf": _tbf,
    "prio": _prio,
    "fq_codel": _fq_codel,
    "bfifo": _bfifo,
    "sfq": _sfq,
    "cake": _cake,
    "netem": _netem,
}
