"""Keeps what policies of the cluster say on each Pod with a sidecar, and tells which Pods have it.

A sidecar asks no API server: it follows the annotation :data:`~traffic_policy.pod.annotations.EFFECTIVE` of its Pod. It
is written where it differs, by one request for a Pod, and some a second at most: each has a kubelet look at the Pod.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import trio

from cluster_operator.pods import ReportedPod, SidecarState, WatchedPod, labels_for_selectors
from daemon.kubernetes.api import ApiServer, pod
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject
from traffic_policy.cluster.status_schema import LONGEST_REASON
from traffic_policy.errors import shortened
from traffic_policy.pod.annotations import EFFECTIVE
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.governed import Governance, governed
from traffic_policy.pod.namespace import NamespaceRules

_SPACING_S: Final = 0.02
"""Seconds between two requests."""
_AGAIN_S: Final = 10.0
"""Seconds before the same is written to a Pod again: the API server tells of a change a little later."""
_RETRY_S: Final = 3.0
"""Seconds before what has failed is tried again: an injector may refuse what it does not know to be true yet."""
_PATIENCE_S: Final = 30.0
"""Seconds for which it may fail before the Pod counts as failed."""
_REMEMBERED: Final = 1024

log_some = Logger(spacing=10.0)


@dataclass(frozen=True, slots=True)
class WatchedNamespace:
    """The labels of one, and the annotations in which it says what Pods may have at most."""

    labels: Mapping[str, str]
    maxima: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SidecarVerdict:
    """``wanted``: what the annotation of a Pod is to say instead of what is there; None: nothing else."""

    report: ReportedPod
    wanted: str | None


def judged(
    found: WatchedPod, sidecar: SidecarState, policies: ClusterPolicies, namespace: WatchedNamespace
) -> SidecarVerdict:
    """What is known of a Pod with a sidecar, and what it is to have. Pure.

    It counts as programmed when its annotation is current and its container ready: that its kubelet has brought the
    change into the Pod by now, nobody tells. What the sidecar will refuse is found out here, by the same function. It
    is written all the same: the sidecar keeps what it has in force, and what somebody else wrote must not stay.
    """
    verdict = policies.verdict(labels_for_selectors(found, {found.namespace: namespace.labels}))
    won = verdict.winner
    about = ("", 0) if won is None else (won.uid, won.generation)
    try:
        rules = NamespaceRules.from_annotations(namespace.maxima)
        text = Governance.from_verdict(verdict, rules).text()
    except AnnotationsError as error:
        return SidecarVerdict(ReportedPod(*about, "failed", _line(str(error)), ""), None)
    current = sidecar.annotations[EFFECTIVE] == text
    wanted, clamped, others = None if current else text, "", ""
    if not found.own_policy:
        try:
            clamped, others = _remarks(tuple(sorted({**sidecar.annotations, EFFECTIVE: text}.items())))
        except AnnotationsError as error:
            return SidecarVerdict(ReportedPod(*about, "failed", _line(str(error)), ""), wanted)
    state = "programmed" if current and sidecar.ready else "waiting"
    return SidecarVerdict(ReportedPod(*about, state, "", _line(clamped), _line(others)), wanted)


@lru_cache(maxsize=_REMEMBERED)
def _remarks(annotations: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """What caps lower or is not kept there, and what else may hold the Pod. Raises :class:`AnnotationsError` for what
    the sidecar will refuse."""
    policy = governed(dict(annotations))
    return " ".join((*map(str, policy.clamps), *policy.unkept)), " ".join(policy.neighbours)


def _line(text: str) -> str:
    return shortened(" ".join(text.split()), LONGEST_REASON)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a verdict was made of, beside the policies."""

    pod: WatchedPod
    namespace: WatchedNamespace
    verdict: SidecarVerdict


class _ByNamespace:
    """All policies of a cluster, by namespace: a change concerns the Pods of one, or all."""

    def __init__(self, policies: Iterable[PolicyObject]) -> None:
        self._found: dict[str, list[PolicyObject]] = {}
        for each in policies:
            self._found.setdefault(each.namespace, []).append(each)
        self._made: dict[str, ClusterPolicies] = {}

    def found_in(self, name: str) -> tuple[list[PolicyObject], list[PolicyObject]]:
        """Those of the cluster, and those of the namespace."""
        return self._found.get("", []), self._found.get(name, [])

    def policies(self, name: str) -> ClusterPolicies:
        """All that may be for Pods of the namespace."""
        if name not in self._made:
            everywhere, own = self.found_in(name)
            self._made[name] = ClusterPolicies((*everywhere, *own))
        return self._made[name]


class SidecarKeeper:
    """Of all Pods of a cluster."""

    def __init__(self, api: ApiServer, now: Callable[[], float] = trio.current_time) -> None:
        """``now`` is a clock in seconds that never goes back."""
        self._api = api
        self._now = now
        self._policies = _ByNamespace(())
        self._known: dict[str, _Known] = {}
        self._due = trio.Event()
        self._written: dict[str, tuple[str, float]] = {}
        """By the UID of a Pod: what was written last, or tried, and when that may be done again."""
        self._failures: dict[str, tuple[float, str]] = {}
        """By the UID of a Pod: since when attempts have failed, and why the last one did."""

    def look(
        self, policies: Iterable[PolicyObject], pods: Iterable[WatchedPod], namespaces: Mapping[str, WatchedNamespace]
    ) -> dict[str, ReportedPod]:
        """What there is to say of Pods with sidecars, by UID, as an agent reports its Pods. What is to be written is
        left to :meth:`run`."""
        now = _ByNamespace(policies)
        same = cache(lambda name: now.found_in(name) == self._policies.found_in(name))
        before, known = self._known, {}
        for each in pods:
            if each.sidecar is None:
                continue
            namespace = namespaces.get(each.namespace, WatchedNamespace({}, {}))
            old = before.get(each.uid)
            if old is None or (old.pod, old.namespace) != (each, namespace) or not same(each.namespace):
                old = _Known(each, namespace, judged(each, each.sidecar, now.policies(each.namespace), namespace))
            known[each.uid] = old
        self._policies, self._known = now, known
        self._written = {uid: wrote for uid, wrote in self._written.items() if uid in self._known}
        wanting = {uid for uid, known in self._known.items() if known.verdict.wanted is not None}
        self._failures = {uid: why for uid, why in self._failures.items() if uid in wanting}
        if wanting:
            self._due.set()
        return {uid: self._report(uid, known.verdict.report) for uid, known in self._known.items()}

    def _report(self, uid: str, report: ReportedPod) -> ReportedPod:
        since, failure = self._failures.get(uid, (math.inf, ""))
        if report.state == "failed" or self._now() < since + _PATIENCE_S:
            return report
        return ReportedPod(report.policy, report.generation, "failed", failure, report.clamped, report.others)

    async def run(self) -> None:
        """Write what is to be written, until cancelled."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            for uid in list(self._known):
                # What was found out meanwhile counts.
                known = self._known.get(uid)
                if known is None or (wanted := known.verdict.wanted) is None or not self._is_due(uid, wanted):
                    continue
                pause = _AGAIN_S if await self._write(known.pod, wanted) else _RETRY_S
                self._written[uid] = wanted, self._now() + pause
                await trio.sleep(_SPACING_S)

    def _is_due(self, uid: str, wanted: str) -> bool:
        text, again = self._written.get(uid, ("", 0.0))
        return text != wanted or self._now() >= again

    async def _write(self, found: WatchedPod, wanted: str) -> bool:
        """Whether that is done with."""
        assert found.sidecar is not None
        # With its UID, so that another Pod of its name is not meant.
        change = {"metadata": {"uid": found.uid, "annotations": {EFFECTIVE: wanted}}}
        try:
            await self._api.patch(pod(found.namespace, found.sidecar.pod), change)
        except NotFoundError:
            return True
        except ApiError as error:
            since, _ = self._failures.get(found.uid, (self._now(), ""))
            self._failures[found.uid] = since, _line(f"Its sidecar cannot be told. {error}")
            log_some.warning("a sidecar cannot be told its policy", namespace=found.namespace, pod=found.sidecar.pod,
                             error=str(error))  # fmt: skip
            return False
        self._failures.pop(found.uid, None)
        return True
