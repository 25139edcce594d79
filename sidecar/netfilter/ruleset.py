"""From a policy to the mangle rules that mark what the kernel can decide and capture what only content can.

How it works, and why so (every rule here was settled by experiment):

* **Decide once, on the SYN; follow by connmark.** A captured connection carries DIVERT in its conntrack mark, and each
  later packet copies it to the packet mark. Rules that ask every packet who owns it fail twice: replies of inbound
  connections get captured, and the packets of closed ("orphaned") sockets, which have no owner any more, leave by the
  wrong way and kill the connection. For the same reason rules that come late or change do no harm to running
  connections: those are told apart by what was decided then, not by what would be decided now.
* **Exempt by mark, never by uid or gid.** What the proxy sends has OWN set on its socket, and keeps it when the socket
  is orphaned. The exemption is the first rule, so such packets keep the class the proxy gave them.
* **Every mark is a value under a mask** (:mod:`tc_core.marks`): other bits belong to a mesh, a CNI plugin or the user.
* **Replies are not ours.** A policy speaks of destinations; a reply's destination port is the client's ephemeral one.

The chains, in the order a packet of this namespace meets them::

    OUTPUT -> PODLANE-OUT       exemptions; followers of captured connections; what is excluded; then the walk
              PODLANE-CLASSES   the policy's matches in order: the first that holds decides
                -g PODLANE-C<id>    no content needed: write the class mark, the walk is over (TCP, UDP, ICMP ...)
                -j PODLANE-ANY-PORT content match that names no port: not on silent ports, else
                -j PODLANE-CAPTURE  SYNs whose class only content can tell: set DIVERT
    (the DIVERT mark leads by the policy route to lo, and so to)
    PREROUTING -> PODLANE-PRE   TPROXY to the listener

That is the relay datapath. :mod:`sidecar.netfilter.aside` has what the step-aside datapath has instead of TPROXY.

CAPTURE is jumped to and comes back, so that emptying it is all it takes to drain: the walk then goes on to the class of
the port, and the follower rules still serve what was captured before. With CAPTURE in place the walk of a captured SYN
goes on too and may add class bits. That is harmless: the SYN only travels over lo, and the proxy chooses the class of
the upstream socket afresh; cutting it short would cost every other packet a rule.

What is excluded stays outside the walk, so it is neither captured nor given a class. The followers come before, so that
excluding something cuts no connection which is captured already.

The same walk is written down for the proxy in :mod:`sidecar.routing.table`; a test compares the two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from sidecar.datapath import Datapath
from sidecar.netfilter.aside import aside_chains, follow_rule, save_hook, show_rule, undecided_rule
from sidecar.netfilter.rules import (
    CHAIN_PREFIX,
    Address,
    Chain,
    Direction,
    Family,
    FamilyRules,
    Goto,
    Hook,
    Jump,
    PolicyRoute,
    Return,
    Rule,
    SetConnmark,
    SetMark,
    Tproxy,
    port_groups,
)
from sidecar.routing.table import SILENT_PORTS
from tc_core.marks import DIVERT, OWN, UNDECIDED, ClassIds, class_mark
from tc_core.policy import Match, Network, PortRange, TrafficPolicy, TransportProtocol

OUT: Final = f"{CHAIN_PREFIX}OUT"
CLASSES: Final = f"{CHAIN_PREFIX}CLASSES"
ANY_PORT: Final = f"{CHAIN_PREFIX}ANY-PORT"
CAPTURE: Final = f"{CHAIN_PREFIX}CAPTURE"
PRE: Final = f"{CHAIN_PREFIX}PRE"

LISTENER_ADDRESS: Final[dict[Family, Address]] = {
    Family.V4: ipaddress.IPv4Address("127.0.0.1"),
    Family.V6: ipaddress.IPv6Address("::1"),
}
_LINK_LOCAL: Final = ipaddress.IPv6Network("fe80::/10")
"""Not relayed: such an address means nothing without its interface, which the way over lo loses (RFC 4007)."""


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What the policy does not say about the rules.

    ``outbound_port`` is the listener's, or the number of the queue. Content matches apply on ``silent_ports`` only when
    they name the port. What goes to ``exclude_outbound_ports`` (TCP and UDP) or ``exclude_outbound_cidrs`` is in the
    default class, whatever the policy says. With an ``interface`` the rules touch only what leaves by it; without,
    everything that does not stay on lo. ``route_table`` and ``rule_preference`` are ours alone (not 100, 133, 253-255,
    which others use).
    """

    datapath: Datapath = Datapath.RELAY
    outbound_port: int = 15101
    silent_ports: tuple[int, ...] = SILENT_PORTS
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[Network, ...] = ()
    route_table: int = 15101
    rule_preference: int = 15101
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The rules of both families. ``capture``: whether new connections are captured."""

    families: tuple[FamilyRules, ...]
    capture: bool

    def of(self, family: Family) -> FamilyRules:
        """The rules of one family."""
        return next(rules for rules in self.families if rules.family is family)

    @property
    def empty(self) -> bool:
        """Whether nothing at all is wanted: every packet's class is the default one."""
        return not any(rules.chains for rules in self.families)


EMPTY_RULESET: Final = Ruleset(tuple(FamilyRules(family) for family in Family), capture=False)


def build_ruleset(
    policy: TrafficPolicy,
    ids: ClassIds,
    settings: CaptureSettings,
    *,
    capture: bool = True,
    keep_captured: bool = False,
) -> Ruleset:
    """The rules that put a policy in force.

    ``capture=False`` is the draining form: captured connections go on, new ones go directly, in the class of their
    port. ``keep_captured`` keeps the follower rules although this policy captures nothing: for the time in which
    connections captured under an earlier policy are finishing. Raises KeyError when ``ids`` lacks a class of it.
    """
    families = tuple(
        _family_rules(family, policy, ids, settings, capture=capture, keep_captured=keep_captured) for family in Family
    )
    captures = any(match.needs_content for _, match in policy.rules())
    return Ruleset(families, capture=capture and captures)


def _family_rules(
    family: Family,
    policy: TrafficPolicy,
    ids: ClassIds,
    settings: CaptureSettings,
    *,
    capture: bool,
    keep_captured: bool,
) -> FamilyRules:
    walk: list[Rule] = []
    for name, match in policy.rules():
        if match.needs_content:
            walk += _capture_rules(family, match, settings)
        else:
            walk += _class_rules(family, match, ids[name])
    called = {rule.action.chain for rule in walk if isinstance(rule.action, Jump | Goto)}
    content = CAPTURE in called or ANY_PORT in called
    follow = content or keep_captured
    if not walk and not follow:
        return FamilyRules(family)

    chains = [Chain(OUT, tuple(_out_rules(family, settings, follow=follow))), Chain(CLASSES, tuple(walk))]
    if ANY_PORT in called:
        silent = (PortRange(port, port) for port in settings.silent_ports)
        chains.append(Chain(ANY_PORT, (*_return_on_ports(silent, TransportProtocol.TCP), Rule(Jump(CAPTURE)))))
    if content:
        chains.append(Chain(CAPTURE, tuple(_divert_rules(family, settings)) if capture else ()))
    used = sorted({ids[name] for name, _ in policy.rules()})
    chains += [Chain(_class_chain(i), (Rule(SetMark(class_mark(i))),)) for i in used if _class_chain(i) in called]
    hooks = [Hook("OUTPUT", Rule(Jump(OUT)))]
    if not follow:
        return FamilyRules(family, tuple(chains), tuple(hooks))
    if settings.datapath is Datapath.STEP_ASIDE:
        return FamilyRules(family, (*chains, *aside_chains(settings.outbound_port)), (*hooks, save_hook()))
    chains.append(Chain(PRE, (_tproxy_rule(family, settings),)))
    hooks.append(Hook("PREROUTING", Rule(Jump(PRE))))
    route = PolicyRoute(DIVERT, settings.route_table, settings.rule_preference)
    return FamilyRules(family, tuple(chains), tuple(hooks), route)


def _out_rules(family: Family, settings: CaptureSettings, *, follow: bool) -> Iterator[Rule]:
    tcp = TransportProtocol.TCP
    yield Rule(Return(), mark=OWN)
    if settings.interface is None:
        yield Rule(Return(), out_interface="lo")
    else:
        yield Rule(Return(), not_out_interface=settings.interface)
    # Does not match what conntrack does not track: such packets are classified one by one, which is right for them.
    yield Rule(Return(), direction=Direction.REPLY)
    if follow:
        # Every SYN starts clean: conntrack may still know what was decided for an earlier try, or for an earlier
        # connection of the same addresses and ports.
        yield Rule(SetConnmark(UNDECIDED), protocol=tcp, syn=True)
    aside = settings.datapath is Datapath.STEP_ASIDE
    if follow and aside:
        yield follow_rule()
    elif follow:
        yield Rule(SetMark(DIVERT), protocol=tcp, connmark=DIVERT)
        yield Rule(Return(), protocol=tcp, mark=DIVERT)
    for network in _networks_of(family, settings.exclude_outbound_cidrs):
        yield Rule(Return(), destination=network)
    yield from _return_on_ports(settings.exclude_outbound_ports, tcp, TransportProtocol.UDP)
    yield Rule(Jump(CLASSES))
    if follow and aside:
        yield show_rule()


def _divert_rules(family: Family, settings: CaptureSettings) -> Iterator[Rule]:
    """What CAPTURE does; returning from it before the end means "not captured"."""
    if settings.datapath is Datapath.STEP_ASIDE:
        yield undecided_rule()
        return
    if family is Family.V6:
        yield Rule(Return(), destination=_LINK_LOCAL)
    yield Rule(SetConnmark(DIVERT))
    # Only when that worked: an untracked connection could not be followed, and would break after its SYN.
    yield Rule(SetMark(DIVERT), connmark=DIVERT)


def _tproxy_rule(family: Family, settings: CaptureSettings) -> Rule:
    return Rule(
        Tproxy(LISTENER_ADDRESS[family], settings.outbound_port, DIVERT),
        protocol=TransportProtocol.TCP,
        in_interface="lo",
        mark=DIVERT,
        direction=Direction.ORIGINAL,
    )


def _return_on_ports(ports: Iterable[PortRange], *protocols: TransportProtocol) -> Iterator[Rule]:
    for group in port_groups(ports):
        if group:
            yield from (Rule(Return(), protocol=protocol, ports=group) for protocol in protocols)


def _capture_rules(family: Family, match: Match, settings: CaptureSettings) -> Iterator[Rule]:
    """A match that needs content: SYNs which meet the rest of it are captured."""
    if not match.accepts_protocol(TransportProtocol.TCP):
        return
    chain = CAPTURE if match.port or not settings.silent_ports else ANY_PORT
    for source, destination in _ends(family, match):
        for ports in port_groups(match.port):
            yield Rule(
                Jump(chain),
                protocol=TransportProtocol.TCP,
                source=source,
                destination=destination,
                syn=True,
                ports=ports,
            )


def _class_rules(family: Family, match: Match, class_id: int) -> Iterator[Rule]:
    """A match that the kernel decides packet by packet."""
    protocols: Iterable[TransportProtocol | None] = (None,)
    if match.protocol or match.port:
        protocols = [p for p in dict.fromkeys(match.protocol or TransportProtocol) if match.accepts_protocol(p)]
    action = Goto(_class_chain(class_id))
    for source, destination in _ends(family, match):
        for protocol in protocols:
            for ports in port_groups(match.port):
                yield Rule(action, protocol=protocol, source=source, destination=destination, ports=ports)


def _ends(family: Family, match: Match) -> Iterator[tuple[Network | None, Network | None]]:
    """Every source with every destination; nothing when one of them is named for the other family alone."""
    return product(
        _networks_of(family, match.source, default=(None,)), _networks_of(family, match.cidr, default=(None,))
    )


def _networks_of(
    family: Family, networks: Sequence[Network], *, default: tuple[Network | None, ...] = ()
) -> tuple[Network | None, ...]:
    """The networks of one family, none inside another; ``default`` when no network of any family was named.

    A network that holds every address is no criterion (None); iptables-save would not show it either.
    """
    if not networks:
        return default
    if family is Family.V4:
        mine: list[Network] = list(ipaddress.collapse_addresses(n for n in networks if n.version == 4))
    else:
        mine = list(ipaddress.collapse_addresses(n for n in networks if n.version == 6))
    return tuple(network if network.prefixlen else None for network in mine)


def _class_chain(class_id: int) -> str:
    return f"{CHAIN_PREFIX}C{class_id}"
