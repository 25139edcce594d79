"""What a policy means, in plain words: classes, shares, who is lent first, which traffic, and what to know besides.

Pure: a policy goes in, words come out. The words are those of ``docs/policy.md``; how they are laid out on a terminal
is :mod:`podlane.explain`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.routing.table import SILENT_PORTS, RoutingTable
from tc_core.policy import DEFAULT_CLASS, Match, ResolvedClass, TrafficPolicy, TransportProtocol
from tc_core.units import Rate

BY_KERNEL: Final = "kernel alone"
BY_PROXY: Final = "first bytes"
BY_BOTH: Final = "both"
BY_REST: Final = "the rest"

_DNS_PORT: Final = 53


@dataclass(frozen=True, slots=True)
class MatchWords:
    """One match of a class: the traffic it takes, in words, and who decides (:data:`BY_KERNEL`, :data:`BY_PROXY`)."""

    traffic: str
    decided_by: str


@dataclass(frozen=True, slots=True)
class ClassWords:
    """One class: its limits, its place among those that are lent unused bandwidth (1 = asked first), its traffic."""

    name: str
    rate: Rate
    ceil: Rate
    priority: int
    share: float
    turn: int
    decided_by: str
    matches: tuple[MatchWords, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole policy in words."""

    total: Rate
    classes: tuple[ClassWords, ...]
    unreserved: Rate
    lending: str
    captured: str
    notes: tuple[str, ...]


def explain_policy(policy: TrafficPolicy, silent_ports: tuple[int, ...] = SILENT_PORTS) -> Explanation:
    """Put a checked policy into words. ``silent_ports``: content matches apply there only when they name the port."""
    classes = policy.resolved()
    turns = sorted({c.priority for c in classes})
    guaranteed = sum(c.rate.bits_per_second for c in classes)
    return Explanation(
        policy.total,
        tuple(_class_words(c, policy.total, turns.index(c.priority) + 1, len(turns)) for c in classes),
        Rate(max(0, policy.total.bits_per_second - guaranteed)),
        _lending(classes),
        _captured(policy, silent_ports),
        tuple(_notes(policy, silent_ports)),
    )


def traffic_words(match: Match) -> str:
    """The traffic that a match takes: ``TLS connections to api.example.com on port 443``."""
    subjects = []
    if match.sni:
        subjects.append(f"TLS connections to {_names(match.sni)}")
    if match.host:
        subjects.append(f"HTTP requests to {_names(match.host)} (Host or :authority)")
    if match.alpn:
        offer = f"offering {_either(match.alpn)} by ALPN"
        subjects = [f"{s} {offer}" for s in subjects] or [f"TLS connections {offer}"]
    text = " that are also ".join(subjects) or _transport_words(match)
    if match.port:
        text += f" on port {_either(str(p) for p in match.port)}"
    if match.cidr:
        text += f" {'in' if subjects else 'to'} {_either(str(n) for n in match.cidr)}"
    return text


def percent(share: float) -> str:
    """A share of the total: ``20 %``, ``0.5 %``, ``< 0.01 %``."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return f"{share * 100:.3g} %"


def _transport_words(match: Match) -> str:
    if match.protocol:
        return _listed([p.value.upper() for p in TransportProtocol if p in match.protocol], "and")
    if match.port:
        return "TCP and UDP"
    return "everything (TCP, UDP, ICMP ...)"


def _class_words(c: ResolvedClass, total: Rate, turn: int, turns: int) -> ClassWords:
    matches = tuple(MatchWords(traffic_words(m), BY_PROXY if m.needs_content else BY_KERNEL) for m in c.match)
    deciders = {m.decided_by for m in matches}
    decided_by = BY_REST if c.name == DEFAULT_CLASS else BY_BOTH if len(deciders) > 1 else next(iter(deciders))
    share = c.rate.bits_per_second / total.bits_per_second
    if c.ceil <= c.rate:
        lent = "and never more, since its ceil is its rate"
    else:
        place = _place(turn, turns)
        lent = f"and may borrow up to {c.ceil.human} while others leave bandwidth unused (priority {c.priority}{place})"
    sentence = f"is guaranteed {c.rate.human} ({percent(share)} of the total), {lent}."
    return ClassWords(c.name, c.rate, c.ceil, c.priority, share, turn, decided_by, matches, sentence)


def _place(turn: int, turns: int) -> str:
    if turns == 1:
        return ""
    return ": lent to first" if turn == 1 else ": lent to last" if turn == turns else ""


def _lending(classes: Sequence[ResolvedClass]) -> str:
    borrowers = [c for c in classes if c.ceil > c.rate]
    if not borrowers:
        return "No class may borrow: each has exactly what is guaranteed to it."
    groups = [
        (priority, [c.name for c in group])
        for priority, group in itertools.groupby(sorted(borrowers, key=lambda c: c.priority), key=lambda c: c.priority)
    ]
    steps = ", then to ".join(f"{_listed(names, 'and')} (priority {priority})" for priority, names in groups)
    equals = any(len(names) > 1 for _, names in groups)
    among = " Classes of one priority share it in proportion to their guarantees." if equals else ""
    return f"What a class does not use is lent to {steps}, to each up to its ceil.{among}"


def _captured(policy: TrafficPolicy, silent_ports: tuple[int, ...]) -> str:
    content = [m for _, m in policy.rules() if m.needs_content]
    if not content:
        return (
            "Nothing is captured: port, network and protocol decide everything, in the kernel. "
            "No listener is opened and no connection goes through user space."
        )
    if all(m.port for m in content):
        ports = sorted({p for m in content for p in m.port})
        where = f"TCP connections to port {_either(str(p) for p in ports)}"
    else:
        named = {p for p in silent_ports if any(p in ports for m in content for ports in m.port)}
        spared = [str(p) for p in silent_ports if p not in named]
        where = f"TCP connections to any port except {_listed(spared, 'and')}" if spared else "TCP connections"
    networks = sorted({str(n) for m in content for n in m.cidr}) if all(m.cidr for m in content) else []
    inside = f" in {_either(networks)}" if networks else ""
    return (
        f"Captured by the proxy: {where}{inside}, unless a match of port, network and protocol before it takes them. "
        "The proxy peeks at the first bytes, chooses the class, connects to the original destination and relays. "
        "Nothing is altered."
    )


def _notes(policy: TrafficPolicy, silent_ports: tuple[int, ...]) -> Iterable[str]:
    limits = [(c.name, c.ceil) for c in policy.classes] + [(DEFAULT_CLASS, policy.default.ceil)]
    for name, ceil in limits:
        if ceil is not None and ceil > policy.total:
            yield f"{name}: its ceil of {ceil.human} is above the total and is cut to {policy.total.human}."
    if policy.default.rate is None:
        yield f"default: no rate is written for it, so it gets {policy.default_rate.human} (1 % of the total, or less)."
    for index, match in ((i, m) for i, c in enumerate(policy.classes) for m in c.match):
        if match.host and (match.sni or match.alpn):
            yield (
                f"{policy.classes[index].name}: a match asks for TLS (sni, alpn) and an HTTP host at once. "
                "TLS hides the host, so it takes nothing. Write two matches if you mean either."
            )
    table = RoutingTable.of(policy, silent_ports)
    if table.needs_capture:
        yield from _content_notes(policy, silent_ports)
    yield "Loopback traffic is not touched. Answers to connections from outside go to the default class."
    yield "What the interface sends is shaped. What it receives is not."


def _content_notes(policy: TrafficPolicy, silent_ports: tuple[int, ...]) -> Iterable[str]:
    content = [m for _, m in policy.rules() if m.needs_content]
    if any(not m.port for m in content):
        others = [str(p) for p in silent_ports if p != _DNS_PORT]
        if others:
            yield (
                f"On ports {_listed(others, 'and')} the server speaks first. "
                "Names do not decide there unless the match names the port."
            )
        if _DNS_PORT in silent_ports:
            yield "DNS (port 53) is left alone: it goes to the class of its port and address, past the proxy."
    yield "UDP shows no names to the proxy. It goes to the class of its port and address, and so does HTTP/3 (QUIC)."
    yield (
        "A connection that shows nothing within the detection timeout goes to the class of its port and address. "
        "The class is chosen once for a connection and stays."
    )


def _names(patterns: Sequence[str]) -> str:
    return _either(f"any name below {p[2:]}" if p.startswith("*.") else p for p in patterns)


def _either(items: Iterable[str]) -> str:
    return _listed(list(items), "or")


def _listed(items: Sequence[str], word: str) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"
