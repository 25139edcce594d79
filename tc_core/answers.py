"""What rtnetlink messages say, as values of the model. No I/O: :mod:`tc_core.netlink` receives them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tc_core.bpf.mark_classifier import NAME_PREFIX, classic_bytes, fingerprint
from tc_core.handles import ROOT, Handle
from tc_core.layouts import EGRESS_REDIRECT
from tc_core.model import (
    ETH_P_ALL,
    MATCH_ALL,
    BpfFilter,
    Filter,
    FwFilter,
    HtbClass,
    Link,
    OtherFilter,
    Qdisc,
    RedirectFilter,
)
from tc_core.qdisc_layouts import U32, burst_bytes
from tc_core.qdisc_options import number, qdisc_from
from tc_core.stats import ClassStats
from traffic_policy.marks import Mark
from traffic_policy.units import ByteCount, Rate

_IFF_UP: Final = 1
_MATCH_ALL: Final = classic_bytes(MATCH_ALL)
_UNICAST: Final = 1
"""RTN_UNICAST: a gateway or a direct route."""
_MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN: where DHCP clients and CNI plugins put the default route."""


def link_of(message: Any) -> Link:
    """The link in an RTM_NEWLINK message. Kernels before 5.19 do not tell tso_max_size: 64 KiB then."""
    value: Callable[[str, int], int] = partial(number, message)
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        gso_max_size=value("IFLA_GSO_MAX_SIZE", 65536),
        tso_max_size=value("IFLA_TSO_MAX_SIZE", 65536),
        tx_queue_len=value("IFLA_TXQLEN", 0),
        kind=str((info.get_attr("IFLA_INFO_KIND") if info else None) or ""),
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
        is_up=bool(message["flags"] & _IFF_UP),
    )


def qdisc_of(message: Any) -> Qdisc:
    """The qdisc in an RTM_NEWQDISC message."""
    handle, parent = Handle.from_int(message["handle"]), Handle.from_int(message["parent"])
    return qdisc_from(str(message.get_attr("TCA_KIND")), handle, parent, message.get_attr("TCA_OPTIONS"))


def class_of(message: Any) -> HtbClass | None:
    """The HTB class in an RTM_NEWTCLASS message; None for a class of another kind."""
    if message.get_attr("TCA_KIND") != "htb":
        return None
    options = message.get_attr("TCA_OPTIONS")
    parms = options.get_attr("TCA_HTB_PARMS")
    handle, parent = Handle.from_int(message["handle"]), Handle.from_int(message["parent"])
    rate = Rate.from_bytes_per_second(number(options, "TCA_HTB_RATE64", parms["rate"]))
    ceil = Rate.from_bytes_per_second(number(options, "TCA_HTB_CEIL64", parms["ceil"]))
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
        mask = number(options, "TCA_FW_MASK", U32)
        return FwFilter(parent, Mark(handle & mask, mask), Handle.from_int(target), prio)
    if protocol == ETH_P_ALL and kind == "bpf":
        if (ops := options.get_attr("TCA_BPF_OPS")) is not None:
            return BpfFilter(parent, fingerprint(bytes(ops)), handle=handle, prio=prio)
        name = str(options.get_attr("TCA_BPF_NAME") or "")
        return BpfFilter(parent, name, handle=handle, prio=prio)
    return OtherFilter(parent, kind, prio, protocol)


def hook_filter_of(message: Any, interfaces: Mapping[int, str]) -> Filter | None:
    """The filter in an RTM_NEWTFILTER message about a hook of clsact; None for the heading before each priority.

    ``interfaces`` has the names of interfaces by index.
    """
    options = message.get_attr("TCA_OPTIONS")
    if options is None:
        return None
    parent, handle = Handle.from_int(message["parent"]), int(message["handle"])
    prio, protocol = message["info"] >> 16, socket.ntohs(message["info"] & 0xFFFF)
    kind = str(message.get_attr("TCA_KIND"))
    if protocol == ETH_P_ALL and kind == "bpf":
        connmark, device = _redirected_to(options.get_attr("TCA_BPF_ACT"))
        name = str(options.get_attr("TCA_BPF_NAME") or "")
        if device is not None and (options.get_attr("TCA_BPF_OPS") == _MATCH_ALL or name.startswith(NAME_PREFIX)):
            return RedirectFilter(parent, interfaces.get(device, ""), handle, prio, program=name, connmark=connmark)
    return OtherFilter(parent, kind, prio, protocol)


def _redirected_to(actions: Any) -> tuple[bool, int | None]:
    """Whether the connection's mark comes first, and the index of the interface to which a filter then redirects.

    The index is None when it does something else, or more.
    """
    found = [] if actions is None else [action for _, action in actions["attrs"]]
    kinds = [action.get_attr("TCA_ACT_KIND") for action in found]
    if kinds not in (["mirred"], ["connmark", "mirred"]):
        return False, None
    parms = found[-1].get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    return len(kinds) == 2, int(parms["ifindex"]) if parms["eaction"] == EGRESS_REDIRECT else None


def class_stats_of(message: Any) -> ClassStats:
    """The counters in a message about an HTB class."""
    # struct tc_htb_xstats { u32 lends, borrows, giants; s32 tokens, ctokens; }
    application = message.get_attr("TCA_STATS2").get_attr("TCA_STATS_APP")
    lends, borrows, giants = struct.unpack_from("=III", application) if application else (0, 0, 0)
    return replace(qdisc_stats_of(message), lended=lends, borrowed=borrows, giants=giants)


def qdisc_stats_of(message: Any) -> ClassStats:
    """The counters that all qdiscs and classes have in common, in a message about one of them."""
    stats = message.get_attr("TCA_STATS2")
    basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
    return ClassStats(
        bytes=basic["bytes"],
        packets=number(stats, "TCA_STATS_PKT64", basic["packets"]),
        drops=queue["drops"],
        overlimits=queue["overlimits"],
        requeues=queue["requeues"],
        backlog_bytes=queue["backlog"],
        backlog_packets=queue["qlen"],
    )


def default_route_of(message: Any) -> tuple[int, int] | None:
    """(metric, interface index) of a unicast default route in the main table; None for any other route."""
    if (
        message["dst_len"]
        or message["type"] != _UNICAST
        or number(message, "RTA_TABLE", message["table"]) != _MAIN_TABLE
    ):
        return None
    index = message.get_attr("RTA_OIF")
    if index is None:
        hops = message.get_attr("RTA_MULTIPATH") or []
        index = hops[0]["oif"] if hops else None
    return None if index is None else (number(message, "RTA_PRIORITY", 0), int(index))
