"""TrafficPolicy and ClusterTrafficPolicy objects, as the API server has them, and which of them a Pod has. Pure.

From the weakest to the strongest, by what is nearer to the Pod: ClusterTrafficPolicies, TrafficPolicies of its
namespace, its annotations. Of several of one kind that with the greatest ``priority`` wins, then the one whose
selectors have more conditions, then the older one, then the one whose name sorts first. The winner is the Pod's whole
policy, over which annotations go as over a shared one (:mod:`traffic_policy.pod.composition`). Caps are no policy: all
of them that are for the Pod count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from traffic_policy.cluster.caps import CapsOf
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.label_selector import LabelSelector
from traffic_policy.cluster.target import ClusterPolicyTarget, MeshConfiguration, PolicyTarget
from traffic_policy.pod.composition import BasePolicy

_TARGET: Final = ("podSelector", "namespaceSelector", "priority", "caps", "mesh")


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """One object. ``namespace`` is empty for one of the cluster, ``created`` is RFC 3339.

    ``target`` None: it cannot be read, is for no Pod, and ``problem`` says why. ``document`` is the policy; empty: it
    has caps alone.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    target: PolicyTarget | ClusterPolicyTarget | None
    document: Mapping[str, Any]
    problem: str = ""

    @classmethod
    def from_object(cls, kind: str, found: Mapping[str, Any]) -> PolicyObject:
        """``found`` is as the API server has it."""
        about, spec = _mapping(found.get("metadata")), _mapping(found.get("spec"))
        model = PolicyTarget if kind == TRAFFIC_POLICY else ClusterPolicyTarget
        target, problem = None, ""
        try:
            target = model.model_validate({key: spec[key] for key in _TARGET if key in spec})
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            problem = f"spec.{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}."
        generation = about.get("generation")
        return cls(
            kind,
            str(about.get("namespace") or ""),
            str(about.get("name") or ""),
            str(about.get("uid") or ""),
            generation if isinstance(generation, int) else 0,
            str(about.get("creationTimestamp") or ""),
            target,
            {key: value for key, value in spec.items() if key not in _TARGET},
            problem,
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def namespace_selector(self) -> LabelSelector:
        """Which namespaces it is for, where it is one of the cluster."""
        return self.target.namespace_selector if isinstance(self.target, ClusterPolicyTarget) else LabelSelector()

    @property
    def conditions(self) -> int:
        """How many its selectors have."""
        return 0 if self.target is None else self.target.pod_selector.conditions + self.namespace_selector.conditions

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Those that a Pod must have, of the conditions that its selector has."""
        return () if self.target is None else tuple(self.target.pod_selector.match_labels.items())

    @property
    def caps(self) -> CapsOf | None:
        """The most that its Pods may have; None: anything."""
        caps = self.target.caps if isinstance(self.target, ClusterPolicyTarget) else None
        return None if caps is None else CapsOf(str(self), caps)

    @property
    def mesh(self) -> MeshConfiguration | None:
        """By what a mesh's own proxy learns of it; None: by nothing."""
        return None if self.target is None else self.target.mesh

    def is_for(self, pod: PodLabels) -> bool:
        """Whether its selectors take the Pod."""
        if self.target is None or self.namespace not in ("", pod.namespace):
            return False
        return self.namespace_selector.selects(pod.namespace_labels) and self.target.pod_selector.selects(pod.labels)

    def better_than(self, other: PolicyObject) -> str:
        """Why it wins over one of its kind, as the end of a sentence; empty: it does not."""
        mine, theirs = self._priority, other._priority
        if mine != theirs:
            return f"has the greater priority ({mine} against {theirs})" if mine > theirs else ""
        if self.conditions != other.conditions:
            more = f"has the more specific selector ({_conditions(self.conditions)} against {other.conditions})"
            return more if self.conditions > other.conditions else ""
        if self.created != other.created:
            return "is older" if self.created < other.created else ""
        return "has the name that sorts first, both being as old" if self.name < other.name else ""

    @property
    def _priority(self) -> int:
        return 0 if self.target is None else self.target.priority


def _conditions(number: int) -> str:
    return f"{number} condition" if number == 1 else f"{number} conditions"


@dataclass(frozen=True, slots=True)
class PodLabels:
    """What selectors look at."""

    namespace: str
    namespace_labels: Mapping[str, str]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Overruled:
    """A policy that is for a Pod, which has another. ``conflict``: both are of one kind, so that only ``reason`` says
    which."""

    policy: PolicyObject
    by: PolicyObject
    reason: str
    conflict: bool

    def __str__(self) -> str:
        return f"{self.by} {self.reason}."


@dataclass(frozen=True, slots=True)
class PolicyVerdict:
    """Which policy a Pod has; None: no object is for it. ``capping`` are those whose caps count for it."""

    winner: PolicyObject | None = None
    overruled: tuple[Overruled, ...] = ()
    capping: tuple[PolicyObject, ...] = ()

    @property
    def base(self) -> BasePolicy | None:
        """The winner's policy, for annotations to go over."""
        return None if self.winner is None else BasePolicy(self.winner.document, str(self.winner))

    @property
    def caps(self) -> tuple[CapsOf, ...]:
        return tuple(each.caps for each in self.capping if each.caps is not None)


NO_VERDICT: Final = PolicyVerdict()


def who_wins(policies: Iterable[PolicyObject], pod: PodLabels) -> PolicyVerdict:
    """Which of these policies a Pod has, why the others do not count, and whose caps do."""
    mine = [each for each in policies if each.is_for(pod)]
    capping = sorted((each for each in mine if each.caps is not None), key=lambda each: each.name)
    winner: PolicyObject | None = None
    overruled: list[Overruled] = []
    for kind in (TRAFFIC_POLICY, CLUSTER_TRAFFIC_POLICY):
        of_kind = [each for each in mine if each.kind == kind and each.document]
        if not of_kind:
            continue
        first = of_kind[0]
        for each in of_kind[1:]:
            first = each if each.better_than(first) else first
        overruled += (Overruled(each, first, first.better_than(each), True) for each in of_kind if each is not first)
        if winner is None:
            winner = first
        else:
            overruled.append(Overruled(first, winner, "is nearer to the Pod", False))
    return PolicyVerdict(winner, tuple(overruled), tuple(capping))


class ClusterPolicies:
    """All policies of a cluster, by namespace, and by a label that they ask for: of a thousand policies a Pod meets
    few."""

    def __init__(self, policies: Iterable[PolicyObject]) -> None:
        self.all = tuple(policies)
        asked = Counter(label for each in self.all for label in each.labels)
        self._by_label: dict[tuple[str, tuple[str, str] | None], list[PolicyObject]] = {}
        for each in self.all:
            rarest = min(each.labels, key=lambda label: asked[label], default=None)
            self._by_label.setdefault((each.namespace, rarest), []).append(each)

    def verdict(self, pod: PodLabels) -> PolicyVerdict:
        """As :func:`who_wins`."""
        labels = (None, *pod.labels.items())
        places = ((namespace, label) for namespace in ("", pod.namespace) for label in labels)
        return who_wins((each for place in places for each in self._by_label.get(place, ())), pod)


NO_POLICIES: Final = ClusterPolicies(())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
