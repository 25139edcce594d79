"""Describes a policy in plain words for its users: its classes, how they are selected, and notes.

Pure: a policy goes in, words come out. What is said of bandwidth and packets is :mod:`traffic_policy.describe`; here is
added who can use the policy, and what the proxy does for it. How all that is laid out on a terminal is ``podlane
explain``'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from datapath.explain.datapath_advice import recommend
from datapath.mesh.check import mesh_notes
from datapath.netfilter.ruleset import CaptureSettings
from datapath.routing.table import RoutingTable
from traffic_policy import describe
from traffic_policy.describe import either, every
from traffic_policy.errors import Problem
from traffic_policy.policy import (
    DEFAULT_CLASS,
    Bound,
    Match,
    Quic,
    Requests,
    ResolvedClass,
    Shaper,
    TrafficPolicy,
    TransportProtocol,
)
from traffic_policy.scope import beyond_ebpf, beyond_marks, beyond_packets, needs_names
from traffic_policy.settings import Datapath
from traffic_policy.units import Rate

BY_KERNEL: Final = "kernel alone"
BY_PROXY: Final = "first bytes"
BY_BOTH: Final = "both"
BY_REST: Final = "the rest"

_DNS_PORT: Final = 53
_PLACES_NAMED: Final = 3
"""Places in a policy that one reason names; there may be thousands."""


@dataclass(frozen=True, slots=True)
class MatchWords:
    """One match of a class: the traffic it takes, in words, and who decides (:data:`BY_KERNEL`, :data:`BY_PROXY`)."""

    traffic: str
    decided_by: str


@dataclass(frozen=True, slots=True)
class ClassWords:
    """One class: its limits, its place among those that are asked in order of priority (1 = first), its traffic.

    ``rate`` and ``share`` are None where the shaper gives no guarantees. ``details`` are sentences about its queue, its
    rehearsal and what it may receive.
    """

    name: str
    rate: Rate | None
    ceil: Rate
    priority: int
    share: float | None
    turn: int
    decided_by: str
    matches: tuple[MatchWords, ...]
    sentence: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole policy in words.

    ``for_sidecar`` and ``for_packets``: whether the sidecar can use it, and ``podlane tc``, which sees packets alone.
    ``use`` says so, with the reasons, unless both can. ``unreserved`` is None where nothing is guaranteed. ``datapath``
    recommends one where names decide.
    """

    headline: str
    total: Rate
    classes: tuple[ClassWords, ...]
    unreserved: Rate | None
    rest: str
    sharing: str
    captured: str
    datapath: str
    notes: tuple[str, ...]
    for_sidecar: bool
    for_packets: bool
    use: tuple[str, ...]


_ONLY_AGENTS: Final = (
    "Only the agents of nodes can use this policy: a budget is shared by Pods, and podlane run, podlane tc and a "
    "sidecar know one interface alone."
)
_FOLLOWED: Final = (
    "Each request of an HTTP/1 connection chooses its own class; an HTTP/2 connection is in the strictest class "
    "of its requests. Where it is in doubt where a request begins, the connection"
)
_REQUESTS: Final = {
    Requests.FIRST: "The class is chosen once for a connection and stays.",
    Requests.FOLLOW: f"{_FOLLOWED} goes on in the strictest class that its requests could have.",
    Requests.FOLLOW_STRICTLY: f"{_FOLLOWED} is reset.",
}


def explain_policy(policy: TrafficPolicy, settings: CaptureSettings | None = None) -> Explanation:
    """Put a checked policy into words, as it works with these settings (the defaults)."""
    settings = settings or CaptureSettings()
    recommended = recommend(policy)
    classes = policy.resolved()
    turns = sorted({c.priority for c in classes})
    guaranteed = sum(c.rate.bits_per_second for c in classes)
    free = Rate(max(0, policy.total.bits_per_second - guaranteed))
    received = policy.received()
    not_sidecar, not_packets = beyond_marks(policy), beyond_packets(policy)
    return Explanation(
        describe.headline(policy, settings.interface),
        policy.total,
        tuple(_class_words(c, policy, received, turns.index(c.priority) + 1) for c in classes),
        free if policy.shaper is Shaper.HTB else None,
        describe.rest_words(policy),
        describe.sharing(policy),
        _captured(policy, settings) if not not_sidecar else "",
        recommended[1] if recommended is not None and not not_sidecar else "",
        tuple(_notes(policy, settings, for_sidecar=not not_sidecar)),
        for_sidecar=not not_sidecar,
        for_packets=not not_packets,
        use=(_ONLY_AGENTS,) if policy.budget is not None and not not_sidecar else tuple(_use(not_sidecar, not_packets)),
    )


def _use(not_sidecar: list[Problem], not_packets: list[Problem]) -> Iterable[str]:
    """Who can use the policy, and why the others cannot; nothing when all can."""
    if not_sidecar and not_packets:
        yield "Nobody can use this policy as it is: not podlane run and the sidecar, and not podlane tc."
    elif not_sidecar:
        yield "Only podlane tc can use this policy, not podlane run and the sidecar."
    elif not_packets:
        yield "Only podlane run and the sidecar can use this policy, not podlane tc."
    places: dict[str, list[str]] = {}
    for problem in (*not_sidecar, *not_packets):
        places.setdefault(problem.message, []).append(problem.path)
    for message, paths in places.items():
        more = [f"{len(paths) - _PLACES_NAMED} more"] if len(paths) > _PLACES_NAMED else []
        yield f"{every([*paths[:_PLACES_NAMED], *more])}: {message}"


def _class_words(c: ResolvedClass, policy: TrafficPolicy, received: TrafficPolicy | None, turn: int) -> ClassWords:
    matches = tuple(MatchWords(describe.traffic_words(m), BY_PROXY if m.needs_content else BY_KERNEL) for m in c.match)
    deciders = {m.decided_by for m in matches}
    decided_by = BY_REST if c.name == DEFAULT_CLASS else BY_BOTH if len(deciders) > 1 else next(iter(deciders))
    guarantees = policy.shaper is Shaper.HTB
    return ClassWords(
        c.name,
        c.rate if guarantees else None,
        c.ceil,
        c.priority,
        c.rate.bits_per_second / policy.total.bits_per_second if guarantees else None,
        turn,
        decided_by,
        matches,
        describe.limits(c, policy),
        (*describe.waiting(c), *describe.receiving(c.name, received)),
    )


def _captured(policy: TrafficPolicy, settings: CaptureSettings) -> str:
    content = [m for _, m in policy.rules() if m.needs_content and m.accepts_protocol(TransportProtocol.TCP)]
    if not content and any(m.needs_content for _, m in policy.rules()):
        return "No TCP connection is captured, and no listener is opened: names decide in QUIC alone."
    if not content:
        return (
            "Nothing is captured: port, network and protocol decide everything, in the kernel. "
            "No listener is opened and no connection goes through user space."
        )
    outbound, inbound = ([m for m in content if m.direction.covers(bound)] for bound in (Bound.OUTBOUND, Bound.INBOUND))
    places = [_place(outbound, settings)] if outbound else []
    if inbound:
        places.append(f"{_place(inbound, settings)} that clients open")
    where = "; and ".join(places)
    if settings.datapath is Datapath.EBPF:
        return (
            f"Read in the kernel: the first packet with data of {where}, unless a match of port, network and protocol "
            "before it takes them. What cannot be read there is copied to user space, and goes by port until that has "
            "answered; no connection goes through user space."
        )
    if settings.datapath is Datapath.STEP_ASIDE:
        return (
            f"Shown to the classifier: the first packets with data of {where}, unless a match of port, network "
            "and protocol before it takes them. They are not held back, and once they have told the class the kernel "
            "keeps it; no connection goes through user space."
        )
    return (
        f"Captured by the proxy: {where}, unless a match of port, network and protocol before it takes them. "
        "The proxy reads the first bytes, chooses the class, connects to the original destination and relays. "
        "Nothing is altered."
        + (" Programs here see their clients' addresses, and are spoken to on loopback." if inbound else "")
    )


def _place(content: list[Match], settings: CaptureSettings) -> str:
    """The TCP connections that these matches by content may speak of."""
    silent_ports = settings.silent_ports
    if all(m.port for m in content) and not settings.service_names:
        ports = sorted({p for m in content for p in m.port})
        where = f"TCP connections to port {either(str(p) for p in ports)}"
    else:
        named = {p for p in silent_ports if any(p in ports for m in content for ports in m.port)}
        spared = [str(p) for p in silent_ports if p not in named]
        where = f"TCP connections to any port except {every(spared)}" if spared else "TCP connections"
    networks = sorted({str(n) for m in content for n in m.cidr}) if all(m.cidr for m in content) else []
    inside = f" in {either(networks)}" if networks else ""
    sources = sorted({str(n) for m in content for n in m.source}) if all(m.source for m in content) else []
    inside += f" from {either(sources)}" if sources else ""
    return f"{where}{inside}"


def _notes(policy: TrafficPolicy, settings: CaptureSettings, *, for_sidecar: bool) -> Iterable[str]:
    yield from describe.bandwidth_notes(policy)
    for index, match in ((i, m) for i, c in enumerate(policy.classes) for m in c.match):
        if match.host and (match.sni or match.alpn):
            yield (
                f"{policy.classes[index].name}: a match asks for TLS (sni, alpn) and an HTTP host at once. "
                "TLS hides the host, so it takes nothing. Write two matches if you mean either."
            )
    if not for_sidecar:
        return
    if settings.datapath is Datapath.EBPF:
        yield from (f"Refused as it is: {problem}" for problem in beyond_ebpf(policy))
    yield from _exclusion_notes(settings)
    if settings.mesh is not None:
        yield from mesh_notes(policy, settings.mesh, settings.datapath)
    table = RoutingTable.from_policy(policy, settings.silent_ports, settings.mesh)
    if table.needs_capture:
        yield from _content_notes(policy, settings.silent_ports)
    yield from _quic_notes(policy)
    if needs_names(policy):
        yield (
            "What arrives shows no names: its class is that of the proxy's socket, which a program at the ingress hook "
            "looks up (with CAP_BPF), else that of its connection's mark (act_connmark; the only way with datapath: "
            "step-aside). Where neither is to be had, the relay holds its connections itself, by reading no faster, "
            "and the kernel all the rest."
        )
    inbound = any(True for _ in policy.rules(Bound.INBOUND))
    unless = ", unless an inbound match takes them" if inbound else ""
    yield f"Loopback traffic is not touched. Answers to connections from outside go to the default class{unless}."


def _exclusion_notes(settings: CaptureSettings) -> Iterable[str]:
    places = []
    if settings.exclude_outbound_ports:
        places.append(f"port {either(str(p) for p in settings.exclude_outbound_ports)} (TCP and UDP)")
    if settings.exclude_outbound_cidrs:
        places.append(f"an address in {either(str(n) for n in settings.exclude_outbound_cidrs)}")
    for place in places:
        yield f"What goes to {place} is left alone: it is in the default class, whatever the matches say."
    clients = []
    if settings.exclude_inbound_ports:
        clients.append(f"open to port {either(str(p) for p in settings.exclude_inbound_ports)}")
    if settings.exclude_inbound_cidrs:
        clients.append(f"in {either(str(n) for n in settings.exclude_inbound_cidrs)} open")
    for what in clients:
        yield f"What clients {what} is left alone: answers are in the default class, whatever the matches say."


def _quic_notes(policy: TrafficPolicy) -> Iterable[str]:
    content = [m for _, m in policy.rules() if m.needs_content]
    found = sorted({p for m in content for p in m.quic_ports})
    ports = either(str(p) for p in found) if found else ""
    rest = "All other UDP goes to the class of its port and address."
    if content and not ports:
        yield "UDP shows none of these names. It goes to the class of its port and address, and so does HTTP/3 (QUIC)."
    elif ports and policy.quic is Quic.BLOCK:
        yield (
            f"QUIC (HTTP/3) that this side opens to UDP port {ports}, where a name could decide, is refused, so that "
            f"clients fall back to TCP. {rest}"
        )
    elif ports:
        yield (
            f"QUIC (HTTP/3) on UDP port {ports} is read, with either datapath: the kernel shows the packets with which "
            "a connection begins to a classifier; they are not held back, and nothing else of it meets user space. "
            f"{rest}"
        )


def _content_notes(policy: TrafficPolicy, silent_ports: tuple[int, ...]) -> Iterable[str]:
    content = [m for _, m in policy.rules() if m.needs_content]
    if any(not m.port for m in content):
        others = [str(p) for p in silent_ports if p != _DNS_PORT]
        if others:
            yield (
                f"On ports {every(others)} the server speaks first. "
                "Names do not decide there unless the match names the port."
            )
        if _DNS_PORT in silent_ports:
            yield "DNS (port 53) is left alone: it goes to the class of its port and address, past the proxy."
    yield (
        "A connection that shows nothing within the detection timeout goes to the class of its port and address. "
        + _REQUESTS[policy.requests]
    )
