"""The policy routes as rtnetlink messages (rtnetlink(7), linux/fib_rules.h). No I/O: :mod:`.routes` sends them."""

from __future__ import annotations

import socket
from collections.abc import Set
from typing import Any, Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, rtnl
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from datapath.netfilter.rules import LOOPBACK, Family, PolicyRoute
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
_ADD: Final = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_DELETE: Final = NLM_F_REQUEST | NLM_F_ACK


def rules_request(family: Family) -> Any:
    """Ask for all routing rules of a family."""
    message = fibmsg()
    message["header"]["type"] = rtnl.RTM_GETRULE
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
    message["family"] = AF[family]
    return message


def rule_request(family: Family, route: PolicyRoute, *, add: bool) -> Any:
    """Add or delete the rule that leads to a route's table."""
    message = fibmsg()
    message["header"]["type"] = rtnl.RTM_NEWRULE if add else rtnl.RTM_DELRULE
    message["header"]["flags"] = _ADD if add else _DELETE
    message["family"], message["table"], message["action"] = AF[family], _SEE_ATTRIBUTE, _TO_TABLE
    attributes: list[list[Any]] = [["FRA_PRIORITY", route.preference], ["FRA_TABLE", route.table]]
    if route.mark is not None:
        attributes += [["FRA_FWMARK", route.mark.value], ["FRA_FWMASK", route.mark.mask]]
    else:
        network, _, length = LOOPBACK[family].partition("/")
        message["src_len"] = int(length)
        # "iif lo" means packets that are made here (ip-rule(8)).
        attributes += [["FRA_SRC", network], ["FRA_IIFNAME", "lo"]]
    message["attrs"] = attributes
    return message


def local_route_request(family: Family, table: int, lo: int, *, add: bool) -> Any:
    """Add or delete the route by which every address is this machine's own; ``lo``: the index of that interface."""
    message = rtmsg()
    message["header"]["type"] = rtnl.RTM_NEWROUTE if add else rtnl.RTM_DELROUTE
    message["header"]["flags"] = _ADD if add else _DELETE
    message["family"], message["table"] = AF[family], _SEE_ATTRIBUTE
    message["type"], message["scope"], message["proto"] = _LOCAL, _HOST, _STATIC
    message["attrs"] = [["RTA_TABLE", table], ["RTA_OIF", lo]]
    return message


def rule_of(message: Any, family: Family, tables: Set[int]) -> PolicyRoute | None:
    """One of our rules, known by our mark, or by one of these ``tables`` of ours; None: somebody else's."""
    if message["action"] != _TO_TABLE or message["dst_len"] or message.get_attr("FRA_OIFNAME"):
        return None
    mark = (message.get_attr("FRA_FWMARK") or 0, message.get_attr("FRA_FWMASK") or 0)
    table = message.get_attr("FRA_TABLE") or message["table"]
    preference = message.get_attr("FRA_PRIORITY") or 0
    source = f"{message.get_attr('FRA_SRC')}/{message['src_len']}" if message["src_len"] else None
    incoming = message.get_attr("FRA_IIFNAME")
    if mark == (DIVERT.value, DIVERT.mask) and source is None and not incoming:
        return PolicyRoute(DIVERT, table, preference)
    if not mark[0] and source == LOOPBACK[family] and incoming == "lo" and table in tables:
        return PolicyRoute(None, table, preference)
    return None


def table_of_local_route(message: Any, lo: int) -> int | None:
    """The table in which such a route is; None: it is another route."""
    if message["type"] != _LOCAL or message["dst_len"] or message.get_attr("RTA_OIF") != lo:
        return None
    return int(message.get_attr("RTA_TABLE") or message["table"])
