"""The policy routes as rtnetlink messages (rtnetlink(7), linux/fib_rules.h). No I/O: :mod:`.routes` sends them."""

from __future__ import annotations

import socket
from collections.abc import Set
from typing import Final

from datapath.netfilter.rules import LOOPBACK, Family, PolicyRoute
from tc_core.netlink.codec import attribute, number, string, text, u32
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import RouteMessage, route_message
from traffic_policy.marks import DIVERT

AF: Final = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_TO_TABLE: Final = 1
"""FR_ACT_TO_TBL: the rule's action is a look-up in its table."""
_LOCAL: Final = 2
"""RTN_LOCAL: addresses that are this machine's own."""
_HOST: Final = 254
"""RT_SCOPE_HOST: they are reached on this machine."""
_STATIC: Final = 4
"""RTPROT_STATIC: made by an administrator."""
_SEE_ATTRIBUTE: Final = 252
"""RT_TABLE_COMPAT: the table's number does not fit into the header, and is in an attribute."""
_FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 2, 3, 6, 10, 15, 16, 17


def rules_request(family: Family) -> bytes:
    """Ask for all routing rules of a family."""
    return route_message(m.RTM_GETRULE, m.ASK_ALL, AF[family])


def rule_request(family: Family, route: PolicyRoute, *, add: bool) -> bytes:
    """Add or delete the rule that leads to a route's table."""
    data = u32(_FRA_PRIORITY, route.preference) + u32(_FRA_TABLE, route.table)
    src_len = 0
    if route.mark is not None:
        data += u32(_FRA_FWMARK, route.mark.value) + u32(_FRA_FWMASK, route.mark.mask)
    else:
        network, _, length = LOOPBACK[family].partition("/")
        src_len = int(length)
        # "iif lo" means packets that are made here (ip-rule(8)).
        data += attribute(_FRA_SRC, socket.inet_pton(AF[family], network)) + text(_FRA_IIFNAME, "lo")
    kind, flags = (m.RTM_NEWRULE, m.MAKE) if add else (m.RTM_DELRULE, m.DELETE)
    return route_message(kind, flags, AF[family], data, src_len=src_len, table=_SEE_ATTRIBUTE, type_=_TO_TABLE)


def local_route_request(family: Family, table: int, lo: int, *, add: bool) -> bytes:
    """Add or delete the route by which every address is this machine's own; ``lo``: the index of that interface."""
    kind, flags = (m.RTM_NEWROUTE, m.MAKE) if add else (m.RTM_DELROUTE, m.DELETE)
    data = u32(m.RTA_TABLE, table) + u32(m.RTA_OIF, lo)
    return route_message(
        kind, flags, AF[family], data, table=_SEE_ATTRIBUTE, protocol=_STATIC, scope=_HOST, type_=_LOCAL
    )


def rule_of(message: RouteMessage, family: Family, tables: Set[int]) -> PolicyRoute | None:
    """One of our rules, known by our mark, or by one of these ``tables`` of ours; None: somebody else's."""
    found = message.attributes
    if message.type != _TO_TABLE or message.dst_len or _FRA_OIFNAME in found:
        return None
    mark = number(found, _FRA_FWMARK), number(found, _FRA_FWMASK)
    table = number(found, _FRA_TABLE) or message.table
    preference = number(found, _FRA_PRIORITY)
    source = None
    if message.src_len:
        source = f"{socket.inet_ntop(AF[family], found[_FRA_SRC])}/{message.src_len}"
    incoming = string(found, _FRA_IIFNAME)
    if mark == (DIVERT.value, DIVERT.mask) and source is None and not incoming:
        return PolicyRoute(DIVERT, table, preference)
    if not mark[0] and source == LOOPBACK[family] and incoming == "lo" and table in tables:
        return PolicyRoute(None, table, preference)
    return None


def table_of_local_route(message: RouteMessage, lo: int) -> int | None:
    """The table in which such a route is; None: it is another route."""
    if message.type != _LOCAL or message.dst_len or number(message.attributes, m.RTA_OIF) != lo:
        return None
    return number(message.attributes, m.RTA_TABLE) or message.table
