"""One rule by python-iptables: refusing what cannot be, and the kernel's form of what can.

The options of matches and targets are those that iptables-restore gets (:mod:`datapath.netfilter.render`).
:mod:`.xt_decode` is the way back. Why a rule is checked before libxtables sees it is said in :mod:`.backend`.
"""

from __future__ import annotations

import itertools
import shlex
from typing import Any, Final

from datapath.errors import RulesetError
from datapath.netfilter.python_iptables.xt_decode import PROTOCOL_NUMBERS
from datapath.netfilter.render import extensions, render_rule
from datapath.netfilter.rules import CHAIN_PREFIX, MULTIPORT_SLOTS, Family, FamilyRules, Rule, Tproxy
from traffic_policy.policy import TransportProtocol

_NAME_LENGTH: Final = 15
"""IFNAMSIZ of linux/if.h without the terminating zero."""
_NOT_OUT: Final = 0x02
"""IPT_INV_VIA_OUT and IP6T_INV_VIA_OUT."""


def check(rules: FamilyRules) -> None:
    """Reject what libxtables would reject, and invalid rules that neither it nor python-iptables detects.

    python-iptables does not enforce mandatory options: a ``mark`` match without a value would match every packet. Here
    none can be missing, since a :class:`Rule` has no match without its value. Raises RulesetError.
    """
    for rule in (
        *(rule for chain in rules.chains for rule in chain.rules),
        *(hook.rule for hook in rules.hooks),
    ):
        problem = _problem(rule, rules.family)
        if problem:
            raise RulesetError(f"This {rules.family} rule cannot be: {render_rule(rule, rules.family)} ({problem}).")


def _problem(rule: Rule, family: Family) -> str | None:
    has_ports = rule.protocol in (TransportProtocol.TCP, TransportProtocol.UDP)
    slots = max(sum(1 if p.first == p.last else 2 for p in ports) for ports in (rule.source_ports, rule.ports))
    several = max(len(rule.source_ports), len(rule.ports)) > 1
    names = [n for n in (rule.in_interface, rule.out_interface, rule.not_out_interface) if n is not None]
    if (rule.ports or rule.source_ports) and not has_ports:
        return "ports need the protocol tcp or udp"
    if slots > MULTIPORT_SLOTS and several:
        return f"more than {MULTIPORT_SLOTS} ports, where a range counts as two"
    if rule.syn and rule.protocol is not TransportProtocol.TCP:
        return "SYN needs the protocol tcp"
    if rule.original_port is not None and rule.direction is not None:
        return "one conntrack match asks for a port or a direction"
    if sum((rule.user is not None, rule.group is not None, rule.ownerless)) > 1:
        return "one owner match asks for a user, a group or no owner"
    if rule.carries_data and rule.protocol is not TransportProtocol.TCP:
        return "telling data needs the protocol tcp"
    if rule.quic_initial and rule.protocol is not TransportProtocol.UDP:
        return "telling QUIC needs the protocol udp"
    if any(network is not None and network.version != family for network in (rule.source, rule.destination)):
        return "a network is of the other family"
    if any(not 1 <= len(name.encode()) <= _NAME_LENGTH for name in names):
        return f"an interface name has 1 to {_NAME_LENGTH} bytes"
    if isinstance(rule.action, Tproxy):
        if not has_ports:
            return "TPROXY needs the protocol tcp or udp"
        if rule.action.address.version != family:
            return "the address is of the other family"
        if not 1 <= rule.action.port <= 65535:
            return "a port is a number from 1 to 65535"
    return None


def entry_of(rule: Rule, family: Family, made: Any) -> Any:
    """A checked rule in the kernel's form, a ctypes array; ``made`` is a new rule of python-iptables for the family.

    Raises what python-iptables raises when the kernel or the library lacks a match or target.
    """
    _write_head(made, rule, family)
    for words in extensions(rule, family):
        flag, name, *options = shlex.split(words)
        if flag == "-m":
            extension = made.create_match(name)
        elif name.startswith(CHAIN_PREFIX):
            extension = made.create_target("", goto=flag == "-g")
            extension.standard_target = name
        else:
            extension = made.create_target(name)
        inverted = options[:1] == ["!"]
        starts = [at for at, word in enumerate(options) if word.startswith("--")]
        for start, end in itertools.pairwise((*starts, len(options))):
            values = ["!"] if inverted else options[start + 1 : end]
            extension.set_parameter(options[start].removeprefix("--"), values)
        extension._final_check()
    return made.rule


def _write_head(made: Any, rule: Rule, family: Family) -> None:
    if rule.source is not None:
        made.src = str(rule.source)
    if rule.destination is not None:
        made.dst = str(rule.destination)
    if rule.protocol is not None:
        made.protocol = PROTOCOL_NUMBERS[family][rule.protocol]
    ip = made.get_ip()
    if rule.in_interface is not None:
        ip.iniface, ip.iniface_mask = _interface(rule.in_interface)
    out = rule.out_interface or rule.not_out_interface
    if out is not None:
        ip.outiface, ip.outiface_mask = _interface(out)
    if rule.not_out_interface is not None:
        ip.invflags |= _NOT_OUT


def _interface(name: str) -> tuple[bytes, bytes]:
    """A name, and the mask that compares all of it with its terminating zero."""
    packed = name.encode()
    return packed, b"\xff" * (len(packed) + 1)
