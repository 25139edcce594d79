"""The two ends of a Pod's link at which its lanes can be, and what is where then. Pure.

At the **Pod's end**, its own interface, what it sends leaves by the root qdisc, and what it receives is redirected to
an ifb. At the **node's end** of a veth pair it is the other way round: what the Pod sends arrives there and is
redirected to an ifb, what it receives leaves by the root qdisc.

::

    Pod's end:   root qdisc of eth0      <- what it sends        ifb-eth0    <- what it receives
    node's end:  ifb-veth1234            <- what it sends        veth1234    <- what it receives
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tc_core.apply.plan import ObservedInterface, Step, Steps, plan, plan_arriving
from tc_core.compile.ingress_classifier import IngressClassifier, select_ingress_classifier
from tc_core.compile.mark_tree import compile_policy, htb_tree
from tc_core.compile.packet_tree import ifb_for, ifb_name
from tc_core.diff import removal
from tc_core.model import TrafficTree
from tc_core.probe.capability import Features
from tc_core.trees import IngressTree
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.scope import needs_names


class ShapedEnd(Protocol):
    """One of the two. ``interface`` is always the interface there."""

    def sends_by(self, interface: str) -> str:
        """The device with the tree for what the Pod sends."""

    def receives_by(self, interface: str) -> str:
        """The device with the tree for what the Pod receives."""

    def sending(self, policy: TrafficPolicy, features: Features, ids: ClassIds) -> TrafficTree:
        """The tree for what the Pod sends. Raises :class:`MissingFeatureError`."""

    def classifier(self, policy: TrafficPolicy, features: Features) -> IngressClassifier | None:
        """How received packets find their class where names decide; None where nothing has to be found."""

    def first_steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        """Those before connections have their classes of a new policy. ``sending`` has those of the old one as well."""

    def steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        """All to the wanted state. Raises :class:`ForeignQdiscError`, :class:`ForeignLinkError`."""


@dataclass(frozen=True, slots=True)
class PodEnd:
    """``relays``: whether connections are relayed, so that sockets are marked."""

    relays: bool = True

    def sends_by(self, interface: str) -> str:
        return interface

    def receives_by(self, interface: str) -> str:
        return ifb_name(interface)

    def sending(self, policy: TrafficPolicy, features: Features, ids: ClassIds) -> TrafficTree:
        return compile_policy(policy, features, ids)

    def classifier(self, policy: TrafficPolicy, features: Features) -> IngressClassifier | None:
        return select_ingress_classifier(policy, features, relays=self.relays)

    def first_steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        del receiving  # follows when connections have their classes
        return plan(seen, sending, replace=replace)

    def steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        return (*plan(seen, sending, replace=replace), *plan_arriving(seen, receiving, replace=replace))


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """Programs name the classes (:mod:`datapath.ebpf`); HTB has no filters for marks, which the node has its own of."""

    def sends_by(self, interface: str) -> str:
        return ifb_name(interface)

    def receives_by(self, interface: str) -> str:
        return interface

    def sending(self, policy: TrafficPolicy, features: Features, ids: ClassIds) -> TrafficTree:
        return htb_tree(policy, features, ids, (), arriving=True)

    def classifier(self, policy: TrafficPolicy, features: Features) -> IngressClassifier | None:
        del features
        return IngressClassifier.PROGRAMS if needs_names(policy) else None

    def first_steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        """All: the programs, which come next, name classes of both trees."""
        return self.steps(seen, sending, receiving, replace=replace)

    def steps(
        self, seen: ObservedInterface, sending: TrafficTree, receiving: IngressTree | None, *, replace: bool
    ) -> Steps:
        sent = ifb_for(seen.interface, sending)
        return (*_leaving(seen, receiving, replace), *plan_arriving(seen, sent, replace=replace))


def _leaving(seen: ObservedInterface, receiving: IngressTree | None, replace: bool) -> Iterator[Step]:
    if receiving is not None:
        yield from plan(seen, receiving.tree, replace=replace)
    else:
        yield from ((seen.interface, change) for change in removal(seen.leaving))
