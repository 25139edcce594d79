"""Parses iptables-save text into the data of :mod:`datapath.netfilter.rules`.

Accepts every form in which any version of iptables prints a rule of ours, with options in any order, so that states can
be compared as data. Any other line in a chain of ours is kept as text: it can be shown, but never equals a wanted rule.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from datapath.netfilter import packet_filters
from datapath.netfilter.packet_filters import bytecode
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Action,
    ConntrackDirection,
    Drop,
    Family,
    Goto,
    Jump,
    Nfqueue,
    ResetPriority,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from traffic_policy.marks import Mark
from traffic_policy.policy import PortRange, TransportProtocol

_SYN_FLAGS: Final = ({"FIN", "SYN", "RST", "ACK"}, {"SYN"})
"""``--syn``: the flags examined and those that must be set (iptables-extensions(8), tcp)."""
_PROTOCOLS: Final[Mapping[Family, Mapping[str, TransportProtocol]]] = {
    Family.V4: {"tcp": TransportProtocol.TCP, "udp": TransportProtocol.UDP, "icmp": TransportProtocol.ICMP},
    Family.V6: {
        "tcp": TransportProtocol.TCP,
        "udp": TransportProtocol.UDP,
        "ipv6-icmp": TransportProtocol.ICMP,
        "icmpv6": TransportProtocol.ICMP,
    },
}
"""ICMPv6 is printed by its name in /etc/protocols, or by the second name without that file. ICMP of IPv4 in an IPv6
rule is not ours."""
_PROGRAMS: Final[Mapping[Family, Mapping[str, str]]] = {
    family: {
        bytecode(packet_filters.CARRIES_DATA[family]): "carries_data",
        bytecode(packet_filters.QUIC_INITIAL[family]): "quic_initial",
    }
    for family in Family
}
"""The BPF criteria by their ``--bytecode`` text."""
_MODULES: Final = ("tcp", "udp", "multiport", "mark", "connmark", "conntrack", "addrtype", "socket", "bpf", "owner")
_WITHOUT_VALUE: Final = ("--save-mark", "--restore-mark", "--queue-bypass")
"""Target options without a value."""


@dataclass(frozen=True, slots=True)
class InstalledHook:
    """A rule outside our chains that jumps to one: in ``chain``, at ``position``, counted from 1."""

    chain: str
    position: int
    words: str
    target: str


@dataclass(frozen=True, slots=True)
class Installed:
    """Our part of one family's mangle table."""

    chains: Mapping[str, tuple[Rule | str, ...]] = field(default_factory=dict)
    hooks: tuple[InstalledHook, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.hooks)


_QUOTED_WORDS: Final = re.compile(r"""[^"'\\]*(?:(?<![^ ])"[^"\\]*"(?![^ ])[^"'\\]*)*""")
"""Quotes stand around whole words alone, and nothing is escaped."""
_RULES_KEPT: Final = 2048
"""Rules that are read again and again, by a node agent in each of its Pods."""


class _UnknownWordsError(ValueError):
    """A rule has options for which :class:`Rule` has no field."""


def parse(text: str, family: Family) -> Installed:
    """Our part of the mangle table in the iptables-save output of one family."""
    chains: dict[str, list[Rule | str]] = {}
    hooks: list[InstalledHook] = []
    counts: dict[str, int] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table != "mangle":
            continue
        elif line.startswith(f":{CHAIN_PREFIX}"):
            chains.setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            _, chain, words = line.split(maxsplit=2)
            counts[chain] = counts.get(chain, 0) + 1
            if chain.startswith(CHAIN_PREFIX):
                chains.setdefault(chain, []).append(parse_rule(words, family))
            elif (target := _target(words)) is not None:
                hooks.append(InstalledHook(chain, counts[chain], words, target))
    return Installed({name: tuple(rules) for name, rules in chains.items()}, tuple(hooks))


def _target(words: str) -> str | None:
    """The chain of ours that a foreign rule jumps to, if any."""
    try:
        tokens = _split(words)
    except ValueError:
        # A comment with an unpaired quote; a target never needs quotes.
        tokens = words.split()
    for flag, target in itertools.pairwise(tokens):
        if flag in ("-j", "-g", "--jump", "--goto") and target.startswith(CHAIN_PREFIX):
            return target
    return None


def _split(words: str) -> list[str]:
    """Like :func:`shlex.split`, and fifty times as fast for the common case: quotes stand around whole words."""
    if not _QUOTED_WORDS.fullmatch(words):
        return shlex.split(words)
    return [word for i, part in enumerate(words.split('"')) for word in ([part] if i % 2 else part.split())]


@lru_cache(_RULES_KEPT)
def parse_rule(words: str, family: Family) -> Rule | str:
    """A rule as data, or its unchanged text if it is not one of ours."""
    try:
        return _Reader(words, family).rule()
    except (_UnknownWordsError, ValueError, KeyError, StopIteration):
        return words


class _Reader:
    """Reads the words of one rule from left to right."""

    def __init__(self, words: str, family: Family) -> None:
        self._family = family
        self._tokens = iter(_split(words))
        self._module = ""
        self._socket = False

    def rule(self) -> Rule:
        found: dict[str, object] = {}
        for token in self._tokens:
            if token == "-m":
                self._module = next(self._tokens)
                if self._module not in _MODULES:
                    raise _UnknownWordsError(self._module)
                self._socket = self._socket or self._module == "socket"
                continue
            key, value = self._criterion(token)
            if key in found:
                raise _UnknownWordsError(f"{key} twice")
            found[key] = value
        if "action" not in found:
            raise _UnknownWordsError("no action")
        if self._socket and "has_socket" not in found:
            raise _UnknownWordsError("connected sockets alone")
        return Rule(**found)  # type: ignore[arg-type]  # every key comes from _criterion, with its field's type

    def _criterion(self, token: str) -> tuple[str, object]:
        take = self._tokens.__next__
        match token, self._module:
            case "-s", _:
                return "source", ipaddress.ip_network(take())
            case "-d", _:
                return "destination", ipaddress.ip_network(take())
            case "-i", _:
                return "in_interface", take()
            case "-o", _:
                return "out_interface", take()
            case "!", module:
                match take(), module:
                    case "-o", _:
                        return "not_out_interface", take()
                    case "--socket-exists", "owner":
                        return "ownerless", True
                raise _UnknownWordsError(token)
            case "-p", _:
                return "protocol", _PROTOCOLS[self._family][take()]
            case "--syn", "tcp":
                return "syn", True
            case "--tcp-flags", "tcp":
                if (set(take().split(",")), set(take().split(","))) != _SYN_FLAGS:
                    raise _UnknownWordsError(token)
                return "syn", True
            case ("--dport", "tcp" | "udp") | ("--dports", "multiport"):
                return "ports", _ports(take())
            case ("--sport", "tcp" | "udp") | ("--sports", "multiport"):
                return "source_ports", _ports(take())
            case "--mark", "mark":
                return "mark", _mark(take())
            case "--mark", "connmark":
                return "connmark", _mark(take())
            case "--ctdir", "conntrack":
                return "direction", ConntrackDirection(take())
            case "--ctorigdstport", "conntrack":
                return "original_port", PortRange.parse(take().replace(":", "-"))
            case (("--uid-owner" | "--gid-owner"), "owner"):
                return "user" if token == "--uid-owner" else "group", int(take())
            case "--dst-type", "addrtype":
                if take() != "LOCAL":
                    raise _UnknownWordsError(token)
                return "to_here", True
            case "--nowildcard", "socket":
                return "has_socket", True
            case "--bytecode", "bpf":
                return _PROGRAMS[self._family][take()], True
            case "-g", _:
                return "action", Goto(take())
            case "-j", _:
                return "action", self._action(take())
        raise _UnknownWordsError(token)

    def _action(self, target: str) -> Action:
        options = {token: "" if token in _WITHOUT_VALUE else next(self._tokens) for token in self._tokens}
        match target, sorted(options):
            case "RETURN", []:
                return Return()
            case "DROP", []:
                return Drop()
            case "MARK", ["--set-xmark"]:
                return SetMark(_mark(options["--set-xmark"]))
            case "CLASSIFY", ["--set-class"] if not any(int(part, 16) for part in options["--set-class"].split(":")):
                return ResetPriority()
            case "CONNMARK", ["--set-xmark"]:
                return SetConnmark(_mark(options["--set-xmark"]))
            case "CONNMARK", ["--ctmask", "--nfmask", ("--restore-mark" | "--save-mark") as way] if (
                options["--ctmask"] == options["--nfmask"]
            ):
                mask = int(options["--ctmask"], 16)
                return SaveMark(mask) if way == "--save-mark" else RestoreMark(mask)
            case "NFQUEUE", ["--queue-bypass", "--queue-num"] | ["--queue-num"]:
                return Nfqueue(int(options["--queue-num"]), bypass="--queue-bypass" in options)
            case "TPROXY", ["--on-ip", "--on-port", "--tproxy-mark"]:
                address = ipaddress.ip_address(options["--on-ip"])
                return Tproxy(address, int(options["--on-port"]), _mark(options["--tproxy-mark"]))
            case _, [] if target.startswith(CHAIN_PREFIX):
                return Jump(target)
        raise _UnknownWordsError(target)


def _ports(text: str) -> tuple[PortRange, ...]:
    return tuple(PortRange.parse(port.replace(":", "-")) for port in text.split(","))


def _mark(text: str) -> Mark:
    value, _, mask = text.partition("/")
    return Mark(int(value, 16), int(mask, 16) if mask else 0xFFFFFFFF)
