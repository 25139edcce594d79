"""Compiles a policy to mangle rules: they mark what the kernel can classify and capture what needs content.

Design:

* **Decide once, on the SYN; follow by connmark.** A captured connection carries DIVERT in its conntrack mark, which is
  copied to the mark of each later packet. Matching the socket's owner on every packet fails twice: it captures replies
  of inbound connections, and it misses packets of orphaned sockets, which have no owner, so that the connection breaks.
  For the same reason new or changed rules do not affect running connections: the decision at the SYN stands.
* **Exempt by mark and owner.** The proxy sets OWN on its sockets; the mark survives when a socket is orphaned, the
  owner does not. :mod:`datapath.netfilter.foreign_marks` tells whose OWN it is; all other marks of ours are cleared, so
  that the walk begins with none.
* **Every mark is a value under a mask** (:mod:`traffic_policy.marks`): other bits belong to a mesh, a CNI plugin or the
  user.
* **Replies are handled separately.** A policy matches the destination of a connection; a reply's destination port is
  the client's ephemeral one. Replies of inbound connections walk the policy's inbound matches
  (:mod:`datapath.netfilter.inbound`).

The chains, in the order in which a locally generated packet traverses them::

    OUTPUT -> PODLANE-OUT       exemptions; marks of others are cleared; followers of captured connections; exclusions;
                                then the walk
              PODLANE-CLASSES   the policy's matches in order: the first that holds decides
                -g PODLANE-C<id>    no content needed: write the class mark, the walk is over (TCP, UDP, ICMP ...)
                -j PODLANE-ANY-PORT content match that names no port: not on silent ports, else
                -j PODLANE-CAPTURE  SYNs whose class only content can tell: set DIVERT
    (by the DIVERT mark the policy route sends the packet to lo, and it reaches)
    PREROUTING -> PODLANE-PRE   TPROXY to the listener; packets from outside -> PODLANE-IN

These are the chains of the relay datapath. :mod:`datapath.netfilter.nfqueue_rules` has the rules that replace TPROXY in
the step-aside datapath, for inbound and outbound connections; :mod:`datapath.netfilter.quic` those for QUIC.

CAPTURE is entered with -j and returns, so that emptying it is enough to drain: the walk then continues to the class of
the port, and the follower rules still serve captured connections. Therefore the walk of a captured SYN continues too
and may add class bits. That is harmless: the SYN only travels over lo, and the proxy chooses the class of the upstream
socket itself. Ending the walk would cost every other packet a rule.

**With a mesh** (:mod:`datapath.mesh.types`) CAPTURE matches the owner of the SYN and takes only what the mesh's proxy
sends: the application's own SYNs pass OUTPUT, but nat, which runs after mangle, redirects them to that proxy. The owner
is matched on SYNs only (see above). Such packets may get class bits, which is harmless since they stay on lo. The walk
sees connections as the mesh's proxy opens them: after load balancing, to a Pod's address and port. Where that proxy
sets marks of ours by itself, they decide first (:mod:`datapath.mesh.taken_marks`).

Excluded traffic bypasses the walk: it is neither captured nor classified. The follower rules come first, so that a new
exclusion breaks no connection that is already captured.

:mod:`datapath.routing.table` implements the same walk for the proxy; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from datapath.mesh.taken_marks import mesh_chain, mesh_rule, takes_mesh_marks
from datapath.netfilter import quic
from datapath.netfilter.capture_settings import LISTENER_ADDRESS, CaptureSettings
from datapath.netfilter.foreign_marks import CLEARED, clean_rule, clearing_rules, own_chain, own_rules
from datapath.netfilter.inbound import REPLIES, inbound_rules, reply_exclusions, reply_rule, reply_walk
from datapath.netfilter.match_compiler import (
    chains_called,
    class_chain,
    class_rules,
    content_rules,
    networks_of,
    quiet_rules,
    return_on_ports,
    without_repeats,
)
from datapath.netfilter.nfqueue_rules import aside_chains, follow_rule, save_hooks, show_rule, undecided_rule
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    LINK_LOCAL,
    Chain,
    ConntrackDirection,
    Family,
    FamilyRules,
    Hook,
    Jump,
    PolicyRoute,
    Return,
    Rule,
    SetConnmark,
    SetMark,
    Tproxy,
)
from traffic_policy.marks import DIVERT, ClassIds, class_mark
from traffic_policy.policy import Bound, Quic, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath

__all__ = ["EMPTY_RULESET", "CaptureSettings", "Ruleset", "build_ruleset"]

OUT: Final = f"{CHAIN_PREFIX}OUT"
CLASSES: Final = f"{CHAIN_PREFIX}CLASSES"
ANY_PORT: Final = f"{CHAIN_PREFIX}ANY-PORT"
CAPTURE: Final = f"{CHAIN_PREFIX}CAPTURE"
PRE: Final = f"{CHAIN_PREFIX}PRE"
_TCP: Final = TransportProtocol.TCP
_UDP: Final = TransportProtocol.UDP


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The rules of both families. ``capture``: whether new connections are captured."""

    families: tuple[FamilyRules, ...]
    capture: bool

    def for_family(self, family: Family) -> FamilyRules:
        """The rules of one family."""
        return next(rules for rules in self.families if rules.family is family)

    @property
    def empty(self) -> bool:
        """Whether there are no rules."""
        return not any(rules.chains for rules in self.families)


EMPTY_RULESET: Final = Ruleset(tuple(FamilyRules(family) for family in Family), capture=False)


@lru_cache(maxsize=4)  # all Pods of a workload have the same policy, and large ones take megabytes
def build_ruleset(
    policy: TrafficPolicy,
    ids: ClassIds,
    settings: CaptureSettings,
    *,
    capture: bool = True,
    keep_captured: bool = False,
    keep_inbound: bool = False,
) -> Ruleset:
    """The rules that put a policy in force.

    ``capture=False`` is for draining: captured connections continue, new ones go direct, in the class of their port.
    ``keep_captured`` keeps the follower rules although this policy captures nothing, while connections captured under
    an earlier policy finish; ``keep_inbound`` does the same for inbound ones. Raises KeyError when ``ids`` lacks a
    class of the policy. Many Pods have the same policy, whose rules are made once.
    """
    families = tuple(
        _family_rules(
            family, policy, ids, settings, capture=capture, keep_captured=keep_captured, keep_inbound=keep_inbound
        )
        for family in Family
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
    keep_inbound: bool,
) -> FamilyRules:
    treatment = quic.treatment(policy, settings)
    walk: list[Rule] = []
    for name, match in policy.rules(Bound.OUTBOUND):
        if match.needs_content:
            walk += content_rules(family, match, settings, any_port=ANY_PORT, capture=CAPTURE)
            walk += quic.quic_rules(family, match, settings, treatment, quic.QUIC)
        else:
            walk += class_rules(family, match, ids[name])
    walk = without_repeats(walk)
    replies = reply_walk(family, policy, ids, redirected=settings.mesh is not None)
    called = chains_called(walk)
    content = CAPTURE in called or ANY_PORT in called
    follow = content or keep_captured
    inbound = inbound_rules(family, policy, settings, capture=capture, keep=keep_inbound)
    aside = settings.datapath is Datapath.STEP_ASIDE
    cleared = tuple(clearing_rules(settings, marks=bool(policy.classes)))
    if not (walk or follow or replies or inbound):
        # Another family's classes, and those of no one, must not be chosen either.
        chain = Chain(OUT, (_elsewhere(settings), *cleared))
        return FamilyRules(family, (chain,), (Hook("OUTPUT", Rule(Jump(OUT))),)) if cleared else FamilyRules(family)

    relays = not aside and (follow or (inbound is not None and inbound.tcp))
    outbound_quic = treatment is Quic.CLASSIFY and quic.QUIC in called
    inbound_quic = inbound is not None and inbound.quic
    answers = (
        [follow_rule(direction=ConntrackDirection.REPLY)] if aside and not follow and inbound and inbound.tcp else []
    )
    answers += quic.follow_rules(ConntrackDirection.REPLY) if inbound_quic else ()
    begin = (
        _aside_begin(settings, cleared, answers, follow=follow)
        if aside
        else _relay_begin(settings, cleared, relays=relays, quic_too=outbound_quic or inbound_quic, answers=answers)
    )
    out = _out_rules(family, settings, follow=follow, quic_too=outbound_quic, replies=bool(replies))
    chains = [Chain(OUT, (*begin, *out)), Chain(CLASSES, tuple(walk))]
    if relays:
        chains.append(own_chain(settings))
    if replies:
        chains.append(Chain(REPLIES, (*reply_exclusions(family, settings), *replies)))
    if aside and follow and takes_mesh_marks(settings):
        chains.append(mesh_chain(policy, ids))
    if ANY_PORT in called:
        chains.append(Chain(ANY_PORT, (*quiet_rules(settings), Rule(Jump(CAPTURE)))))
    if content:
        chains.append(Chain(CAPTURE, tuple(_divert_rules(family, settings)) if capture else ()))
    if quic.QUIC in called:
        chains.append(quic.quic_chain(treatment, capture=capture))
    used = sorted({ids[name] for name, _ in policy.rules()})
    called |= chains_called(replies)
    chains += [Chain(class_chain(i), (Rule(SetMark(class_mark(i))),)) for i in used if class_chain(i) in called]
    hooks = [Hook("OUTPUT", Rule(Jump(OUT)))]
    routes = []
    arriving = []
    if follow and not aside:
        arriving.append(_tproxy_rule(family, settings))
        routes.append(PolicyRoute(DIVERT, settings.route_table, settings.rule_preference))
    shown = [(_TCP, aside and follow, aside and inbound is not None and inbound.tcp)]
    shown.append((_UDP, outbound_quic, inbound_quic))
    if protocols := [protocol for protocol, *ways in shown if any(ways)]:
        arrives = any(way for *_, way in shown)
        chains += aside_chains(settings.outbound_port, protocols, inbound=arrives, bypass=settings.queue_bypass)
        hooks += save_hooks(protocols, settings.interface, inbound=arrives)
    if outbound_quic or inbound_quic:
        chains.append(quic.again_chain(settings.outbound_port, bypass=settings.queue_bypass))
    if inbound:
        arriving.append(inbound.entry)
        chains += inbound.chains
        routes += inbound.routes
    if arriving and settings.connmark:
        # The ingress hook has set the connection's mark on the packet; its state bits have another meaning here.
        arriving.insert(0, Rule(SetMark(CLEARED), in_interface=settings.interface))
    if arriving:
        chains.append(Chain(PRE, tuple(arriving)))
        hooks.append(Hook("PREROUTING", Rule(Jump(PRE))))
    return FamilyRules(family, tuple(chains), tuple(hooks), tuple(routes))


def _elsewhere(settings: CaptureSettings) -> Rule:
    """Packets that are not shaped."""
    if settings.interface is None:
        return Rule(Return(), out_interface="lo")
    return Rule(Return(), not_out_interface=settings.interface)


def _aside_begin(
    settings: CaptureSettings, cleared: Iterable[Rule], answers: Iterable[Rule], *, follow: bool
) -> Iterator[Rule]:
    """The first rules of OUT when stepping aside. ``answers`` are those for replies of decided connections, unless
    outbound rules cover them too."""
    marked = follow and takes_mesh_marks(settings)
    if marked:
        yield clean_rule
        yield from mesh_rule(settings)
    # On every interface: what is decided would be saved for the connection, wherever the packet goes.
    yield from cleared
    if follow:
        # Before all others, and for replies as well: nearly every packet ends here.
        if not marked:
            yield clean_rule
        yield follow_rule()
    yield _elsewhere(settings)
    yield from answers


def _relay_begin(
    settings: CaptureSettings, cleared: Iterable[Rule], *, relays: bool, quic_too: bool, answers: Iterable[Rule]
) -> Iterator[Rule]:
    """The first rules of OUT with the relay. ``answers`` are those for replies of decided QUIC flows."""
    if quic_too:
        # On every interface: what is decided would be saved for the flow, wherever the packet goes.
        yield Rule(SetMark(CLEARED), protocol=_UDP)
    yield _elsewhere(settings)
    if relays:
        yield clean_rule
        yield from own_rules(settings)
    yield from cleared
    yield from answers


def _out_rules(
    family: Family, settings: CaptureSettings, *, follow: bool, quic_too: bool, replies: bool
) -> Iterator[Rule]:
    """The other rules of OUT."""
    # Does not match untracked packets: they are classified one by one, as they should be.
    yield reply_rule(classified=replies)
    aside = settings.datapath is Datapath.STEP_ASIDE
    if follow and not aside:
        yield Rule(SetMark(DIVERT), protocol=_TCP, connmark=DIVERT)
        yield Rule(Return(), protocol=_TCP, mark=DIVERT)
    if quic_too:
        yield from quic.follow_rules()
    for network in networks_of(family, settings.exclude_outbound_cidrs):
        yield Rule(Return(), destination=network)
    yield from return_on_ports(settings.exclude_outbound_ports, _TCP, _UDP)
    yield Rule(Jump(CLASSES))
    if follow and aside:
        yield show_rule()
    if quic_too:
        yield quic.show_rule()


def _divert_rules(family: Family, settings: CaptureSettings) -> Iterator[Rule]:
    """Rules of CAPTURE; returning from it before the end means "not captured"."""
    if settings.mesh is not None:
        yield from return_on_ports(settings.mesh.ports, TransportProtocol.TCP)
    if settings.datapath is Datapath.STEP_ASIDE:
        yield _of_the_mesh(undecided_rule(), settings)
        return
    if family is Family.V6:
        yield Rule(Return(), destination=LINK_LOCAL)
    yield _of_the_mesh(Rule(SetConnmark(DIVERT)), settings)
    # Only when that worked: an untracked connection could not be followed, and would break after its SYN.
    yield Rule(SetMark(DIVERT), connmark=DIVERT)


def _of_the_mesh(rule: Rule, settings: CaptureSettings) -> Rule:
    """The rule limited to packets of the mesh's proxy, if there is a mesh: the application's go to that proxy first."""
    mesh = settings.mesh
    return rule if mesh is None else replace(rule, user=mesh.user, group=mesh.group, mark=mesh.mark)


def _tproxy_rule(family: Family, settings: CaptureSettings) -> Rule:
    return Rule(
        Tproxy(LISTENER_ADDRESS[family], settings.outbound_port, DIVERT),
        protocol=_TCP,
        in_interface="lo",
        mark=DIVERT,
        direction=ConntrackDirection.ORIGINAL,
    )
