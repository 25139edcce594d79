"""A separate class on the ifb for the relay's received packets, used where the relay paces its connections itself.

The kernel cannot tell the classes of such packets, and the relay knows nothing of all others. So the ifb holds what is
relayed together to the total, with the guarantees of the classes that names tell apart, and every other packet to its
class. Which connections are relayed, the policy says: those that a match by name could decide, walked in order, with
the name left out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from traffic_policy.errors import PodlaneError
from traffic_policy.marks import DEFAULT_CLASS_ID, ClassIds
from traffic_policy.policy import MIN_RATE, Bound, Match, PortRange, TrafficClass, TrafficPolicy, TransportProtocol
from traffic_policy.units import Rate

RELAYED: Final = "(relayed)"
"""The name of that class. No class of a policy can have it."""
_PORTS: Final = (1, 65535)


def with_relayed(policy: TrafficPolicy, received: TrafficPolicy) -> TrafficPolicy:
    """``received`` (:meth:`TrafficPolicy.received`) with the lane, which has the guarantees of those in it.

    Those classes keep the smallest one for packets that come past the relay.
    """
    within = _told_by_names(policy)
    kept, moved = [], 0
    for c in received.classes:
        rate = c.rate or MIN_RATE
        least = min(rate, MIN_RATE)
        if c.name in within:
            moved += rate.bits_per_second - least.bits_per_second
        kept.append(c.model_copy(update={"rate": least}) if c.name in within else c)
    first = min((c.priority for c in kept if c.name in within), default=received.default.priority)
    lane = TrafficClass.model_construct(
        name=RELAYED, rate=max(MIN_RATE, Rate(moved)), ceil=received.total, priority=first, match=()
    )
    # As it was, also where nothing was written: one per cent of what is left would be another now.
    default = received.default.model_copy(update={"rate": received.default_rate})
    return received.model_copy(update={"classes": (*kept, lane), "default": default})


def with_id(ids: ClassIds) -> ClassIds:
    """The class ids and one for the lane, from the other end. Raises :class:`PodlaneError` when none is left."""
    taken = set(ids.values())
    free = next((i for i in range(DEFAULT_CLASS_ID - 1, 0, -1) if i not in taken), None)
    if free is None:
        raise PodlaneError(
            "Without CAP_BPF one lane is needed for all that is relayed, and the policy has as many classes as there "
            "can be. Merge two of them, or give the process CAP_BPF."
        )
    return ClassIds({**ids, RELAYED: free})


def relayed_rules(policy: TrafficPolicy, silent_ports: Iterable[int]) -> Iterator[tuple[str, Match]]:
    """(class name or :data:`RELAYED`, match without names) in order of precedence.

    Inbound matches first: they speak of other connections, and know their ports. What they leave and an outbound match
    by name without port takes, is taken for relayed, whoever has opened it. ``silent_ports`` are those where such a
    match captures nothing.
    """
    for name, match in policy.rules(Bound.INBOUND):
        if not match.needs_content:
            yield name, match.model_copy(update={"direction": Bound.INBOUND})
        elif match.port:
            yield RELAYED, _nameless(match, Bound.INBOUND, match.port)
    loud = tuple(_other_ports(silent_ports))
    for name, match in policy.rules(Bound.OUTBOUND):
        if match.needs_content:
            yield RELAYED, _nameless(match, Bound.OUTBOUND, match.port or loud)
        else:
            yield name, match.model_copy(update={"direction": Bound.OUTBOUND})


def _told_by_names(policy: TrafficPolicy) -> frozenset[str]:
    """Classes with a match by name, or with one behind it, which the relay has to walk to."""
    found = set()
    names_decide = False
    for name, match in policy.rules():
        names_decide = names_decide or match.needs_content
        if names_decide:
            found.add(name)
    return frozenset(found)


def _nameless(match: Match, direction: Bound, ports: tuple[PortRange, ...]) -> Match:
    return Match.model_construct(
        port=ports, cidr=match.cidr, source=match.source, protocol=(TransportProtocol.TCP,), direction=direction
    )


def _other_ports(ports: Iterable[int]) -> Iterator[PortRange]:
    """All but these."""
    first, last = _PORTS
    for port in sorted(set(ports)):
        if port > first:
            yield PortRange(first, port - 1)
        first = port + 1
    if first <= last:
        yield PortRange(first, last)
