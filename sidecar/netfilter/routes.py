"""The policy routes: which packets are looked up in a table where every address is this machine's own.

    ip rule add pref 15101 fwmark 0x1000/0x3000 lookup 15101
    ip rule add pref 15102 from 127.0.0.0/8 iif lo lookup 15101      (IPv6: from ::1)
    ip route add local default dev lo table 15101

The first turns a captured packet, on its way out, round to lo and into PREROUTING, the only place where TPROXY works.
The second is for inbound connections: a program here answers the proxy, which speaks to it from the client's address,
and that answer must stay here. Our rules are recognised by our mark, which is nobody else's, whatever their preference
and table, and by our table: so a run with other settings finds what an earlier one left.

Everything is done by rtnetlink (pyroute2) in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sidecar.errors import PrivilegeError, RulesetError, SidecarError
from sidecar.netfilter.rules import LOOPBACK, Family, PolicyRoute
from tc_core.marks import DIVERT

_AF: Final = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_ANYWHERE: Final = {Family.V4: "0.0.0.0/0", Family.V6: "::/0"}
_FR_ACT_TO_TBL: Final = 1
"""linux/fib_rules.h: the rule's action is a look-up in its table."""
_RTN_LOCAL: Final = 2
"""linux/rtnetlink.h: addresses that are this machine's own."""
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
    with _netlink(f"Reading the {family} routing rules") as ipr:
        return _observe(ipr, family, {table})


def lay(family: Family, wanted: Sequence[PolicyRoute]) -> bool:
    """Add those of the routes that are missing; whether there were any. What else is there stays.

    Raises :class:`PrivilegeError` or :class:`RulesetError` with the remedy.
    """
    if not wanted:
        return False
    with _netlink(f"The {family} route of captured connections cannot be set up") as ipr:
        tables = {route.table for route in wanted}
        found = _observe(ipr, family, tables)
        missing = [route for route in wanted if route not in found.rules]
        without = tables.difference(found.tables)
        for table in sorted(without):
            _change_route(ipr, "add", family, table)
        for route in missing:
            _change_rule(ipr, "add", family, route)
        return bool(missing or without)


def clear(family: Family, wanted: Sequence[PolicyRoute], tables: Set[int]) -> bool:
    """Take away what is ours and not wanted, in ``tables`` too when no rule leads there; whether there was any."""
    with _netlink(f"The {family} route of captured connections cannot be removed") as ipr:
        found = _observe(ipr, family, tables)
        rules = [route for route in found.rules if route not in wanted]
        local = set(found.tables).difference(route.table for route in wanted)
        for route in rules:
            _change_rule(ipr, "del", family, route)
        for table in sorted(local):
            _change_route(ipr, "del", family, table)
        return bool(rules or local)


@contextmanager
def _netlink(doing: str) -> Iterator[Any]:
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise _explain(doing, error.code, str(error.args[-1])) from None
    except OSError as error:
        raise _explain(doing, error.errno or 0, error.strerror or str(error)) from None


def _explain(doing: str, number: int, said: str) -> SidecarError:
    if number == errno.EPERM:
        return PrivilegeError(f"{doing}: {said}. It takes CAP_NET_ADMIN: run as root or add the capability.")
    return RulesetError(f"{doing}: {said}. {_REMEDIES.get(number, 'See ip rule and ip route show table all.')}")


def _observe(ipr: Any, family: Family, tables: Set[int]) -> InstalledRoutes:
    rules = tuple(_rules(ipr, family, tables))
    looked_at = {*tables, *(route.table for route in rules)}
    lo = ipr.link_lookup(ifname="lo")[0]
    return InstalledRoutes(rules, tuple(sorted(t for t in looked_at if _has_route(ipr, family, t, lo))))


def _rules(ipr: Any, family: Family, tables: Set[int]) -> Iterator[PolicyRoute]:
    for rule in ipr.get_rules(family=_AF[family]):
        if rule["action"] != _FR_ACT_TO_TBL or rule["dst_len"] or rule.get("oifname"):
            continue
        mark = (rule.get("fwmark", 0), rule.get("fwmask", 0))
        table, preference = rule.get("table", 0), rule.get("priority", 0)
        source = f"{rule.get('src')}/{rule['src_len']}" if rule["src_len"] else None
        if mark == (DIVERT.value, DIVERT.mask) and source is None and not rule.get("iifname"):
            yield PolicyRoute(DIVERT, table, preference)
        elif not mark[0] and source == LOOPBACK[family] and rule.get("iifname") == "lo" and table in tables:
            yield PolicyRoute(None, table, preference)


def _has_route(ipr: Any, family: Family, table: int, lo: int) -> bool:
    return any(
        route["type"] == _RTN_LOCAL and route["dst_len"] == 0 and route.get("oif") == lo
        for route in ipr.get_routes(family=_AF[family], table=table)
    )


def _change_rule(ipr: Any, command: str, family: Family, route: PolicyRoute) -> None:
    if route.mark is not None:
        which: dict[str, object] = {"fwmark": route.mark.value, "fwmask": route.mark.mask}
    else:
        network, _, length = LOOPBACK[family].partition("/")
        # "iif lo" means packets that are made here (ip-rule(8)).
        which = {"src": network, "src_len": int(length), "iifname": "lo"}
    ipr.rule(command, family=_AF[family], priority=route.preference, table=route.table, **which)


def _change_route(ipr: Any, command: str, family: Family, table: int) -> None:
    lo = ipr.link_lookup(ifname="lo")[0]
    ipr.route(command, family=_AF[family], dst=_ANYWHERE[family], oif=lo, table=table, type="local", scope="host")
