"""Writes the status of policies, and Events about it, as long as this operator leads.

All is computed again after a change, at most twice a second, and from time to time. A status is written when it differs
from what the API server has: that is one request for each policy whose status changes, and none for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from cluster_operator.pods import ReportedPod, WatchedPod, needed_of_pod, reported_pods, watched_pod
from cluster_operator.status import differs, status_of, tallies
from daemon.kubernetes.api import (
    ApiServer,
    all_namespaces,
    all_pods,
    policies_of_cluster,
    policy_status,
    traffic_reports,
)
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.kubernetes.event_series import Happening, Owner, event_message
from daemon.kubernetes.events import EventWriter
from daemon.kubernetes.reflector import Objects, follow
from daemon.log import Logger
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import API_VERSION, KINDS
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject

_SPACING_S: Final = 0.5
_LOOK_S: Final = 5.0
"""Seconds between two computations without a change: new Pods get older."""
_CLUSTER_EVENTS: Final = "default"
"""The namespace of Events on objects that have none."""
_TOLD: Final = {("Accepted", "False"), ("Programmed", "True"), ("Conflicted", "True"), ("Clamped", "True")}
"""What is told by an Event when it becomes so."""

log_some = Logger(spacing=10.0)


@dataclass(slots=True)
class ClusterView:
    """What the operator knows; None: it does not know yet."""

    policies: dict[str, Objects] = field(default_factory=dict)
    pods: tuple[WatchedPod, ...] | None = None
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    reports: Mapping[str, ReportedPod] | None = None

    @property
    def whole(self) -> bool:
        """Whether everything was read once."""
        known = (self.pods, self.namespaces, self.reports)
        return len(self.policies) == len(KINDS) and all(each is not None for each in known)


class StatusWriter:
    """Follows a cluster."""

    def __init__(self, api: ApiServer, events: EventWriter) -> None:
        self._api = api
        self._events = events
        self._problems: dict[tuple[str, int], str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        view, changed = ClusterView(), _Stirred()
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                nursery.start_soon(self._follow, policies_of_cluster(kind), partial(_saw_policies, view, kind), changed)
            nursery.start_soon(self._follow, all_pods(), partial(_saw_pods, view), changed, needed_of_pod)
            nursery.start_soon(self._follow, all_namespaces(), partial(_saw_namespaces, view), changed, _needed_labels)
            nursery.start_soon(self._follow, traffic_reports(), partial(_saw_reports, view), changed)
            while True:
                with trio.move_on_after(_LOOK_S):
                    await changed.wait()
                if view.whole:
                    await self._write(view)
                await trio.sleep(_SPACING_S)

    async def _follow(self, collection: Any, saw: Any, changed: _Stirred, needed: Any = lambda whole: whole) -> None:
        def seen(objects: Objects) -> None:
            saw(objects)
            changed.stir()

        await follow(self._api, collection, seen, needed, defined=False)

    async def _write(self, view: ClusterView) -> None:
        assert view.pods is not None
        assert view.namespaces is not None
        assert view.reports is not None
        now = datetime.now(UTC)
        found = [
            (PolicyObject.from_object(kind, each), each.get("status") or {})
            for kind in KINDS
            for each in view.policies[kind].values()
        ]
        policies = ClusterPolicies(policy for policy, _ in found)
        counted = tallies(policies, view.pods, view.namespaces, view.reports, now)
        self._problems = {key: self._problem(policy) for policy, _ in found if (key := (policy.uid, policy.generation))}
        for policy, before in found:
            problem = self._problems[policy.uid, policy.generation]
            status = status_of(policy, counted[policy.uid], problem, before, now)
            if differs(status, before):
                await self._write_one(policy, before, status)

    def _problem(self, policy: PolicyObject) -> str:
        known = self._problems.get((policy.uid, policy.generation))
        return " ".join(map(str, faults(policy))) if known is None else known

    async def _write_one(self, policy: PolicyObject, before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        about = {"name": policy.name, **({"namespace": policy.namespace} if policy.namespace else {})}
        # With its UID, so that a policy that was deleted meanwhile is not made again.
        document = {"apiVersion": API_VERSION, "kind": policy.kind, "metadata": {**about, "uid": policy.uid}}
        place = policy_status(policy.kind, policy.namespace, policy.name)
        try:
            await self._api.apply(place, {**document, "status": status}, force=True)
        except NotFoundError:
            return
        except ApiError as error:
            log_some.warning("the status of a policy cannot be written", policy=str(policy), error=str(error))
            return
        for happening in happenings(policy, before, status):
            self._events.add(happening)


def happenings(policy: PolicyObject, before: Mapping[str, Any], status: Mapping[str, Any]) -> list[Happening]:
    """The Events for what has become so by a new status."""
    old = {each.get("type"): (each.get("status"), each.get("reason")) for each in before.get("conditions") or ()}
    owner = Owner(API_VERSION, policy.kind, policy.name, policy.uid)
    told = []
    for each in status["conditions"]:
        kind, so = each["type"], each["status"]
        if old.get(kind) == (so, each["reason"]):
            continue
        failed = kind == "Programmed" and so == "False" and each["reason"] != "Pending"
        if (kind, so) in _TOLD or failed:
            is_warning = failed or kind != "Programmed"
            reason = kind if so == "True" else f"Not{kind}"
            message = event_message(each["message"])
            told.append(Happening(policy.namespace or _CLUSTER_EVENTS, owner, reason, message, is_warning))
    return told


class _Stirred:
    """Set by any of several, and waited for by one."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def stir(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


def _saw_policies(view: ClusterView, kind: str, objects: Objects) -> None:
    view.policies[kind] = dict(objects)


def _saw_pods(view: ClusterView, objects: Objects) -> None:
    view.pods = tuple(found for each in objects.values() if (found := watched_pod(each)) is not None)


def _saw_namespaces(view: ClusterView, objects: Objects) -> None:
    view.namespaces = {str(each["name"]): each["labels"] for each in objects.values()}


def _needed_labels(namespace: Mapping[str, Any]) -> dict[str, Any]:
    about = namespace.get("metadata") or {}
    return {"name": about.get("name"), "labels": about.get("labels") or {}}


def _saw_reports(view: ClusterView, objects: Objects) -> None:
    view.reports = {uid: pod for each in objects.values() for uid, pod in reported_pods(each).items()}
