"""Compiles a policy to trees that classify by packet headers, without a proxy's marks. Pure.

HTB looks as it does for the sidecar (:mod:`tc_core.compile.mark_tree`), with other filters. The other shapers::

    tbf    70d1:  token bucket of the total      prio    70d1:  token bucket of the total
           └─ 1ff:  queue                                └─ 70d2:    strict priorities, a band for each class
    cake   70d1:  CAKE with the total                        ├─ 70d2:1  ─ 101:  queue of the first band
                                                             └─ 70d2:2  ─ 202:  token bucket of a class with a ceil
                                                                          └─ 102:  its queue

Received packets can be shaped only on another device: a filter at the ingress hook redirects them to an ifb with an HTB
tree. There the policy's destination is the packet's source, except for inbound matches. Classes that names decide
are selected before the redirection, by the socket (:mod:`tc_core.bpf.socket_program`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from tc_core.bpf.packet_program import filters
from tc_core.bpf.socket_program import socket_redirect
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import LEAF_BASE, ROOT_HANDLE, burst, htb_tree, leaf_handle, queue_handle, whole_bytes
from tc_core.compile.packet_rules import PacketRule
from tc_core.compile.queues import fifo_limit, queue_for, require
from tc_core.compile.relay_lane import relayed_rules, with_id, with_relayed
from tc_core.handles import ROOT, Handle
from tc_core.model import INGRESS_HOOK, Cake, OurQdisc, Prio, RedirectFilter, Tbf, TrafficTree
from tc_core.probe.capability import Features
from tc_core.trees import PLAIN_ROOT, IngressTree, Lanes, PlainTree, Tree
from traffic_policy.errors import PolicyError
from traffic_policy.marks import DEFAULT_CLASS_ID, ClassIds, class_mark
from traffic_policy.policy import DEFAULT_CLASS, Bound, Match, ResolvedClass, Shaper, TrafficPolicy, TransportProtocol
from traffic_policy.scope import beyond_packets, needs_names
from traffic_policy.units import Rate

_PRIO: Final = Handle(PLAIN_ROOT.major + 1)
_CEIL_BASE: Final = 0x200
"""Added to the number of a band to make the handle of its token bucket."""
_PRIORITIES: Final = 16
"""TC_PRIO_MAX + 1: packet priorities that a prio qdisc gives a band to."""

_PROTOCOLS: Final[Mapping[TransportProtocol, tuple[int, ...]]] = {
    TransportProtocol.TCP: (6,),
    TransportProtocol.UDP: (17,),
    TransportProtocol.ICMP: (1, 58),
}
"""IP protocol numbers (IANA): ICMP is 1, and 58 in IPv6."""

_ALIAS: Final = "podlane: arrives at"
"""How the alias of our ifbs begins."""
_NAME_SIZE: Final = 15
"""Bytes of an interface's name (IFNAMSIZ of linux/if.h less the final zero)."""


def lanes_of(policy: TrafficPolicy, interface: str, features: Features, ids: ClassIds | None = None) -> Lanes:
    """Compile a checked policy, for sent and received traffic, to trees that classify by packets alone.

    ``ids`` are those in force, to be kept by classes that stay. Raises :class:`PolicyError` for what packets alone
    cannot tell, :class:`MissingFeatureError` for what the kernel cannot do.
    """
    if problems := beyond_packets(policy):
        raise PolicyError(problems)
    names = [c.name for c in policy.classes]
    ids = ClassIds.assign(names) if ids is None else ids.evolve(names)
    return Lanes(compile_packets(policy, features, ids), compile_ingress(policy, interface, features, ids), ids)


def compile_packets(policy: TrafficPolicy, features: Features, ids: ClassIds) -> Tree:
    """The tree for sent traffic. ``ids`` must name every class of the policy.

    Raises :class:`MissingFeatureError` when the kernel lacks something that the policy needs.
    """
    match policy.shaper:
        case Shaper.HTB:
            targets = {name: leaf_handle(ids[name]) for name in ids}
            return _htb(policy, features, ids, packet_rules(policy, targets), mirrored=False)
        case Shaper.TBF:
            return _tbf(policy, features)
        case Shaper.PRIO:
            return _prio(policy, features)
        case Shaper.CAKE:
            require(features.cake)
            cake = Cake(PLAIN_ROOT, ROOT, bandwidth=whole_bytes(policy.total))
            return PlainTree((cake,), names=MappingProxyType({PLAIN_ROOT: DEFAULT_CLASS}))


def compile_ingress(
    policy: TrafficPolicy,
    interface: str,
    features: Features,
    ids: ClassIds,
    *,
    excluded_matches: Iterable[Match] = (),
    ingress_classifier: IngressClassifier = IngressClassifier.SOCKETS,
    silent_ports: Iterable[int] = (),
) -> IngressTree | None:
    """The tree that shapes received traffic of ``interface``; None when the policy does not limit it.

    Where names decide (:func:`traffic_policy.scope.needs_names`), ``ingress_classifier`` tells the class of a packet;
    all others are in that of the first match without names that holds. What is ``excluded_matches`` is in the default
    class. ``silent_ports`` are those that matches by name do not capture unless they say so.

    Raises :class:`MissingFeatureError` when the kernel lacks something that this needs, :class:`PodlaneError` when
    there is no class id left for what is relayed.
    """
    received = policy.received()
    if received is None:
        return None
    paced = ingress_classifier is IngressClassifier.PACING and needs_names(policy)
    if paced:
        received, ids = with_relayed(policy, received), with_id(ids)
    for feature in (features.ifb, features.clsact, features.redirect):
        require(feature)
    # A class that does not limit what it receives still comes first where it is written first.
    rest = leaf_handle(DEFAULT_CLASS_ID)
    limited = {c.name: leaf_handle(ids[c.name]) for c in received.classes}
    redirect = RedirectFilter(INGRESS_HOOK, ifb_name(interface))
    matches: list[tuple[Handle, Match]] = []
    if needs_names(policy) and ingress_classifier is IngressClassifier.CONNMARK:
        require(features.connmark)
        redirect = replace(redirect, connmark=True)
        matches += ((limited.get(name, rest), Match(mark=(class_mark(ids[name]),))) for name in ids)
    matches += ((rest, match) for match in excluded_matches)
    if paced:
        known = relayed_rules(policy, silent_ports)
    else:
        known = ((name, match) for name, match in policy.rules() if not match.needs_content)
    matches += ((limited.get(name, rest), match) for name, match in known)
    rules = [rule for target, match in matches for rule in _arriving(match, target)] if limited else []
    tree = _htb(received, features, ids, rules, mirrored=True)
    if needs_names(policy) and ingress_classifier is IngressClassifier.SOCKETS:
        require(features.sockets)
        redirect = socket_redirect(redirect.device, frozenset(ids[c.name] for c in received.classes))
    return IngressTree(redirect.device, f"{_ALIAS} {interface}", tree, redirect)


def ifb_for(interface: str, tree: TrafficTree) -> IngressTree:
    """A tree that shapes all that arrives at an interface, whose filters are those of the tree itself."""
    device = ifb_name(interface)
    return IngressTree(device, f"{_ALIAS} {interface}", tree, RedirectFilter(INGRESS_HOOK, device))


def arrives_at(alias: str) -> str:
    """The interface of one of our ifbs, by its alias."""
    return alias.removeprefix(_ALIAS).split(maxsplit=1)[0]


def ifb_name(interface: str) -> str:
    """The name of the ifb for what arrives at an interface: ``ifb-eth0``, or a hash where that is too long."""
    name = f"ifb-{interface}"
    if len(name.encode()) <= _NAME_SIZE:
        return name
    return f"ifb-{hashlib.sha256(interface.encode()).hexdigest()[: _NAME_SIZE - 4]}"


def is_our_ifb(alias: str) -> bool:
    """Whether an interface with this alias is one that we made."""
    return alias.startswith(_ALIAS)


def packet_rules(policy: TrafficPolicy, targets: Mapping[str, Handle]) -> list[PacketRule]:
    """The matches of a policy in order, as criteria of packets; ``targets`` has the class handle of each name."""
    return [rule for name, match in policy.rules() for rule in _rules(match, targets[name])]


def _arriving(match: Match, target: Handle) -> Iterator[PacketRule]:
    """The rules of a match for packets seen from the other side, as programs for what arrives see them."""
    rules = tuple(_rules(match, target))
    if match.direction.covers(Bound.OUTBOUND):
        yield from rules
    if match.direction.covers(Bound.INBOUND):
        # Source and destination are those that the packet has, so that here they change sides.
        for rule in rules:
            yield replace(
                rule, source=rule.destination, destination=rule.source, ports=rule.source_ports, source_ports=rule.ports
            )


def _rules(match: Match, target: Handle) -> Iterator[PacketRule]:
    protocols = match.protocol or tuple(p for p in TransportProtocol if match.port and p.has_ports)
    numbers = tuple(number for protocol in protocols for number in _PROTOCOLS[protocol])
    for mark in match.mark or (None,):
        yield PacketRule(target, match.source, match.cidr, numbers, match.port, mark)


def _htb(
    policy: TrafficPolicy, features: Features, ids: ClassIds, rules: Iterable[PacketRule], *, mirrored: bool
) -> TrafficTree:
    features.require_shaping()
    rules = tuple(rules)
    if rules:
        require(features.classic_bpf)
    return htb_tree(policy, features, ids, filters(rules, ROOT_HANDLE, mirrored=mirrored), arriving=mirrored)


def _tbf(policy: TrafficPolicy, features: Features) -> PlainTree:
    require(features.tbf)
    root = _bucket(PLAIN_ROOT, ROOT, policy.total)
    queue = queue_for(policy.resolved()[-1], queue_handle(DEFAULT_CLASS_ID), _below(root), features)
    return PlainTree((root, queue), names=MappingProxyType({PLAIN_ROOT: DEFAULT_CLASS}))


def _prio(policy: TrafficPolicy, features: Features) -> PlainTree:
    require(features.tbf)
    require(features.prio)
    resolved = policy.resolved()
    default = resolved[-1]
    bands = sorted(resolved, key=lambda c: c.priority)  # stable: of equal priorities, the first in the policy is first
    # Two bands are the fewest that there can be.
    count = max(2, len(bands))
    root = _bucket(PLAIN_ROOT, ROOT, policy.total)
    prio = Prio(_PRIO, _below(root), count, (bands.index(default),) * _PRIORITIES)
    qdiscs: list[OurQdisc] = [root, prio]
    for number, band in enumerate(bands, 1):
        qdiscs += _band(band, number, policy, features)
    targets = {band.name: Handle(_PRIO.major, number) for number, band in enumerate(bands, 1)}
    rules = packet_rules(policy, targets)
    if rules:
        require(features.classic_bpf)
    names = {PLAIN_ROOT: "total", **{handle: name for name, handle in targets.items()}}
    return PlainTree(tuple(qdiscs), filters(rules, _PRIO), MappingProxyType(names))


def _band(band: ResolvedClass, number: int, policy: TrafficPolicy, features: Features) -> Iterator[OurQdisc]:
    """What hangs on a band: a token bucket if its class has a ceil, and its queue."""
    parent = Handle(_PRIO.major, number)
    if band.ceil < policy.total:
        bucket = _bucket(Handle(_CEIL_BASE + number), parent, band.ceil)
        yield bucket
        parent = _below(bucket)
    yield queue_for(band, Handle(LEAF_BASE + number), parent, features)


def _bucket(handle: Handle, parent: Handle, rate: Rate) -> Tbf:
    rate = whole_bytes(rate)
    return Tbf(handle, parent, rate, burst(rate), fifo_limit(rate))


def _below(bucket: Tbf) -> Handle:
    """The one class of a token bucket."""
    return Handle(bucket.handle.major, 1)
