"""One rule by python-iptables: refusing what cannot be, and the kernel's form of what can.

:mod:`datapath.netfilter.xt_decode` is the way back. Why a rule is checked before libxtables sees it is said in
:mod:`datapath.netfilter.python_iptables`.
"""

from __future__ import annotations

from typing import Any, Final

from datapath.errors import RulesetError
from datapath.netfilter import data_filter, quic_filter
from datapath.netfilter.data_filter import bytecode
from datapath.netfilter.render import port_words, render_rule
from datapath.netfilter.rules import (
    MULTIPORT_SLOTS,
    Drop,
    Family,
    FamilyRules,
    Goto,
    Jump,
    Queue,
    Reject,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from datapath.netfilter.xt_decode import PROTOCOL_NUMBERS
from traffic_policy.policy import TransportProtocol

_NAME_LENGTH: Final = 15
"""IFNAMSIZ of linux/if.h without the terminating zero."""
_NOT_OUT: Final = 0x02
"""IPT_INV_VIA_OUT and IP6T_INV_VIA_OUT."""


def check(rules: FamilyRules) -> None:
    """Refuse what libxtables would refuse, and what nobody would.

    python-iptables does not insist on options that are mandatory: a ``mark`` match without a value would match every
    packet. Here none can be missing, since a :class:`Rule` has no match without its value. Raises RulesetError.
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
    if rule.user is not None and rule.group is not None:
        return "one owner match asks for a user or a group"
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
    ways = (("s", rule.source_ports), ("d", rule.ports))
    singles = [(f"{way}port", port_words(ports[0])) for way, ports in ways if len(ports) == 1]
    if singles or rule.syn:
        match = made.create_match(str(rule.protocol))
        for option, value in singles:
            match.set_parameter(option, value)
        if rule.syn:
            match.set_parameter("syn")
        match._final_check()
    for way, ports in ways:
        if len(ports) > 1:
            _match(made, "multiport", f"{way}ports", ",".join(port_words(each) for each in ports))
    if rule.mark is not None:
        _match(made, "mark", "mark", str(rule.mark))
    if rule.connmark is not None:
        _match(made, "connmark", "mark", str(rule.connmark))
    if rule.original_port is not None:
        _match(made, "conntrack", "ctorigdstport", port_words(rule.original_port))
    if rule.direction is not None:
        _match(made, "conntrack", "ctdir", str(rule.direction))
    if rule.user is not None:
        _match(made, "owner", "uid-owner", str(rule.user))
    if rule.group is not None:
        _match(made, "owner", "gid-owner", str(rule.group))
    if rule.to_here:
        _match(made, "addrtype", "dst-type", "LOCAL")
    if rule.has_socket:
        _match(made, "socket", "nowildcard")
    if rule.carries_data:
        _match(made, "bpf", "bytecode", bytecode(data_filter.PROGRAMS[family]))
    if rule.quic_initial:
        _match(made, "bpf", "bytecode", bytecode(quic_filter.PROGRAMS[family]))
    _write_action(made, rule)
    return made.rule


def _match(made: Any, name: str, option: str, *value: str) -> None:
    match = made.create_match(name)
    match.set_parameter(option, *value)
    match._final_check()


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


def _write_action(made: Any, rule: Rule) -> None:
    match rule.action:
        case Return():
            target = made.create_target("RETURN")
        case Drop():
            target = made.create_target("DROP")
        case Reject():
            target = made.create_target("REJECT")
            target.set_parameter("reject-with", "tcp-reset")
        case Jump(chain):
            target = made.create_target("")
            target.standard_target = chain
        case Goto(chain):
            target = made.create_target("", goto=True)
            target.standard_target = chain
        case SetMark(mark):
            target = made.create_target("MARK")
            target.set_parameter("set-xmark", str(mark))
        case SetConnmark(mark):
            target = made.create_target("CONNMARK")
            target.set_parameter("set-xmark", str(mark))
        case SaveMark(mask) | RestoreMark(mask):
            target = made.create_target("CONNMARK")
            target.set_parameter("save-mark" if isinstance(rule.action, SaveMark) else "restore-mark")
            target.set_parameter("nfmask", hex(mask))
            target.set_parameter("ctmask", hex(mask))
        case Queue(number):
            target = made.create_target("NFQUEUE")
            target.set_parameter("queue-num", str(number))
            target.set_parameter("queue-bypass")
        case Tproxy(address, port, mark):
            target = made.create_target("TPROXY")
            target.set_parameter("on-port", str(port))
            target.set_parameter("on-ip", str(address))
            target.set_parameter("tproxy-mark", str(mark))
    target._final_check()
