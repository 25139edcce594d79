"""Checks that this machine can run a part of the demo, before anything is created."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Final

from datapath.stepaside.features import probe
from podlane.demo.scenario import Client, Part
from tc_core.compile.ingress_classifier import IngressClassifier, best_ingress_classifier
from tc_core.compile.mark_tree import compile_policy
from tc_core.compile.packet_tree import compile_ingress
from tc_core.errors import MissingFeatureError
from tc_core.probe import features
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

INTERFACE: Final = "eth0"
"""The Pod's, as in Kubernetes."""


def missing_for(part: Part) -> str | None:
    """Why this kernel cannot hold traffic to the part's policy, and the remedy; None when it can."""
    return missing_for_policies(part.policies_by_pod().values(), by_agent=bool(part.pods))


def missing_for_policies(policies: Iterable[TrafficPolicy], *, by_agent: bool) -> str | None:
    """The same for policies, which a node agent, or a sidecar, puts in force."""
    for policy in policies:
        if why := _missing(policy):
            return why
    aside = probe()
    return None if aside.available or not by_agent else f"{aside.reason} {aside.remedy}"


def _missing(policy: TrafficPolicy) -> str | None:
    found = features.probe()
    # The score is read from the kernel's classes, which do not see what the relay itself holds.
    ingress_classifier = best_ingress_classifier(found) if found.connmark.available else IngressClassifier.SOCKETS
    ids = ClassIds.assign(c.name for c in policy.classes)
    try:
        compile_policy(policy, found, ids)
        compile_ingress(policy, INTERFACE, found, ids, ingress_classifier=ingress_classifier)
    except MissingFeatureError as error:
        return str(error)
    return None


def quic_lanes(part: Part) -> tuple[str, ...]:
    """The lanes of a part whose programs speak QUIC."""
    return tuple(lane.name for lane in part.lanes if lane.client is Client.QUIC)


def quic_missing() -> str | None:
    """Why QUIC cannot be shown here, and the remedy; None when it can."""
    if importlib.util.find_spec("aioquic") is None:
        return "aioquic is not installed. To have it: pip install 'podlane[demo]'"
    # With either datapath the classifier finds QUIC by what stepping aside is made of.
    found = probe()
    return None if found.available else f"{found.reason} {found.remedy}"
