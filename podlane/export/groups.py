"""Which labels tell Pods that have one policy from all others of their namespace. Pure.

A selector is short, so that it reads well, and takes labels that say what a program is before others. Labels that a
controller writes, or that change with each version, are never used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Labels = Mapping[str, str]

_FIRST: Final = (
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "name",
    "app.kubernetes.io/component",
    "component",
    "tier",
    "role",
    "app.kubernetes.io/instance",
)
"""Labels that say what a program is, the best first (https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/)."""
_NEVER: Final = (
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/",
    "apps.kubernetes.io/",
    "batch.kubernetes.io/",
    "job-name",
    "controller-uid",
    "rollouts-pod-template-hash",
    "helm.sh/",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "podlane.io/",
)
"""How labels begin that controllers write, that change with each version, or that say who holds the Pod."""
_MOST_VALUES: Final = 100
"""Values of one condition (traffic_policy.cluster.definitions)."""


@dataclass(frozen=True, slots=True)
class LimitedWorkload:
    """A workload's Pods: their labels, and the policy that they have; None: no limits. ``staying`` are annotations that
    no policy can say."""

    name: str
    labels: Labels
    document: Mapping[str, Any] | None = None
    staying: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadGroup:
    """Workloads with one policy. ``selector`` is a LabelSelector's document: it takes their Pods and no others; None:
    none does, since ``mistaken`` have the same labels."""

    workloads: tuple[LimitedWorkload, ...]
    selector: Mapping[str, Any] | None
    mistaken: tuple[str, ...] = ()

    @property
    def document(self) -> Mapping[str, Any]:
        found = self.workloads[0].document
        assert found is not None
        return found


def grouped(workloads: Iterable[LimitedWorkload]) -> Iterator[WorkloadGroup]:
    """The workloads of one namespace that have limits, by their policies, in the order in which these occur."""
    everyone = tuple(workloads)
    by_policy: dict[str, list[LimitedWorkload]] = {}
    for each in everyone:
        if each.document is not None:
            by_policy.setdefault(json.dumps(each.document, sort_keys=True), []).append(each)
    for mine in by_policy.values():
        others = [each for each in everyone if each.document != mine[0].document]
        if (selector := selector_for([each.labels for each in mine], [each.labels for each in others])) is not None:
            yield WorkloadGroup(tuple(mine), selector)
            continue
        for each in mine:
            alone = selector_for([each.labels], [other.labels for other in others])
            yield WorkloadGroup((each,), alone, () if alone is not None else tuple(_same(each, others)))


def selector_for(mine: Sequence[Labels], others: Sequence[Labels]) -> dict[str, Any] | None:
    """A short selector that takes all of ``mine`` and none of ``others``; None: there is none. Of Pods without labels
    in common, but with nobody else there, it is the empty one."""
    keys = sorted((key for key in mine[0] if _lasts(key) and all(key in each for each in mine)), key=_rank)
    common = {key: mine[0][key] for key in keys if all(each[key] == mine[0][key] for each in mine)}
    left = [each for each in others if _takes(common, each)]
    if common and not left:
        return {"matchLabels": _shortest(common, others)}
    for key in keys:
        values = {each[key] for each in mine}
        if len(values) > _MOST_VALUES or any(each.get(key) in values for each in left):
            continue
        one_of = {"key": key, "operator": "In", "values": sorted(values)}
        outside = [each for each in others if each.get(key) in values]
        kept = _shortest(common, outside) if outside else {}
        return {**({"matchLabels": kept} if kept else {}), "matchExpressions": [one_of]}
    return {} if not others else None


def _shortest(common: Labels, others: Sequence[Labels]) -> dict[str, str]:
    """As few of these labels as keep the others out, one at least."""
    kept = dict(common)
    for key in reversed(tuple(common)):
        fewer = {name: value for name, value in kept.items() if name != key}
        if fewer and not any(_takes(fewer, each) for each in others):
            kept = fewer
    return kept


def _takes(selector: Labels, labels: Labels) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _same(mine: LimitedWorkload, others: Iterable[LimitedWorkload]) -> Iterator[str]:
    lasting = {key: value for key, value in mine.labels.items() if _lasts(key)}
    return (each.name for each in others if _takes(lasting, each.labels))


def _lasts(key: str) -> bool:
    return not key.startswith(_NEVER)


def _rank(key: str) -> tuple[int, str]:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST), key
