"""The policy route: packets marked DIVERT are looked up in a table where every address is this machine's own.

    ip rule add pref 15101 fwmark 0x1000/0x3000 lookup 15101
    ip route add local default dev lo table 15101

That turns a captured packet, on its way out, round to lo and into PREROUTING, the only place where TPROXY works. Our
rule is recognised by its mark, which is nobody else's, whatever its preference and table: so a run with other settings
finds what an earlier one left.

Everything is done by rtnetlink (pyroute2) in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sidecar.errors import PrivilegeError, RulesetError, SidecarError
from sidecar.netfilter.rules import Family, PolicyRoute
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
class InstalledRoute:
    """What is there of ours: (preference, table) of each rule, and the tables that have the local route."""

    rules: tuple[tuple[int, int], ...]
    tables: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.rules or self.tables)

    def serves(self, route: PolicyRoute) -> bool:
        """Whether this is exactly ``route``."""
        return self.rules == ((route.preference, route.table),) and self.tables == (route.table,)


def observe(family: Family, table: int) -> InstalledRoute:
    """What one family has of ours; ``table`` is looked at even when no rule leads there. Raises RulesetError."""
    with _netlink(f"Reading the {family} routing rules") as ipr:
        return _observe(ipr, family, table)


def ensure(family: Family, route: PolicyRoute) -> bool:
    """Make ``route`` the one policy route of ours; whether anything had to be changed.

    Raises :class:`PrivilegeError` or :class:`RulesetError` with the remedy.
    """
    with _netlink(f"The {family} route of captured connections cannot be set up") as ipr:
        found = _observe(ipr, family, route.table)
        if found.serves(route):
            return False
        # The new way is laid before an old one is taken up: captured connections never miss theirs.
        if route.table not in found.tables:
            _change_route(ipr, "add", family, route.table)
        if (route.preference, route.table) not in found.rules:
            _change_rule(ipr, "add", family, route.preference, route.table)
        for preference, table in found.rules:
            if (preference, table) != (route.preference, route.table):
                _change_rule(ipr, "del", family, preference, table)
        for table in found.tables:
            if table != route.table:
                _change_route(ipr, "del", family, table)
        return True


def remove(family: Family, table: int) -> bool:
    """Take away every policy route of ours, and the local route of ``table``; whether there was one."""
    with _netlink(f"The {family} route of captured connections cannot be removed") as ipr:
        found = _observe(ipr, family, table)
        for preference, looked_up in found.rules:
            _change_rule(ipr, "del", family, preference, looked_up)
        for present in found.tables:
            _change_route(ipr, "del", family, present)
        return bool(found)


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


def _observe(ipr: Any, family: Family, table: int) -> InstalledRoute:
    rules = tuple(_rules(ipr, family))
    tables = {table, *(looked_up for _, looked_up in rules)}
    lo = ipr.link_lookup(ifname="lo")[0]
    return InstalledRoute(rules, tuple(sorted(t for t in tables if _has_route(ipr, family, t, lo))))


def _rules(ipr: Any, family: Family) -> Iterator[tuple[int, int]]:
    for rule in ipr.get_rules(family=_AF[family]):
        ours = (rule.get("fwmark"), rule.get("fwmask")) == (DIVERT.value, DIVERT.mask)
        narrowed = rule["src_len"] or rule["dst_len"] or rule.get("iifname") or rule.get("oifname")
        if ours and not narrowed and rule["action"] == _FR_ACT_TO_TBL:
            yield rule.get("priority", 0), rule.get("table", 0)


def _has_route(ipr: Any, family: Family, table: int, lo: int) -> bool:
    return any(
        route["type"] == _RTN_LOCAL and route["dst_len"] == 0 and route.get("oif") == lo
        for route in ipr.get_routes(family=_AF[family], table=table)
    )


def _change_rule(ipr: Any, command: str, family: Family, preference: int, table: int) -> None:
    ipr.rule(
        command,
        family=_AF[family],
        priority=preference,
        fwmark=DIVERT.value,
        fwmask=DIVERT.mask,
        table=table,
    )


def _change_route(ipr: Any, command: str, family: Family, table: int) -> None:
    lo = ipr.link_lookup(ifname="lo")[0]
    ipr.route(command, family=_AF[family], dst=_ANYWHERE[family], oif=lo, table=table, type="local", scope="host")
