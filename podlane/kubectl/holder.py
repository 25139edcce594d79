"""Who holds a Pod to its limits, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from node_agent.sources.pods import SIDECAR, AskedPod, asked
from traffic_policy.cluster.objects import NO_POLICIES, ClusterPolicies
from traffic_policy.pod.annotations import ENFORCE_LABEL, INJECT_LABEL, MODE_LABEL
from traffic_policy.pod.mode import Mode


class HeldBy(StrEnum):
    """Holds a Pod."""

    SIDECAR = "a sidecar"
    AGENT = "its node's agent"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Holder:
    """``reason`` is a sentence. ``asks``: what the Pod asks its agent for."""

    who: HeldBy
    reason: str
    asks: AskedPod | None = None


def holder_of(
    pod: Mapping[str, Any], namespace: Mapping[str, Any], default: Mode, policies: ClusterPolicies = NO_POLICIES
) -> Holder:
    """Who is to hold a Pod, as the API server has it and its Namespace; ``default`` is the mode of its node's agent
    where neither says one, ``policies`` are the cluster's. Whether that agent is there is another question."""
    spec = pod.get("spec", {})
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    if any(each.get("name") == SIDECAR for each in containers):
        return Holder(HeldBy.SIDECAR, f"It has a container {SIDECAR}.")
    asks = asked(pod, namespace, default, policies=policies)
    own, above = _labels(pod), _labels(namespace)
    if asks is not None:
        return Holder(HeldBy.AGENT, _sayer(own, above), asks)
    phase = pod.get("status", {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        return Holder(HeldBy.NOBODY, f"Its processes have ended (phase {phase}).")
    mode = own.get(MODE_LABEL) or above.get(MODE_LABEL) or default
    if mode == Mode.AGENT:
        return Holder(
            HeldBy.NOBODY,
            f"{_sayer(own, above)} But there are no limits: no TrafficPolicy is for it, and neither the Pod nor "
            "its namespace has annotations. Add podlane.io/egress-bandwidth, as in 50M, or a TrafficPolicy.",
        )
    if mode == Mode.SIDECAR or own.get(INJECT_LABEL) == "true" or above.get(INJECT_LABEL) == "enabled":
        return Holder(
            HeldBy.NOBODY,
            "It is to have a sidecar and has none: it is older than that, or the injector was not asked. Create it "
            "again, and look at its controller's Events.",
        )
    if mode == Mode.NONE and MODE_LABEL in {**above, **own}:
        return Holder(HeldBy.NOBODY, _sayer(own, above))
    return Holder(
        HeldBy.NOBODY,
        f"Neither the Pod nor its namespace has the label {MODE_LABEL}, and agents of this node leave such Pods alone. "
        f"Set {MODE_LABEL}=agent.",
    )


def _sayer(own: Mapping[str, str], above: Mapping[str, str]) -> str:
    if above.get(ENFORCE_LABEL) == "true" and above.get(MODE_LABEL) == Mode.AGENT:
        return f"Its namespace has the labels {MODE_LABEL}=agent and {ENFORCE_LABEL}=true."
    if MODE_LABEL in own:
        return f"It has the label {MODE_LABEL}={own[MODE_LABEL]}."
    if MODE_LABEL in above:
        return f"Its namespace has the label {MODE_LABEL}={above[MODE_LABEL]}."
    return "Nothing says a mode, and agents of this node hold such Pods (agent.mode of the chart)."


def _labels(thing: Mapping[str, Any]) -> Mapping[str, str]:
    return thing.get("metadata", {}).get("labels") or {}
