"""The rules of inbound connections, in addition to those of :mod:`datapath.netfilter.ruleset`.

The replies of such a connection are shaped::

    OUTPUT -> PODLANE-OUT
                -g PODLANE-REPLIES   replies: the policy's inbound matches in order, with both ends swapped (our port
                                     is the source port, the client the destination), except those that need content
                                     (when stepping aside, replies of decided connections do not get here)
    PREROUTING -> PODLANE-PRE -> PODLANE-IN      packets received on the interface
                -g PODLANE-IN-SYN    exclusions; then the walk
                   -> PODLANE-IN-CLASSES   the same matches in order: decided by the kernel -> RETURN, by content
                        -j PODLANE-IN-ANY-PORT, PODLANE-IN-CAPTURE   set the connection's mark
                TPROXY of captured connections to the inbound listener; when stepping aside, -> PODLANE-SHOW
                QUIC: see :mod:`datapath.netfilter.quic`

* **Only packets that would reach a program are captured.** `addrtype` excludes forwarded packets, and `socket` those
  without a listening socket: a closed port still refuses connections, instead of the proxy accepting them, and a
  program that listens on loopback only stays unreachable.
* In the relay datapath the proxy sets OWN and the class on its sockets, so its replies never reach REPLIES.
* The proxy connects to the program from the client's own address over lo (:mod:`sidecar.transport.inbound`), and a
  second policy route keeps the program's replies on lo.
* As for outbound: decided once, on the SYN; followed by the connection's mark; emptying CAPTURE is enough to drain.
* With a mesh, nat redirects clients to the mesh's proxy, but after PREROUTING's mangle chain, so the packets queued
  here have their original destination. Replies have that proxy's port in OUTPUT and the original port only after it,
  so they are matched by conntrack's original port. The relay would bypass the mesh's proxy: see
  :mod:`datapath.mesh.check`.
* When stepping aside (:mod:`datapath.netfilter.nfqueue_rules`) the connection between client and program is unchanged:
  no route, no listener.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from datapath.netfilter import quic
from datapath.netfilter.capture_settings import LISTENER_ADDRESS, CaptureSettings
from datapath.netfilter.foreign_marks import CLEARED
from datapath.netfilter.match_compiler import (
    answers_from,
    chains_called,
    content_rules,
    kernel_rules,
    networks_of,
    quiet_rules,
    reply_rules,
    return_on_ports,
    without_repeats,
)
from datapath.netfilter.nfqueue_rules import show_rule
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    LINK_LOCAL,
    Chain,
    ConntrackDirection,
    Family,
    Goto,
    Jump,
    PolicyRoute,
    Return,
    Rule,
    SetConnmark,
    Tproxy,
    port_groups,
)
from datapath.stepaside.marks import UNDECIDED_ASIDE
from traffic_policy.marks import DIVERT, STATE_MASK, ClassIds, Mark
from traffic_policy.policy import Bound, Quic, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath

IN: Final = f"{CHAIN_PREFIX}IN"
IN_SYN: Final = f"{CHAIN_PREFIX}IN-SYN"
IN_CLASSES: Final = f"{CHAIN_PREFIX}IN-CLASSES"
IN_ANY_PORT: Final = f"{CHAIN_PREFIX}IN-ANY-PORT"
IN_CAPTURE: Final = f"{CHAIN_PREFIX}IN-CAPTURE"
REPLIES: Final = f"{CHAIN_PREFIX}REPLIES"

_TCP: Final = TransportProtocol.TCP
_UNTOUCHED: Final = Mark(0, 0)
_STATELESS: Final = Mark(0, STATE_MASK)
"""In a connection's mark: none of ours. Conntrack makes a new entry for a connection that begins anew."""


@dataclass(frozen=True, slots=True)
class InboundRules:
    """The rules of one family for inbound connections that content may decide."""

    entry: Rule
    """The rule that PREROUTING calls."""
    chains: tuple[Chain, ...]
    routes: tuple[PolicyRoute, ...]
    tcp: bool
    quic: bool
    """Of what clients open by which protocol."""


# --- replies, in OUTPUT ----------------------------------------------------------------------------------------------


def reply_rule(*, classified: bool) -> Rule:
    """One of the first rules of OUT: keeps replies from the outbound matches."""
    return Rule(Goto(REPLIES) if classified else Return(), direction=ConntrackDirection.REPLY)


def reply_walk(family: Family, policy: TrafficPolicy, ids: ClassIds, *, redirected: bool) -> list[Rule]:
    """The inbound matches that need no content, applied to replies."""
    return [
        rule
        for name, match in policy.rules(Bound.INBOUND)
        if not match.needs_content
        for rule in reply_rules(family, match, ids[name], redirected=redirected)
    ]


def reply_exclusions(family: Family, settings: CaptureSettings) -> Iterator[Rule]:
    """Rules that keep excluded replies in the default class."""
    for network in networks_of(family, settings.exclude_inbound_cidrs):
        yield Rule(Return(), destination=network)
    for group in port_groups(settings.exclude_inbound_ports):
        if group:
            for protocol in (TransportProtocol.TCP, TransportProtocol.UDP):
                answer = Rule(Return(), protocol=protocol)
                yield from answers_from(answer, group, redirected=settings.mesh is not None)


# --- capture, in PREROUTING ------------------------------------------------------------------------------------------


def inbound_rules(
    family: Family, policy: TrafficPolicy, settings: CaptureSettings, *, capture: bool, keep: bool
) -> InboundRules | None:
    """The rules that lead to the inbound listener or the classifier; None when none are needed.

    Without ``capture`` new connections go direct; ``keep`` keeps the rules that those of an earlier policy need.
    """
    aside = settings.datapath is Datapath.STEP_ASIDE
    walk = _walk(family, policy, settings)
    called = chains_called(walk)
    reads_quic = quic.IN_QUIC in called
    tcp = keep or bool(called - {quic.IN_QUIC})
    if not tcp and not reads_quic:
        return None
    chains = list(_chains(family, settings, walk, tcp=tcp, reads_quic=reads_quic))
    if IN_ANY_PORT in called:
        chains.append(Chain(IN_ANY_PORT, (*quiet_rules(settings), Rule(Jump(IN_CAPTURE)))))
    if IN_ANY_PORT in called or IN_CAPTURE in called:
        captured = SetConnmark(UNDECIDED_ASIDE if aside else DIVERT)
        mark = Rule(captured, protocol=_TCP, to_here=True, has_socket=True)
        chains.append(Chain(IN_CAPTURE, (mark,) if capture else ()))
    if reads_quic:
        chains += quic.arriving_chains(family, settings, IN_CLASSES, capture=capture)
    entry = Rule(Goto(IN), in_interface=settings.interface)
    route = PolicyRoute(None, settings.route_table, settings.rule_preference + 1)
    return InboundRules(entry, tuple(chains), (route,) if tcp and not aside else (), tcp, reads_quic)


def _walk(family: Family, policy: TrafficPolicy, settings: CaptureSettings) -> list[Rule]:
    """The walk that captures or queues incoming packets; a match that decides without content ends it."""
    reads_quic = quic.treatment(policy, settings) is Quic.CLASSIFY and any(
        match.quic_ports for _, match in policy.rules(Bound.INBOUND)
    )
    asked = (None, _TCP, TransportProtocol.UDP) if reads_quic else (None, _TCP)
    treatment = Quic.CLASSIFY if reads_quic else None
    walk: list[Rule] = []
    for _, match in policy.rules(Bound.INBOUND):
        if match.needs_content:
            walk += content_rules(family, match, settings, any_port=IN_ANY_PORT, capture=IN_CAPTURE)
            walk += quic.quic_rules(family, match, settings, treatment, quic.IN_QUIC)
        else:
            decided = kernel_rules(family, match, Return())
            walk += (rule for rule in decided if rule.protocol in asked)
    return without_repeats(walk)


def _chains(
    family: Family, settings: CaptureSettings, walk: list[Rule], *, tcp: bool, reads_quic: bool
) -> Iterator[Chain]:
    aside = settings.datapath is Datapath.STEP_ASIDE
    to_proxy = Tproxy(LISTENER_ADDRESS[family], settings.inbound_port, _UNTOUCHED)
    captured = show_rule() if aside else Rule(to_proxy, protocol=_TCP, connmark=DIVERT)
    local = [Rule(Return(), in_interface="lo")] if settings.interface is None else []
    not_opened_there = Rule(Return(), direction=ConntrackDirection.REPLY)
    # A client may send a SYN in the middle of a connection, and then a name: that must not decide it again.
    begun = _STATELESS if aside else None
    of_tcp = [Rule(Goto(IN_SYN), protocol=_TCP, syn=True, connmark=begun), captured] if tcp else []
    of_udp = quic.arriving_rules() if reads_quic else ()
    yield Chain(IN, (*local, not_opened_there, *of_tcp, *of_udp))
    scoped = [Rule(Return(), source=LINK_LOCAL)] if family is Family.V6 and not aside else []
    excluded = [
        *(Rule(Return(), source=network) for network in networks_of(family, settings.exclude_inbound_cidrs)),
        *return_on_ports(settings.exclude_inbound_ports, _TCP),
        *return_on_ports(settings.mesh.ports if settings.mesh is not None else (), _TCP),
    ]
    if tcp:
        yield Chain(IN_SYN, (Rule(SetConnmark(CLEARED)), *scoped, *excluded, Rule(Jump(IN_CLASSES)), captured))
    yield Chain(IN_CLASSES, tuple(walk))
