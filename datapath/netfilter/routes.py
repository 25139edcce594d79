"""The policy routes: they select packets for a routing table in which every address is local.

    ip rule add pref 15101 fwmark 0x1000/0x3000 lookup 15101
    ip rule add pref 15102 from 127.0.0.0/8 iif lo lookup 15101      (IPv6: from ::1)
    ip route add local default dev lo table 15101

The first sends captured outgoing packets to lo and thus to PREROUTING, the only hook where TPROXY works. The second is
for inbound connections: the proxy connects to the local program from the client's address, and the program's replies
must stay local. Rules of ours are recognised by our mark, with any preference and table, and by our table, so that a
run with other settings finds the rules of an earlier one.

All requests use rtnetlink in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from datapath.errors import PrivilegeError, RulesetError
from datapath.netfilter.rules import LOOPBACK, Family, PolicyRoute
from tc_core.netlink.codec import NetlinkError, attribute, number, string, text, u32
from tc_core.netlink.socket import NetlinkSocket
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import LinkMessage, RouteMessage, route_message
from tc_core.rtnetlink.requests import link_request, routes_request
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import DIVERT

_AF: Final = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_TO_TABLE: Final = 1
"""FR_ACT_TO_TBL: the rule's action is a look-up in its table."""
_LOCAL: Final = 2
"""RTN_LOCAL: local addresses."""
_HOST: Final = 254
"""RT_SCOPE_HOST: destinations on this machine."""
_STATIC: Final = 4
"""RTPROT_STATIC: added by an administrator."""
_SEE_ATTRIBUTE: Final = 252
"""RT_TABLE_COMPAT: the table's number does not fit into the header and is in an attribute."""
_FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 2, 3, 6, 10, 15, 16, 17
_REMEDIES: Final = {
    errno.ENETDOWN: "The loopback interface is down. Bring it up: ip link set lo up.",
    errno.EACCES: "IPv6 is disabled on lo. Enable it: sysctl net.ipv6.conf.lo.disable_ipv6=0.",
    errno.EOPNOTSUPP: "The kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES).",
    errno.EAFNOSUPPORT: "The kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES).",
}


@dataclass(frozen=True, slots=True)
class InstalledRoutes:
    """Our installed rules, and the tables that have the local route."""

    rules: tuple[PolicyRoute, ...]
    tables: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.rules or self.tables)


def observe(family: Family, table: int) -> InstalledRoutes:
    """Our state of one family; ``table`` is read even if no rule points to it. Raises :class:`RulesetError`."""
    with _netlink(f"Reading the {family} routing rules") as netlink:
        return _observe(netlink, family, {table})


def install(family: Family, wanted: Sequence[PolicyRoute]) -> bool:
    """Add the missing ones of the routes; returns whether there were any. Other rules and routes stay.

    Raises :class:`PrivilegeError` or :class:`RulesetError` with the remedy.
    """
    if not wanted:
        return False
    with _netlink(f"The {family} route of captured connections cannot be set up") as netlink:
        tables = {route.table for route in wanted}
        found = _observe(netlink, family, tables)
        missing = [route for route in wanted if route not in found.rules]
        without = tables.difference(found.tables)
        for table in sorted(without):
            netlink.ask(_local_route_request(family, table, _loopback(netlink), add=True))
        for route in missing:
            netlink.ask(_rule_request(family, route, add=True))
        return bool(missing or without)


def clear(family: Family, wanted: Sequence[PolicyRoute], tables: Set[int]) -> bool:
    """Remove our unwanted state, in ``tables`` even if no rule points there; returns whether there was any."""
    with _netlink(f"The {family} route of captured connections cannot be removed") as netlink:
        found = _observe(netlink, family, tables)
        rules = [route for route in found.rules if route not in wanted]
        local = set(found.tables).difference(route.table for route in wanted)
        for route in rules:
            netlink.ask(_rule_request(family, route, add=False))
        for table in sorted(local):
            netlink.ask(_local_route_request(family, table, _loopback(netlink), add=False))
        return bool(rules or local)


@contextmanager
def _netlink(doing: str) -> Iterator[NetlinkSocket]:
    try:
        with NetlinkSocket() as netlink:
            yield netlink
    except NetlinkError as error:
        raise _explain(doing, error.errno or 0, error.detail) from None


def _explain(doing: str, number: int, said: str) -> PodlaneError:
    if number == errno.EPERM:
        return PrivilegeError(f"{doing}: {said}. It takes CAP_NET_ADMIN: run as root or add the capability.")
    return RulesetError(f"{doing}: {said}. {_REMEDIES.get(number, 'See ip rule and ip route show table all.')}")


def _observe(netlink: NetlinkSocket, family: Family, tables: Set[int]) -> InstalledRoutes:
    rules_there = map(RouteMessage.parse, netlink.ask(_rules_request(family)))
    found = (_rule_of(each, family, tables) for each in rules_there)
    rules = tuple(rule for rule in found if rule is not None)
    looked_at = {*tables, *(route.table for route in rules)}
    lo = _loopback(netlink)
    routes = map(RouteMessage.parse, netlink.ask(routes_request(_AF[family])))
    local = {_table_of_local_route(each, lo) for each in routes}
    return InstalledRoutes(rules, tuple(sorted(table for table in looked_at if table in local)))


def _loopback(netlink: NetlinkSocket) -> int:
    [link] = netlink.ask(link_request("lo"))
    return LinkMessage.parse(link).index


# --- messages (rtnetlink(7), linux/fib_rules.h) -----------------------------------------------------------------------


def _rules_request(family: Family) -> bytes:
    """Request to dump all routing rules of a family."""
    return route_message(m.RTM_GETRULE, m.ASK_ALL, _AF[family])


def _rule_request(family: Family, route: PolicyRoute, *, add: bool) -> bytes:
    """Request to add or delete the rule that points to a route's table."""
    data = u32(_FRA_PRIORITY, route.preference) + u32(_FRA_TABLE, route.table)
    src_len = 0
    if route.mark is not None:
        data += u32(_FRA_FWMARK, route.mark.value) + u32(_FRA_FWMASK, route.mark.mask)
    else:
        network, _, length = LOOPBACK[family].partition("/")
        src_len = int(length)
        # "iif lo" matches locally generated packets (ip-rule(8)).
        data += attribute(_FRA_SRC, socket.inet_pton(_AF[family], network)) + text(_FRA_IIFNAME, "lo")
    kind, flags = (m.RTM_NEWRULE, m.MAKE) if add else (m.RTM_DELRULE, m.DELETE)
    return route_message(kind, flags, _AF[family], data, src_len=src_len, table=_SEE_ATTRIBUTE, type_=_TO_TABLE)


def _local_route_request(family: Family, table: int, lo: int, *, add: bool) -> bytes:
    """Request to add or delete the route that makes every address local; ``lo`` is that interface's index."""
    kind, flags = (m.RTM_NEWROUTE, m.MAKE) if add else (m.RTM_DELROUTE, m.DELETE)
    data = u32(m.RTA_TABLE, table) + u32(m.RTA_OIF, lo)
    return route_message(
        kind, flags, _AF[family], data, table=_SEE_ATTRIBUTE, protocol=_STATIC, scope=_HOST, type_=_LOCAL
    )


def _rule_of(message: RouteMessage, family: Family, tables: Set[int]) -> PolicyRoute | None:
    """The rule if it is ours, by our mark or one of our ``tables``; None for a foreign rule."""
    found = message.attributes
    if message.type != _TO_TABLE or message.dst_len or _FRA_OIFNAME in found:
        return None
    mark = number(found, _FRA_FWMARK), number(found, _FRA_FWMASK)
    table = number(found, _FRA_TABLE) or message.table
    preference = number(found, _FRA_PRIORITY)
    source = None
    if message.src_len:
        source = f"{socket.inet_ntop(_AF[family], found[_FRA_SRC])}/{message.src_len}"
    incoming = string(found, _FRA_IIFNAME)
    if mark == (DIVERT.value, DIVERT.mask) and source is None and not incoming:
        return PolicyRoute(DIVERT, table, preference)
    if not mark[0] and source == LOOPBACK[family] and incoming == "lo" and table in tables:
        return PolicyRoute(None, table, preference)
    return None


def _table_of_local_route(message: RouteMessage, lo: int) -> int | None:
    """The table of a local route of ours; None for another route."""
    if message.type != _LOCAL or message.dst_len or number(message.attributes, m.RTA_OIF) != lo:
        return None
    return number(message.attributes, m.RTA_TABLE) or message.table
