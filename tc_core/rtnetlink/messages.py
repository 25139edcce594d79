"""Heads and numbers of rtnetlink messages (linux/rtnetlink.h, linux/if_link.h, linux/pkt_cls.h, linux/gen_stats.h)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from tc_core.netlink.codec import ACK, CREATE, DUMP, EXCL, REPLACE, REQUEST, Attributes, attributes, message

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

MAKE: Final = REQUEST | ACK | CREATE | EXCL
ALTER: Final = REQUEST | ACK
DELETE: Final = REQUEST | ACK
PUT: Final = REQUEST | ACK | CREATE | REPLACE
ASK_ALL: Final = REQUEST | DUMP

IFLA_IFNAME, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GSO_MAX_SIZE, IFLA_TSO_MAX_SIZE = 3, 13, 18, 20, 41, 59
IFLA_INFO_KIND: Final = 1
IFF_UP: Final = 1
RTA_OIF, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE = 4, 6, 9, 15
TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TCA_STATS_BASIC, TCA_STATS_QUEUE, TCA_STATS_APP, TCA_STATS_PKT64 = 1, 3, 4, 8
TCA_FW_CLASSID, TCA_FW_MASK = 1, 5
TCA_BPF_ACT, TCA_BPF_OPS_LEN, TCA_BPF_OPS, TCA_BPF_FD, TCA_BPF_NAME = 1, 4, 5, 6, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS: Final = 2
TCA_CONNMARK_PARMS: Final = 1

MIRRED: Final = struct.Struct("=IIiiiiI")
"""struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex."""
CONNMARK: Final = struct.Struct("=IIiiiHxx")
"""struct tc_connmark: index, capab, action, refcnt, bindcnt, zone."""
EGRESS_REDIRECT: Final = 1
"""TCA_EGRESS_REDIR of linux/tc_act/tc_mirred.h: out by another device, rather than in by it or a copy of the packet."""

_TCMSG: Final = struct.Struct("=BxxxiIII")
_IFINFOMSG: Final = struct.Struct("=BxHiII")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class TcMessage:
    """struct tcmsg with its attributes: a qdisc, a class or a filter."""

    index: int
    handle: int
    parent: int
    info: int
    attributes: Attributes

    @classmethod
    def parse(cls, payload: bytes) -> TcMessage:
        """What a message without its netlink header says."""
        _, index, handle, parent, info = _TCMSG.unpack_from(payload)
        return cls(index, handle, parent, info, attributes(payload, _TCMSG.size))


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """struct ifinfomsg with its attributes; ``change`` says which of ``flags`` are to be set."""

    index: int
    flags: int
    change: int
    attributes: Attributes

    @classmethod
    def parse(cls, payload: bytes) -> LinkMessage:
        """What a message without its netlink header says."""
        _, _, index, flags, change = _IFINFOMSG.unpack_from(payload)
        return cls(index, flags, change, attributes(payload, _IFINFOMSG.size))


@dataclass(frozen=True, slots=True)
class RouteMessage:
    """struct rtmsg with its attributes; and struct fib_rule_hdr, which has the rule's action in the place of a type."""

    dst_len: int
    src_len: int
    table: int
    type: int
    attributes: Attributes

    @classmethod
    def parse(cls, payload: bytes) -> RouteMessage:
        """What a message without its netlink header says."""
        _, dst_len, src_len, _, table, _, _, kind, _ = _RTMSG.unpack_from(payload)
        return cls(dst_len, src_len, table, kind, attributes(payload, _RTMSG.size))


def tc_message(kind: int, flags: int, index: int, handle: int, parent: int, info: int = 0, data: bytes = b"") -> bytes:
    """A request about traffic control; ``data`` are its attributes."""
    return message(kind, _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, info) + data, flags=flags)


def link_message(kind: int, flags: int, index: int, data: bytes = b"", *, up: bool | None = None) -> bytes:
    """A request about a link; ``up`` sets it up or down."""
    change = 0 if up is None else IFF_UP
    head = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, IFF_UP if up else 0, change)
    return message(kind, head + data, flags=flags)


def route_message(
    kind: int,
    flags: int,
    family: int,
    data: bytes = b"",
    *,
    src_len: int = 0,
    table: int = 0,
    protocol: int = 0,
    scope: int = 0,
    type_: int = 0,
) -> bytes:
    """A request about a route, or about a rule, whose action is ``type_``."""
    head = _RTMSG.pack(family, 0, src_len, 0, table, protocol, scope, type_, 0)
    return message(kind, head + data, flags=flags)
