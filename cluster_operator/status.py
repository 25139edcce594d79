"""The status of each policy, out of all policies, Pods and reports. Pure.

Conditions follow Kubernetes' conventions (k8s.io/community, api-conventions.md): what is so keeps the time since when
it is so. A Pod that has just been made, or whose agent is at work, is waited for before a policy that was programmed
counts as one that is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cluster_operator.pods import ReportedPod, WatchedPod, labels_for_selectors
from cluster_operator.readiness import readiness
from traffic_policy.cluster.objects import ClusterPolicies, Overruled, PolicyObject
from traffic_policy.cluster.status_schema import LONGEST_REASON, MOST_REASONS
from traffic_policy.errors import shortened
from traffic_policy.pod.annotations import MODE_LABEL

GRACE_S: Final = 15.0
"""Seconds for an agent to find a new Pod, and to follow a change."""
_LONGEST: Final = 1000
"""Characters of a message."""
_NOBODY: Final = (
    f"No agent has reported it. Its namespace, or it, needs the label {MODE_LABEL}=agent, and its node an agent."
)


@dataclass(slots=True)
class PolicyTally:
    """What was found out about one policy."""

    matched: int = 0
    programmed: int = 0
    failed: int = 0
    overruled: int = 0
    waiting: int = 0
    """Those for which it is too early to say."""
    lacking: int = 0
    """Those that nobody holds."""
    reasons: Counter[str] = field(default_factory=Counter)
    conflicts: Counter[str] = field(default_factory=Counter)
    clamped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def tallies(
    policies: ClusterPolicies,
    pods: Iterable[WatchedPod],
    namespaces: Mapping[str, Mapping[str, str]],
    reports: Mapping[str, ReportedPod],
    now: datetime,
) -> dict[str, PolicyTally]:
    """By the UID of a policy. ``namespaces``: labels by name; ``reports``: by the UID of a Pod."""
    found = {each.uid: PolicyTally() for each in policies.all}
    for pod in pods:
        verdict = policies.verdict(labels_for_selectors(pod, namespaces))
        for lost in verdict.overruled:
            _count_overruled(found[lost.policy.uid], lost)
        said = reports.get(pod.uid)
        for each in verdict.capping:
            if not each.document:
                found[each.uid].matched += 1
                found[each.uid].programmed += said is not None and said.state == "programmed"
        if verdict.winner is not None:
            _count(found[verdict.winner.uid], verdict.winner, pod, said, now)
    return found


def _count_overruled(tally: PolicyTally, lost: Overruled) -> None:
    tally.matched += 1
    tally.overruled += 1
    if lost.conflict:
        tally.conflicts[str(lost)] += 1


def _count(tally: PolicyTally, policy: PolicyObject, pod: WatchedPod, said: ReportedPod | None, now: datetime) -> None:
    tally.matched += 1
    if pod.own_policy:
        tally.overruled += 1
        return
    if said is not None and said.policy == policy.uid and said.generation == policy.generation:
        if said.clamped:
            tally.clamped[said.clamped] += 1
        if said.others:
            tally.others[said.others] += 1
        if said.state == "programmed":
            tally.programmed += 1
            return
        if said.state == "failed":
            tally.failed += 1
            tally.reasons[said.reason] += 1
            return
    if pod.obstacle:
        tally.lacking += 1
        tally.reasons[pod.obstacle] += 1
    elif not pod.placed or _young(pod.created, now) or said is not None:
        tally.waiting += 1
    else:
        tally.lacking += 1
        tally.reasons[_NOBODY] += 1


def _young(created: str, now: datetime) -> bool:
    try:
        return (now - datetime.fromisoformat(created)).total_seconds() < GRACE_S
    except ValueError:
        return False


def status_of(
    policy: PolicyObject, tally: PolicyTally, problem: str, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The status that a policy is to have; ``problem`` is what is wrong with it, ``before`` is the status that
    it has."""
    conditions = {each.get("type"): each for each in before.get("conditions") or () if isinstance(each, Mapping)}
    made = []
    for kind, (so, reason, message) in _conditions(policy, tally, problem, conditions).items():
        old = conditions.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == so else None
        made.append(
            {
                "type": kind,
                "status": so,
                "reason": reason,
                "message": shortened(message, _LONGEST),
                "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "observedGeneration": policy.generation,
            }
        )
    reasons = [
        {"reason": shortened(text, LONGEST_REASON), "pods": pods}
        for text, pods in tally.reasons.most_common(MOST_REASONS)
    ]
    return {
        "observedGeneration": policy.generation,
        "classes": ", ".join(_class_names(policy)),
        "pods": {
            "matched": tally.matched,
            "programmed": tally.programmed,
            "failed": tally.failed,
            "overruled": tally.overruled,
        },
        "reasons": reasons,
        "conditions": made,
    }


def differs(status: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a status says anything else than the one that there is; what others have added to that does not count."""
    there = {each.get("type"): each for each in before.get("conditions") or () if isinstance(each, Mapping)}
    return any(there.get(each["type"]) != each for each in status["conditions"]) or any(
        before.get(key) != value for key, value in status.items() if key != "conditions"
    )


def _conditions(
    policy: PolicyObject, tally: PolicyTally, problem: str, before: Mapping[Any, Mapping[str, Any]]
) -> dict[str, tuple[str, str, str]]:
    """Type -> status, reason, message."""
    accepted = ("False", "Invalid", problem) if problem else ("True", "Accepted", "It can be honoured.")
    programmed = _programmed(policy, tally, problem, before.get("Programmed", {}))
    return {
        "Accepted": accepted,
        "Programmed": programmed,
        "Conflicted": _told(tally.conflicts, "Overruled", "NoConflict", "No other policy of its kind wins over it."),
        "Clamped": _told(tally.clamped, "Capped", "NotCapped", "No caps lower it."),
        "OtherLimits": _told(tally.others, "HeldByOthers", "NoneSeen", "Nothing else is seen that holds its Pods."),
        **readiness(accepted, programmed),
    }


def _programmed(
    policy: PolicyObject, tally: PolicyTally, problem: str, before: Mapping[str, Any]
) -> tuple[str, str, str]:
    if not policy.document and not problem:
        return "True", "Caps", f"Its caps count for {_pods(tally.matched)}, as far as these have a policy."
    wanted = tally.matched - tally.overruled
    text = f"In force in {tally.programmed} of {_pods(wanted)}."
    if tally.failed or tally.lacking or problem:
        why = " ".join(f"{_pods(pods)}: {text}" for text, pods in tally.reasons.most_common(1))
        return "False", "Failed" if tally.failed or problem else "NotHeld", f"{text} {why}".strip()
    if tally.waiting:
        same = before.get("observedGeneration") == policy.generation
        if same and before.get("status") == "True":
            return "True", "Programmed", text
        return "False", "Pending", text
    if not wanted:
        if tally.matched:
            return "True", "Overruled", f"All its Pods have another policy: {_pods(tally.matched)}."
        return "True", "NoPods", "There is no Pod that it is for."
    return "True", "Programmed", text


def _told(found: Counter[str], reason: str, otherwise: str, text: str) -> tuple[str, str, str]:
    if not found:
        return "False", otherwise, text
    return "True", reason, " ".join(f"In {_pods(pods)}: {each}" for each, pods in found.most_common(MOST_REASONS))


def _pods(number: int) -> str:
    return f"{number} Pod" if number == 1 else f"{number} Pods"


def _class_names(policy: PolicyObject) -> Iterator[str]:
    classes = policy.document.get("classes")
    for each in classes if isinstance(classes, list) else ():
        if isinstance(each, Mapping):
            yield str(each.get("name", ""))
