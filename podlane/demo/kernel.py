"""What the running kernel lacks for a part of the demo, found out before anything is made."""

from __future__ import annotations

from typing import Final

from podlane.demo.scenario import Part
from tc_core.compile.ingress_classifier import Teller, best_teller
from tc_core.compile.mark_tree import compile_policy
from tc_core.compile.packet_tree import compile_ingress
from tc_core.errors import MissingFeatureError
from tc_core.probe import features
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy

INTERFACE: Final = "eth0"
"""The Pod's, as in Kubernetes."""


def missing_for(part: Part) -> str | None:
    """Why this kernel cannot hold traffic to the part's policy, and the remedy; None when it can."""
    policy = parse_policy(part.policy_text())
    found = features.probe()
    # The score is read from the kernel's classes, which do not see what the relay itself holds.
    teller = best_teller(found) if found.connmark.available else Teller.SOCKETS
    ids = ClassIds.assign(c.name for c in policy.classes)
    try:
        compile_policy(policy, found, ids)
        compile_ingress(policy, INTERFACE, found, ids, teller=teller)
    except MissingFeatureError as error:
        return str(error)
    return None
