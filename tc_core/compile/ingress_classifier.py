"""Selects how received packets find their class where names decide, which the packets do not contain."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tc_core.probe.capability import Features
from traffic_policy.policy import TrafficPolicy
from traffic_policy.scope import needs_names


class IngressClassifier(StrEnum):
    """The ways, best first."""

    SOCKETS = "sockets"
    """By the receiving socket, which the relay has marked (:mod:`tc_core.bpf.socket_program`)."""
    CONNMARK = "connmark"
    """By the connection's mark, set by the relay or the classifier and saved by rules."""
    PROGRAMS = "programs"
    """By the programs of ``datapath: ebpf`` at the node's end of a link, which know what they have decided."""
    PACING = "pacing"
    """Not at all: the relay limits its connections by reading more slowly, and the kernel limits all others."""


INGRESS_CLASSIFIERS: Final[Mapping[IngressClassifier, str]] = MappingProxyType(
    {
        IngressClassifier.SOCKETS: "by the socket that waits for it, which the relay has marked and a program looks up",
        IngressClassifier.CONNMARK: "by the mark of its connection",
        IngressClassifier.PROGRAMS: "by the program that has decided about its connection",
        IngressClassifier.PACING: (
            "not by its packets: the relay holds the connections that it relays itself, by reading no faster, and the "
            "kernel holds them together to the total"
        ),
    }
)
"""How each of them finds the class of what arrives, in words."""


def select_ingress_classifier(
    policy: TrafficPolicy, features: Features, *, relays: bool = True
) -> IngressClassifier | None:
    """The best way that there is for a policy; None where ports and networks tell, or nothing is limited.

    ``relays``: whether a relay has the connections. Without one (stepping aside) there are neither its sockets nor its
    reads: then it is the connection's mark, also where :func:`tc_core.compile.packet_tree.compile_ingress` will refuse
    that.
    """
    return best_ingress_classifier(features, relays=relays) if needs_names(policy) else None


def best_ingress_classifier(features: Features, *, relays: bool = True) -> IngressClassifier:
    """The best way for policies that need one; see :func:`select_ingress_classifier`."""
    if not relays:
        return IngressClassifier.CONNMARK
    if features.sockets.available:
        return IngressClassifier.SOCKETS
    return IngressClassifier.CONNMARK if features.connmark.available else IngressClassifier.PACING
