"""The capture checks of `podlane check`: tries every required netfilter feature in a scratch namespace.

The kernel configuration does not suffice: modules may be missing on the node, not loadable from a container, or
available to one implementation of iptables only. So each check installs one small rule and discards it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from datapath.errors import RulesetError
from datapath.netfilter import routes
from datapath.netfilter.backend import NET_ADMIN_REMEDY, Backend, has_net_admin
from datapath.netfilter.capture_settings import OWNER_PART, PRIORITY_PART
from datapath.netfilter.ipv6 import ipv6_missing
from datapath.netfilter.parse import Installed
from datapath.netfilter.restore import installed_programs
from datapath.netfilter.rules import (
    Chain,
    ConntrackDirection,
    Family,
    FamilyRules,
    Hook,
    Jump,
    PolicyRoute,
    ResetPriority,
    Return,
    Rule,
    SetConnmark,
    SetMark,
    Tproxy,
)
from datapath.netfilter.ruleset import PRE, CaptureSettings
from datapath.netfilter.select import detect_backend, may_be_python, python_backend, sample
from tc_core.errors import MissingFeatureError
from tc_core.kernel import SetLink
from tc_core.probe.scratch import in_scratch_namespace
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import DIVERT, UNDECIDED
from traffic_policy.policy import PortRange, TransportProtocol
from traffic_policy.settings import OUTBOUND_PORT, IptablesSetting

_UNTRIED: Final = "looks right, but was not tried: making a scratch namespace takes CAP_SYS_ADMIN"


INBOUND_PART: Final = "addrtype, socket match"
"""Needed only by inbound matches by name."""


@dataclass(frozen=True, slots=True)
class Check:
    """A feature that capture needs. ``reason`` is the finding; ``remedy`` is empty when the feature is available."""

    name: str
    available: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of netfilter: a rule that needs it, and the kernel module that has it."""

    name: str
    rule: Rule | None
    module: str
    builtin: str = "PREROUTING"


_TCP: Final = TransportProtocol.TCP
_PARTS: Final = (
    _Part("mangle table", None, "iptable_mangle"),
    _Part("MARK target", Rule(SetMark(DIVERT)), "xt_mark"),
    _Part("mark match", Rule(Return(), mark=DIVERT), "xt_mark"),
    _Part("connmark match", Rule(Return(), connmark=DIVERT), "xt_connmark"),
    _Part("CONNMARK target", Rule(SetConnmark(UNDECIDED)), "xt_connmark"),
    _Part("conntrack match", Rule(Return(), direction=ConntrackDirection.REPLY), "xt_conntrack"),
    _Part(
        "multiport match",
        Rule(Return(), protocol=_TCP, ports=(PortRange(1, 1), PortRange(3, 4))),
        "xt_multiport",
    ),
    _Part(
        "TPROXY target",
        Rule(Tproxy(ipaddress.IPv4Address("127.0.0.1"), OUTBOUND_PORT, DIVERT), protocol=_TCP),
        "xt_TPROXY",
    ),
)
_INBOUND: Final = _Part(
    INBOUND_PART, Rule(SetConnmark(DIVERT), protocol=_TCP, to_here=True, has_socket=True), "xt_addrtype xt_socket"
)
_OWNER: Final = _Part(OWNER_PART, Rule(Return(), protocol=_TCP, group=0), "xt_owner", "OUTPUT")
_PRIORITY: Final = _Part(PRIORITY_PART, Rule(ResetPriority()), "xt_CLASSIFY", "OUTPUT")


def probe(way: IptablesSetting = IptablesSetting.AUTO) -> list[Check]:
    """Try everything that capture needs, with rules installed by ``way``.

    Never raises: a feature that fails is reported as not available.
    """
    found = installed_programs()
    if (found or may_be_python(way)) and not has_net_admin():
        return [Check("iptables", False, "nothing can be tried without CAP_NET_ADMIN", NET_ADMIN_REMEDY)]
    backend: Backend | None
    try:
        backend = detect_backend(way)
    except MissingFeatureError as error:
        checks = [Check("iptables", False, error.feature, error.remedy)]
        # Which part it is that does not work still shows.
        backend = None if way is IptablesSetting.PYTHON else next(iter(found.values()), None)
    except RulesetError as error:
        checks = [Check("iptables", False, str(error), "Or use `--iptables auto`, which goes where they are.")]
        backend = None
    else:
        others = ", ".join(str(b) for b in found.values() if b != backend)
        checks = [Check("iptables", True, f"{backend} is used{f'; also here: {others}' if others else ''}")]
    if backend is not None:
        checks += [_check_part(backend, part) for part in _PARTS]
        checks += [_check_part(backend, part) for part in (_INBOUND, _OWNER, _PRIORITY)]
        checks.append(_check_ip6tables(backend))
    checks += [_check_routing(family) for family in Family if family is Family.V4 or ipv6_missing() is None]
    return checks


def python_iptables() -> Check:
    """Whether python-iptables works, used or not."""
    name = "python-iptables"
    try:
        backend = python_backend()
    except MissingFeatureError as error:
        found = error.feature.removeprefix(f"{name} is ").rstrip(".")
        return Check(name, False, f"{found}; needed only where there is no iptables-restore", error.remedy)
    if not has_net_admin():
        return Check(name, False, f"{backend.description}: not tried without CAP_NET_ADMIN", NET_ADMIN_REMEDY)
    remedy = "Use `--iptables restore`, or install what is missing."
    # In the current namespace it is only read: a rehearsal would leave a legacy table behind.
    tried = _try(name, lambda: backend.apply(sample(), Installed()), lambda: backend.installed(Family.V4), remedy)
    # Its release is known once it was used.
    return replace(tried, reason=f"{backend.description}, for legacy tables only: {tried.reason}")


def lacking(backend: Backend) -> frozenset[str]:
    """Which of :data:`OWNER_PART` and :data:`PRIORITY_PART` this kernel lacks; rules can do without them."""
    return frozenset(part.name for part in (_OWNER, _PRIORITY) if not _check_part(backend, part).available)


def _check_part(backend: Backend, part: _Part) -> Check:
    rules = _try_out(Family.V4, part.rule, part.builtin)
    remedy = f"Load {part.module} on the node: modprobe -a {part.module}."
    return _try(part.name, lambda: backend.apply(rules, Installed()), lambda: backend.rehearse(rules), remedy)


def _check_ip6tables(backend: Backend) -> Check:
    reason = ipv6_missing()
    if reason is not None:
        return Check("IPv6", False, f"{reason}; IPv6 is left alone", "Nothing, unless this Pod should have IPv6.")
    if Family.V6 not in backend.families:
        return Check("IPv6", False, "there is no ip6tables; IPv6 is left alone", "Install ip6tables.")
    rules = _try_out(Family.V6, Rule(Tproxy(ipaddress.IPv6Address("::1"), OUTBOUND_PORT, DIVERT), protocol=_TCP))
    remedy = "Load the modules on the node: modprobe -a ip6table_mangle nf_tproxy_ipv6."
    return _try("IPv6", lambda: backend.apply(rules, Installed()), lambda: backend.rehearse(rules), remedy)


def _check_routing(family: Family) -> Check:
    settings = CaptureSettings()
    route = PolicyRoute(DIVERT, settings.route_table, settings.rule_preference)

    def lay() -> None:
        with NetlinkKernel() as kernel:
            kernel.apply("lo", SetLink(up=True))
        routes.install(family, [route])

    remedy = "Use a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES."
    return _try(f"{family} policy routing", lay, lambda: routes.observe(family, route.table), remedy)


def _try(name: str, act: Callable[[], object], look: Callable[[], object], remedy: str) -> Check:
    """Run ``act`` in a scratch namespace; if none can be created, run ``look`` in the current one."""
    try:
        try:
            in_scratch_namespace(act)
        except PermissionError:
            look()
            return Check(name, True, _UNTRIED)
    except PodlaneError as error:
        return Check(name, False, str(error), remedy)
    except OSError as error:
        return Check(name, False, error.strerror or str(error), remedy)
    return Check(name, True, "works")


def _try_out(family: Family, rule: Rule | None, builtin: str = "PREROUTING") -> FamilyRules:
    """A chain with only this rule, called from PREROUTING, as TPROXY requires, or from another ``builtin``."""
    chain = Chain(PRE, () if rule is None else (rule,))
    return FamilyRules(family, (chain,), (Hook(builtin, Rule(Jump(PRE))),))
