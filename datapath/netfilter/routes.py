"""The policy routes: which packets are looked up in a table where every address is this machine's own.

    ip rule add pref 15101 fwmark 0x1000/0x3000 lookup 15101
    ip rule add pref 15102 from 127.0.0.0/8 iif lo lookup 15101      (IPv6: from ::1)
    ip route add local default dev lo table 15101

The first turns a captured packet, on its way out, round to lo and into PREROUTING, the only place where TPROXY works.
The second is for inbound connections: a program here answers the proxy, which speaks to it from the client's address,
and that answer must stay here. Our rules are recognised by our mark, which is nobody else's, whatever their preference
and table, and by our table: so a run with other settings finds what an earlier one left.

Everything is done by rtnetlink in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from datapath.errors import PrivilegeError, RulesetError
from datapath.netfilter.route_messages import (
    AF,
    local_route_request,
    rule_of,
    rule_request,
    rules_request,
    table_of_local_route,
)
from datapath.netfilter.rules import Family, PolicyRoute
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.socket import NetlinkSocket
from tc_core.rtnetlink.messages import LinkMessage, RouteMessage
from tc_core.rtnetlink.requests import link_request, routes_request
from traffic_policy.errors import PodlaneError

_REMEDIES: Final = {
    errno.ENETDOWN: "The loopback interface is down. Bring it up: ip link set lo up.",
    errno.EACCES: "IPv6 is disabled on lo. Enable it: sysctl net.ipv6.conf.lo.disable_ipv6=0.",
    errno.EOPNOTSUPP: "The kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES).",
    errno.EAFNOSUPPORT: "The kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES).",
}


@dataclass(frozen=True, slots=True)
class InstalledRoutes:
    """What is there of ours: the rules, and the tables that have the local route."""

    rules: tuple[PolicyRoute, ...]
    tables: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.rules or self.tables)


def observe(family: Family, table: int) -> InstalledRoutes:
    """What one family has of ours; ``table`` is looked at even when no rule leads there. Raises RulesetError."""
    with _netlink(f"Reading the {family} routing rules") as netlink:
        return _observe(netlink, family, {table})


def lay(family: Family, wanted: Sequence[PolicyRoute]) -> bool:
    """Add those of the routes that are missing; whether there were any. What else is there stays.

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
            _change_route(netlink, "add", family, table)
        for route in missing:
            _change_rule(netlink, "add", family, route)
        return bool(missing or without)


def clear(family: Family, wanted: Sequence[PolicyRoute], tables: Set[int]) -> bool:
    """Take away what is ours and not wanted, in ``tables`` too when no rule leads there; whether there was any."""
    with _netlink(f"The {family} route of captured connections cannot be removed") as netlink:
        found = _observe(netlink, family, tables)
        rules = [route for route in found.rules if route not in wanted]
        local = set(found.tables).difference(route.table for route in wanted)
        for route in rules:
            _change_rule(netlink, "del", family, route)
        for table in sorted(local):
            _change_route(netlink, "del", family, table)
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
    rules_there = map(RouteMessage.parse, netlink.ask(rules_request(family)))
    found = (rule_of(each, family, tables) for each in rules_there)
    rules = tuple(rule for rule in found if rule is not None)
    looked_at = {*tables, *(route.table for route in rules)}
    lo = _loopback(netlink)
    routes = map(RouteMessage.parse, netlink.ask(routes_request(AF[family])))
    local = {table_of_local_route(each, lo) for each in routes}
    return InstalledRoutes(rules, tuple(sorted(table for table in looked_at if table in local)))


def _change_rule(netlink: NetlinkSocket, command: str, family: Family, route: PolicyRoute) -> None:
    netlink.ask(rule_request(family, route, add=command == "add"))


def _change_route(netlink: NetlinkSocket, command: str, family: Family, table: int) -> None:
    request = local_route_request(family, table, _loopback(netlink), add=command == "add")
    netlink.ask(request)


def _loopback(netlink: NetlinkSocket) -> int:
    [link] = netlink.ask(link_request("lo"))
    return LinkMessage.parse(link).index
