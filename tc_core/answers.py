"""What rtnetlink messages say, as values of the model. No I/O: :mod:`tc_core.netlink` receives them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tc_core.bpf import fingerprint
from tc_core.handles import ROOT, Handle
from tc_core.layouts import U32, burst_bytes
from tc_core.marks import Mark
from tc_core.model import (
    ETH_P_ALL,
    Bfifo,
    BpfFilter,
    BpfFlavour,
    Filter,
    FqCodel,
    FwFilter,
    HtbClass,
    HtbQdisc,
    Link,
    OtherFilter,
    OtherQdisc,
    Qdisc,
)
from tc_core.stats import ClassStats
from tc_core.units import ByteCount, Duration, Rate

_UNICAST: Final = 1
"""RTN_UNICAST: a gateway or a direct route."""
_MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN: where DHCP clients and CNI plugins put the default route."""


def link_of(message: Any) -> Link:
    """The link in an RTM_NEWLINK message. Kernels before 5.19 do not tell tso_max_size: 64 KiB then."""
    value: Callable[[str, int], int] = partial(_number, message)
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        gso_max_size=value("IFLA_GSO_MAX_SIZE", 65536),
        tso_max_size=value("IFLA_TSO_MAX_SIZE", 65536),
        tx_queue_len=value("IFLA_TXQLEN", 0),
    )


def _number(message: Any, name: str, default: int) -> int:
    value = message.get_attr(name)
    return default if value is None else int(value)


def qdisc_of(message: Any) -> Qdisc:
    """The qdisc in an RTM_NEWQDISC message."""
    handle, parent = Handle.from_int(message["handle"]), Handle.from_int(message["parent"])
    kind = str(message.get_attr("TCA_KIND"))
    options = message.get_attr("TCA_OPTIONS")
    if kind == "htb" and parent == ROOT and (glob := options.get_attr("TCA_HTB_INIT")):
        direct_qlen = _number(options, "TCA_HTB_DIRECT_QLEN", 0)
        return HtbQdisc(handle, glob["defcls"], glob["rate2quantum"], direct_qlen)
    if kind == "bfifo" and handle.major:
        return Bfifo(handle, parent, ByteCount(options["limit"]))
    if kind == "fq_codel" and handle.major:
        value: Callable[[str, int], int] = partial(_number, options)
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
    return OtherQdisc(handle, parent, kind)


def class_of(message: Any) -> HtbClass | None:
    """The HTB class in an RTM_NEWTCLASS message; None for a class of another kind."""
    if message.get_attr("TCA_KIND") != "htb":
        return None
    options = message.get_attr("TCA_OPTIONS")
    parms = options.get_attr("TCA_HTB_PARMS")
    handle, parent = Handle.from_int(message["handle"]), Handle.from_int(message["parent"])
    rate = Rate.from_bytes_per_second(_number(options, "TCA_HTB_RATE64", parms["rate"]))
    ceil = Rate.from_bytes_per_second(_number(options, "TCA_HTB_CEIL64", parms["ceil"]))
    return HtbClass(
        handle=handle,
        # The kernel says "root" where the parent is the qdisc itself.
        parent=Handle(handle.major) if parent == ROOT else parent,
        rate=rate,
        ceil=ceil,
        burst=burst_bytes(rate, parms["buffer"]),
        cburst=burst_bytes(ceil, parms["cbuffer"]),
        prio=parms["prio"],
        quantum=ByteCount(parms["quantum"]),
        is_inner=parms["level"] > 0,
    )


def filter_of(message: Any) -> Filter | None:
    """The filter in an RTM_NEWTFILTER message; None for the heading that the kernel sends before each priority."""
    options = message.get_attr("TCA_OPTIONS")
    if options is None:
        return None
    parent, handle = Handle.from_int(message["parent"]), int(message["handle"])
    prio, protocol = message["info"] >> 16, socket.ntohs(message["info"] & 0xFFFF)
    kind = str(message.get_attr("TCA_KIND"))
    if protocol == ETH_P_ALL and kind == "fw" and (target := options.get_attr("TCA_FW_CLASSID")) is not None:
        mask = _number(options, "TCA_FW_MASK", U32)
        return FwFilter(parent, Mark(handle & mask, mask), Handle.from_int(target), prio)
    if protocol == ETH_P_ALL and kind == "bpf":
        if (ops := options.get_attr("TCA_BPF_OPS")) is not None:
            code = fingerprint(bytes(ops))
            return BpfFilter(parent, BpfFlavour.CLASSIC, code, handle=handle, prio=prio)
        name = str(options.get_attr("TCA_BPF_NAME") or "")
        return BpfFilter(parent, BpfFlavour.EBPF, name, handle=handle, prio=prio)
    return OtherFilter(parent, kind, prio, protocol)


def stats_of(message: Any) -> ClassStats:
    """The counters in a message about a class or a qdisc."""
    stats = message.get_attr("TCA_STATS2")
    basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
    # struct tc_htb_xstats { u32 lends, borrows, giants; s32 tokens, ctokens; }
    application = stats.get_attr("TCA_STATS_APP")
    lends, borrows, giants = struct.unpack_from("=III", application) if application else (0, 0, 0)
    return ClassStats(
        bytes=basic["bytes"],
        packets=_number(stats, "TCA_STATS_PKT64", basic["packets"]),
        drops=queue["drops"],
        overlimits=queue["overlimits"],
        requeues=queue["requeues"],
        backlog_bytes=queue["backlog"],
        backlog_packets=queue["qlen"],
        lended=lends,
        borrowed=borrows,
        giants=giants,
    )


def default_route_of(message: Any) -> tuple[int, int] | None:
    """(metric, interface index) of a unicast default route in the main table; None for any other route."""
    if (
        message["dst_len"]
        or message["type"] != _UNICAST
        or _number(message, "RTA_TABLE", message["table"]) != _MAIN_TABLE
    ):
        return None
    index = message.get_attr("RTA_OIF")
    if index is None:
        hops = message.get_attr("RTA_MULTIPATH") or []
        index = hops[0]["oif"] if hops else None
    return None if index is None else (_number(message, "RTA_PRIORITY", 0), int(index))
