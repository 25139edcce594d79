"""Tallies of all policies, counted again only where something has changed: namespace by namespace. Pure.

A Pod has policies of its own namespace, and those of the cluster. So what there is to count in a namespace depends on
its Pods, its labels, what is reported of these Pods, and these policies; while all that is as it was, so is the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from cluster_operator.pods import ReportedPod, WatchedPod
from cluster_operator.status import PolicyTally, tallies
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the count in a namespace depends on, beside the time."""

    policies: tuple[PolicyObject, ...]
    pods: tuple[WatchedPod, ...]
    labels: Mapping[str, str]
    reports: tuple[ReportedPod | None, ...]


class TallyBook:
    """The last count."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[_Seen, Mapping[str, PolicyTally]]] = {}

    def tallies(
        self,
        policies: Iterable[PolicyObject],
        pods: Iterable[WatchedPod],
        namespaces: Mapping[str, Mapping[str, str]],
        reports: Mapping[str, ReportedPod],
        now: datetime,
    ) -> dict[str, PolicyTally]:
        """As :func:`~cluster_operator.status.tallies`. A policy of a namespace in which nothing has changed has the
        same tally as before, the object itself: leave it as it is."""
        own: dict[str, list[PolicyObject]] = {}
        for policy in policies:
            own.setdefault(policy.namespace, []).append(policy)
        of_cluster = own.pop("", [])
        there: dict[str, list[WatchedPod]] = {}
        for pod in pods:
            there.setdefault(pod.namespace, []).append(pod)
        found = {each.uid: PolicyTally() for each in of_cluster}
        counted = {}
        for name in {**there, **own}:
            mine = there.get(name, ())
            seen = _Seen(
                (*of_cluster, *own.get(name, ())),
                tuple(mine),
                namespaces.get(name, {}),
                tuple(reports.get(pod.uid) for pod in mine),
            )
            counted[name] = (seen, self._of_namespace(name, seen, now))
            for uid, tally in counted[name][1].items():
                if uid in found:
                    _add(found[uid], tally)
                else:
                    found[uid] = tally
        self._counted = counted
        return found

    def _of_namespace(self, name: str, seen: _Seen, now: datetime) -> Mapping[str, PolicyTally]:
        before = self._counted.get(name)
        if before is not None and before[0] == seen and not any(each.waiting for each in before[1].values()):
            return before[1]  # what waits for nothing does not become anything else by time
        reports = {
            pod.uid: report for pod, report in zip(seen.pods, seen.reports, strict=True) if report is not None
        }  # fmt: skip
        return tallies(ClusterPolicies(seen.policies), seen.pods, {name: seen.labels}, reports, now)


def _add(tally: PolicyTally, more: PolicyTally) -> None:
    """Each count of it."""
    for each in fields(PolicyTally):
        setattr(tally, each.name, getattr(tally, each.name) + getattr(more, each.name))
