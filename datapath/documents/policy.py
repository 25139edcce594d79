"""The document of ``/policy``, from the sidecar's state. Pure.

It is requested rarely, and its words take a while to import, so the admin server imports this module on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from daemon.documents.policy import (
    EffectiveClass,
    EffectivePolicy,
    Limits,
    MatchFound,
    ReceivedLimits,
    ReceivedTotal,
)
from datapath.download_limits import ReceiveLimits
from datapath.explain.policy import ClassWords, explain_policy
from datapath.netfilter.ruleset import CaptureSettings
from tc_core.compile.ingress_classifier import INGRESS_CLASSIFIERS, IngressClassifier
from tc_core.compile.mark_tree import leaf_handle
from tc_core.handles import Handle
from tc_core.model import HtbClass
from traffic_policy.marks import ClassIds, class_mark
from traffic_policy.policy import DEFAULT_CLASS, Match, ResolvedClass, TrafficPolicy
from traffic_policy.settings import Datapath
from traffic_policy.units import Rate

BY_KERNEL_RULE: Final = "kernel rule"
BY_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Arriving:
    """Received traffic in ``/policy``, in addition to the policy: the ifb's current classes, and how each is limited.

    ``limits`` are those of the relay; None: it has none.
    """

    kernel: Mapping[Handle, HtbClass] = field(default_factory=dict)
    ingress_classifier: IngressClassifier | None = None
    limits: ReceiveLimits | None = None


def policy_document(
    interface: str,
    source: Mapping[str, str],
    policy: TrafficPolicy,
    ids: ClassIds,
    kernel: Mapping[Handle, HtbClass],
    settings: CaptureSettings,
    arriving: Arriving | None = None,
) -> EffectivePolicy:
    """The policy in force, and for each class its matches, its limits as configured and in the kernel, and the reasons.

    ``source`` names the policy's files; ``kernel`` are the interface's current classes.
    """
    explanation = explain_policy(policy, settings)
    words = {each.name: each for each in explanation.classes}
    arriving = arriving or Arriving()
    limits = received.resolved() if (received := policy.received()) is not None else ()
    arrives = {each.name: _arriving(each, ids[each.name], arriving) for each in limits}
    return EffectivePolicy(
        interface=interface,
        datapath=settings.datapath.value,
        source=dict(source),
        summary=explanation.headline,
        policy=policy.to_document(),
        classes=tuple(
            _effective(each, words[each.name], ids[each.name], kernel, settings.datapath, explanation.rest, arrives)
            for each in policy.resolved()
        ),
        received=None if received is None else _received_in_all(received, arriving),
        sharing=explanation.sharing,
        captured=explanation.captured,
        recommended_datapath=explanation.datapath,
        notes=tuple(explanation.notes),
    )


def _effective(
    resolved: ResolvedClass,
    words: ClassWords,
    class_id: int,
    kernel: Mapping[Handle, HtbClass],
    datapath: Datapath,
    rest: str,
    arrives: Mapping[str, ReceivedLimits],
) -> EffectiveClass:
    handle = leaf_handle(class_id)
    is_default = resolved.name == DEFAULT_CLASS
    found_by = [_found_by(match, datapath) for match in resolved.match]
    return EffectiveClass(
        name=resolved.name,
        id=class_id,
        handle=str(handle),
        mark=str(class_mark(class_id)),
        found_by=(BY_DEFAULT,) if is_default else tuple(dict.fromkeys(found_by)),
        matches=tuple(
            MatchFound(match.model_dump(mode="json", exclude_defaults=True), traffic.traffic, found)
            for match, traffic, found in zip(resolved.match, words.matches, found_by, strict=True)
        ),
        asked=_limits(resolved.rate, resolved.ceil, resolved.priority),
        in_force=_in_force(kernel.get(handle)),
        reason=f"{resolved.name} {words.sentence}",
        notes=(*words.details, *((rest,) if is_default else ())),
        received=arrives.get(resolved.name),
    )


def _received_in_all(received: TrafficPolicy, arriving: Arriving) -> ReceivedTotal:
    ingress_classifier = arriving.ingress_classifier
    return ReceivedTotal(
        str(received.total),
        ingress_classifier,
        None if ingress_classifier is None else INGRESS_CLASSIFIERS[ingress_classifier],
    )


def _arriving(resolved: ResolvedClass, class_id: int, arriving: Arriving) -> ReceivedLimits:
    """Limits of a class for received traffic: as configured, in the kernel, and in the relay."""
    lanes = arriving.limits.lanes if arriving.limits is not None else ()
    rate = Rate.from_bytes_per_second
    lane = next((each for each in lanes if each.class_id == class_id), None)
    return ReceivedLimits(
        asked=_limits(resolved.rate, resolved.ceil, resolved.priority),
        in_force=_in_force(arriving.kernel.get(leaf_handle(class_id))),
        in_relay=None if lane is None else _limits(rate(lane.rate), rate(lane.ceil), lane.priority),
    )


def _in_force(there: HtbClass | None) -> Limits | None:
    return None if there is None else _limits(there.rate, there.ceil, there.prio)


def _found_by(match: Match, datapath: Datapath) -> str:
    return datapath.value if match.needs_content else BY_KERNEL_RULE


def _limits(rate: Rate, ceil: Rate, priority: int) -> Limits:
    return Limits(str(rate), str(ceil), priority)
