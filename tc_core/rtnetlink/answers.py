"""Parses rtnetlink messages to values of the model. No I/O: :mod:`tc_core.rtnetlink.kernel` receives them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tc_core.bpf.mark_classifier import NAME_PREFIX, classic_bytes, fingerprint
from tc_core.handles import Handle
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
from tc_core.netlink.codec import attributes, number, string
from tc_core.qdiscs import qdisc_from
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import LinkMessage, RouteMessage, TcMessage
from tc_core.stats import ClassStats
from traffic_policy.marks import Mark

_MATCH_ALL: Final = classic_bytes(MATCH_ALL)
_ALL_BITS: Final = 0xFFFFFFFF
_UNICAST: Final = 1
"""RTN_UNICAST: a gateway or a direct route."""
_MAIN_TABLE: Final = 254
"""RT_TABLE_MAIN: where DHCP clients and CNI plugins put the default route."""
_BASIC: Final = struct.Struct("=QI")
"""struct gnet_stats_basic: bytes, packets."""
_QUEUE: Final = struct.Struct("=IIIII")
"""struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits."""


def link_of(message: LinkMessage) -> Link:
    """The link in an RTM_NEWLINK message. Kernels before 5.19 do not tell tso_max_size: 64 KiB then."""
    found = message.attributes
    return Link(
        name=string(found, m.IFLA_IFNAME),
        gso_max_size=number(found, m.IFLA_GSO_MAX_SIZE, 65536),
        tso_max_size=number(found, m.IFLA_TSO_MAX_SIZE, 65536),
        tx_queue_len=number(found, m.IFLA_TXQLEN),
        kind=string(attributes(found.get(m.IFLA_LINKINFO, b"")), m.IFLA_INFO_KIND),
        alias=string(found, m.IFLA_IFALIAS),
        is_up=bool(message.flags & m.IFF_UP),
    )


def kind_of(message: TcMessage) -> str:
    """TCA_KIND."""
    return string(message.attributes, m.TCA_KIND)


def qdisc_of(message: TcMessage) -> Qdisc:
    """The qdisc in an RTM_NEWQDISC message."""
    handle, parent = Handle.from_int(message.handle), Handle.from_int(message.parent)
    return qdisc_from(kind_of(message), handle, parent, message.attributes.get(m.TCA_OPTIONS))


def class_of(message: TcMessage) -> HtbClass | None:
    """The HTB class in an RTM_NEWTCLASS message; None for a class of another kind."""
    if kind_of(message) != "htb":
        return None
    handle, parent = Handle.from_int(message.handle), Handle.from_int(message.parent)
    return HtbClass.from_options(handle, parent, message.attributes[m.TCA_OPTIONS])


def filter_of(message: TcMessage) -> Filter | None:
    """The filter in an RTM_NEWTFILTER message; None for the heading that the kernel sends before each priority."""
    data = message.attributes.get(m.TCA_OPTIONS)
    if data is None:
        return None
    parent, prio, protocol, kind = _place(message)
    # Options of other kinds may begin with a struct rather than an attribute.
    options = attributes(data) if kind in ("fw", "bpf") else {}
    if protocol == ETH_P_ALL and kind == "fw" and m.TCA_FW_CLASSID in options:
        mask = number(options, m.TCA_FW_MASK, _ALL_BITS)
        target = Handle.from_int(number(options, m.TCA_FW_CLASSID))
        return FwFilter(parent, Mark(message.handle & mask, mask), target, prio)
    if protocol == ETH_P_ALL and kind == "bpf":
        if (ops := options.get(m.TCA_BPF_OPS)) is not None:
            return BpfFilter(parent, fingerprint(ops), handle=message.handle, prio=prio)
        name = string(options, m.TCA_BPF_NAME)
        return BpfFilter(parent, name, handle=message.handle, prio=prio)
    return OtherFilter(parent, kind, prio, protocol)


def hook_filter_of(message: TcMessage, interfaces: Mapping[int, str]) -> Filter | None:
    """The filter in an RTM_NEWTFILTER message about a hook of clsact; None for the heading before each priority.

    ``interfaces`` has the names of interfaces by index.
    """
    data = message.attributes.get(m.TCA_OPTIONS)
    if data is None:
        return None
    parent, prio, protocol, kind = _place(message)
    if protocol == ETH_P_ALL and kind == "bpf":
        options = attributes(data)
        connmark, device = _redirected_to(options.get(m.TCA_BPF_ACT, b""))
        name = string(options, m.TCA_BPF_NAME)
        if device is not None and (options.get(m.TCA_BPF_OPS) == _MATCH_ALL or name.startswith(NAME_PREFIX)):
            to = interfaces.get(device, "")
            return RedirectFilter(parent, to, message.handle, prio, program=name, connmark=connmark)
    return OtherFilter(parent, kind, prio, protocol)


def _place(message: TcMessage) -> tuple[Handle, int, int, str]:
    """Parent, priority, Ethernet type in host order, and kind of a filter."""
    protocol = socket.ntohs(message.info & 0xFFFF)
    return Handle.from_int(message.parent), message.info >> 16, protocol, kind_of(message)


def _redirected_to(data: bytes) -> tuple[bool, int | None]:
    """Whether the connection's mark comes first, and the index of the interface to which a filter then redirects.

    The index is None when it does something else, or more.
    """
    actions = [attributes(action) for action in attributes(data).values()]
    kinds = [string(action, m.TCA_ACT_KIND) for action in actions]
    if kinds not in (["mirred"], ["connmark", "mirred"]):
        return False, None
    parms = attributes(actions[-1][m.TCA_ACT_OPTIONS])[m.TCA_MIRRED_PARMS]
    *_, eaction, index = m.MIRRED.unpack_from(parms)
    return len(kinds) == 2, index if eaction == m.EGRESS_REDIRECT else None


def class_stats_of(message: TcMessage) -> ClassStats:
    """The counters in a message about an HTB class."""
    # struct tc_htb_xstats { u32 lends, borrows, giants; s32 tokens, ctokens; }
    application = attributes(message.attributes[m.TCA_STATS2]).get(m.TCA_STATS_APP)
    lends, borrows, giants = struct.unpack_from("=III", application) if application else (0, 0, 0)
    return replace(qdisc_stats_of(message), lended=lends, borrowed=borrows, giants=giants)


def qdisc_stats_of(message: TcMessage) -> ClassStats:
    """The counters that all qdiscs and classes have in common, in a message about one of them."""
    stats = attributes(message.attributes[m.TCA_STATS2])
    count, packets = _BASIC.unpack_from(stats[m.TCA_STATS_BASIC])
    waiting, backlog, drops, requeues, overlimits = _QUEUE.unpack_from(stats[m.TCA_STATS_QUEUE])
    return ClassStats(
        bytes=count,
        packets=number(stats, m.TCA_STATS_PKT64, packets),
        drops=drops,
        overlimits=overlimits,
        requeues=requeues,
        backlog_bytes=backlog,
        backlog_packets=waiting,
    )


def default_route_of(message: RouteMessage) -> tuple[int, int] | None:
    """(metric, interface index) of a unicast default route in the main table; None for any other route."""
    found = message.attributes
    table = number(found, m.RTA_TABLE, message.table)
    if message.dst_len or message.type != _UNICAST or table != _MAIN_TABLE:
        return None
    index = number(found, m.RTA_OIF)
    if not index and (hops := found.get(m.RTA_MULTIPATH)):
        (index,) = struct.unpack_from("=i", hops, 4)  # struct rtnexthop { u16 len; u8 flags, hops; int ifindex; }
    return (number(found, m.RTA_PRIORITY), index) if index else None
