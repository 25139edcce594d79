"""Renders rules as iptables-restore input, transactions between two states, and differences of states.

The forms are those that iptables-save prints (``--tcp-flags FIN,SYN,RST,ACK SYN`` for ``--syn``, ``-m tcp`` before
``--dport``, ``value/mask`` marks), so that displayed rules look like those in the kernel.

All changes of one family form one ``iptables-restore --noflush`` input, which the kernel applies atomically. In it
``:NAME - [0:0]`` creates a chain, or empties an existing one; built-in chains are not declared, so that foreign rules
and counters are unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from datapath.netfilter import packet_filters
from datapath.netfilter.packet_filters import bytecode
from datapath.netfilter.parse import Installed, parse_rule
from datapath.netfilter.rules import (
    LOOPBACK,
    Action,
    Drop,
    Family,
    FamilyRules,
    Goto,
    Jump,
    Nfqueue,
    PolicyRoute,
    Reject,
    ResetPriority,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from traffic_policy.policy import PortRange, TransportProtocol


@lru_cache(maxsize=4096)
def render_rule(rule: Rule, family: Family) -> str:
    """A rule as arguments of iptables, or of ip6tables for IPv6, without ``-A CHAIN``."""
    return " ".join((*_head(rule, family), *extensions(rule, family)))


def _head(rule: Rule, family: Family) -> Iterator[str]:
    """The criteria that are not extensions."""
    if rule.source is not None:
        yield f"-s {rule.source}"
    if rule.destination is not None:
        yield f"-d {rule.destination}"
    if rule.in_interface is not None:
        yield f"-i {rule.in_interface}"
    if rule.out_interface is not None:
        yield f"-o {rule.out_interface}"
    if rule.not_out_interface is not None:
        yield f"! -o {rule.not_out_interface}"
    if rule.protocol is not None:
        is_icmpv6 = rule.protocol is TransportProtocol.ICMP and family is Family.V6
        yield f"-p {'ipv6-icmp' if is_icmpv6 else rule.protocol}"


def extensions(rule: Rule, family: Family) -> Iterator[str]:
    """The matches of a rule and its target, each with its options."""
    ways = (("s", rule.source_ports), ("d", rule.ports))
    options = [f" --{way}port {port_words(ports[0])}" for way, ports in ways if len(ports) == 1]
    if rule.syn:
        options.append(" --tcp-flags FIN,SYN,RST,ACK SYN")
    if options:
        yield f"-m {rule.protocol}{''.join(options)}"
    for way, ports in ways:
        if len(ports) > 1:
            yield f"-m multiport --{way}ports {','.join(map(port_words, ports))}"
    if rule.mark is not None:
        yield f"-m mark --mark {rule.mark}"
    if rule.connmark is not None:
        yield f"-m connmark --mark {rule.connmark}"
    original = "" if rule.original_port is None else f" --ctorigdstport {port_words(rule.original_port)}"
    direction = "" if rule.direction is None else f" --ctdir {rule.direction}"
    if original or direction:
        yield f"-m conntrack{original}{direction}"
    user = "" if rule.user is None else f" --uid-owner {rule.user}"
    group = "" if rule.group is None else f" --gid-owner {rule.group}"
    if user or group:
        yield f"-m owner{user}{group}"
    if rule.ownerless:
        yield "-m owner ! --socket-exists"
    if rule.to_here:
        yield "-m addrtype --dst-type LOCAL"
    if rule.has_socket:
        yield "-m socket --nowildcard"
    if rule.carries_data:
        yield f'-m bpf --bytecode "{bytecode(packet_filters.CARRIES_DATA[family])}"'
    if rule.quic_initial:
        yield f'-m bpf --bytecode "{bytecode(packet_filters.QUIC_INITIAL[family])}"'
    yield _render_action(rule.action)


def _render_action(action: Action) -> str:
    match action:
        case Return():
            return "-j RETURN"
        case Drop():
            return "-j DROP"
        case Reject():
            return "-j REJECT --reject-with tcp-reset"
        case Jump(chain):
            return f"-j {chain}"
        case Goto(chain):
            return f"-g {chain}"
        case SetMark(mark):
            return f"-j MARK --set-xmark {mark}"
        case ResetPriority():
            return "-j CLASSIFY --set-class 0:0"
        case SetConnmark(mark):
            return f"-j CONNMARK --set-xmark {mark}"
        case SaveMark(mask):
            return f"-j CONNMARK --save-mark --nfmask {mask:#x} --ctmask {mask:#x}"
        case RestoreMark(mask):
            return f"-j CONNMARK --restore-mark --nfmask {mask:#x} --ctmask {mask:#x}"
        case Nfqueue(number, bypass):
            return f"-j NFQUEUE --queue-num {number}" + (" --queue-bypass" if bypass else "")
        case Tproxy(address, port, mark):
            return f"-j TPROXY --on-port {port} --on-ip {address} --tproxy-mark {mark}"


def render_route(route: PolicyRoute, family: Family) -> str:
    """The selector of a policy route as arguments of ``ip rule add``."""
    which = f"from {LOOPBACK[family]} iif lo" if route.mark is None else f"fwmark {route.mark}"
    return f"pref {route.preference} {which} lookup {route.table}"


def port_words(ports: PortRange) -> str:
    """A port or a range as iptables writes it."""
    return str(ports.first) if ports.first == ports.last else f"{ports.first}:{ports.last}"


@lru_cache(maxsize=8)  # four policies: all Pods of a workload have the same, and large ones take megabytes
def render(rules: FamilyRules) -> str:
    """All rules of one family as ``iptables-restore --noflush`` input for a table that has none of ours."""
    return transaction(rules, Installed())


def transaction(rules: FamilyRules, installed: Installed) -> str:
    """The transaction that turns ``installed`` into ``rules``; with empty ``rules``, the one that removes ours."""
    wanted = {chain.name for chain in rules.chains}
    stale = [name for name in installed.chains if name not in wanted]
    lines = ["*mangle"]
    lines += [f":{chain.name} - [0:0]" for chain in rules.chains]
    # Hooks first, then the chains' rules: iptables does not delete a chain that is still referenced.
    lines += [f"-D {hook.chain} {hook.words}" for hook in installed.hooks]
    lines += [f"-F {name}" for name in stale]
    lines += [f"-X {name}" for name in stale]
    lines += [f"-I {hook.builtin} 1 {render_rule(hook.rule, rules.family)}" for hook in rules.hooks]
    lines += [f"-A {chain.name} {render_rule(rule, rules.family)}" for chain in rules.chains for rule in chain.rules]
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def difference(rules: FamilyRules, installed: Installed) -> list[str]:
    """Lines that differ between ``installed`` and ``rules``: ``-`` missing, ``+`` unwanted. Empty if equal."""
    if not _differs(rules, installed):
        return []
    wanted = sorted(f"{hook.builtin} 1: {render_rule(hook.rule, rules.family)}" for hook in rules.hooks)
    found = sorted(f"{hook.chain} {hook.position}: {hook.words}" for hook in installed.hooks)
    wanted += _listed({chain.name: chain.rules for chain in rules.chains}, rules.family)
    found += _listed(installed.chains, rules.family)
    diff = difflib.unified_diff(wanted, found, n=0, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def missing(rules: FamilyRules, installed: Installed) -> list[str]:
    """Chains of ``rules`` that are gone or differ, and jumps to them that are gone. Empty if all is there.

    A jump may have moved in its chain: others may add rules of their own.
    """
    jumps = {(hook.chain, parse_rule(hook.words, rules.family)) for hook in installed.hooks}
    found = [f"{rules.family} chain {c.name}" for c in rules.chains if installed.chains.get(c.name) != c.rules]
    for hook in rules.hooks:
        if (hook.builtin, hook.rule) not in jumps:
            found.append(f"{rules.family} rule -A {hook.builtin} {render_rule(hook.rule, rules.family)}")
    return found


def _listed(chains: Mapping[str, Sequence[Rule | str]], family: Family) -> list[str]:
    lines: list[str] = []
    for name in sorted(chains):
        lines.append(f":{name}")
        lines += [f"-A {name} {rule if isinstance(rule, str) else render_rule(rule, family)}" for rule in chains[name]]
    return lines


def _differs(rules: FamilyRules, installed: Installed) -> bool:
    wanted_hooks = {(hook.builtin, 1, hook.rule) for hook in rules.hooks}
    found_hooks = {(hook.chain, hook.position, parse_rule(hook.words, rules.family)) for hook in installed.hooks}
    wanted_chains = {chain.name: chain.rules for chain in rules.chains}
    return (
        wanted_hooks != found_hooks
        or len(installed.hooks) != len(rules.hooks)
        or wanted_chains != dict(installed.chains)
    )
