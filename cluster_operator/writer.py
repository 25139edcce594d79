"""Writes the status of policies, and Events about it, as long as this operator leads.

What has changed is computed again, at most twice a second, and from time to time. A status is written when it differs
from what the API server has: that is one request for each policy whose status changes, and none for the others. A
change that concerns more policies than are written at once does not keep a later one waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from cluster_operator.fleet_records import FleetRecords
from cluster_operator.fleet_wish import last_user
from cluster_operator.mesh_keeper import MeshKeeper
from cluster_operator.mesh_wish import MESH_PROGRAMMED, MeshState, speaks_of_mesh, with_mesh
from cluster_operator.pods import ReportedPod, WatchedPod, needed_of_pod, reported_pods, watched_pod
from cluster_operator.record_status import RECORDED, RecordState, speaks_of_record, with_record
from cluster_operator.sidecars import SidecarKeeper, WatchedNamespace
from cluster_operator.status import PolicyTally, differs, status_of
from cluster_operator.tally_book import TallyBook
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
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.pod.annotations import MAX_EGRESS, MAX_INGRESS

_SPACING_S: Final = 0.5
_LOOK_S: Final = 5.0
"""Seconds between two computations without a change: new Pods get older."""
_MOST_WRITTEN: Final = 100
"""Statuses that one computation has written at most; the next one goes on."""
_WRITERS: Final = 4
"""Requests under way at once."""
_CLUSTER_EVENTS: Final = "default"
"""The namespace of Events on objects that have none."""
_IN_FORCE: Final = ("Programmed", MESH_PROGRAMMED)
_TOLD: Final = {
    ("Accepted", "False"), ("Programmed", "True"), ("Conflicted", "True"), ("Clamped", "True"), (RECORDED, "False"),
    (MESH_PROGRAMMED, "True"), ("OtherLimits", "True"),
}  # fmt: skip
"""What is told by an Event when it becomes so."""

log_some = Logger(spacing=10.0)


@dataclass(frozen=True, slots=True)
class PolicySeen:
    """A policy, with the status and the resourceVersion that it has at the API server, and who has changed it last."""

    policy: PolicyObject
    status: Mapping[str, Any]
    version: str
    user: str


@dataclass(slots=True)
class ClusterView:
    """What the operator knows; None: it does not know yet."""

    policies: dict[str, tuple[PolicySeen, ...]] = field(default_factory=dict)
    pods: tuple[WatchedPod, ...] | None = None
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    details: Mapping[str, WatchedNamespace] = field(default_factory=dict)
    """The same with what they allow."""
    reports: Mapping[str, ReportedPod] | None = None

    @property
    def whole(self) -> bool:
        """Whether everything was read once."""
        known = (self.pods, self.namespaces, self.reports)
        return len(self.policies) == len(KINDS) and all(each is not None for each in known)


@dataclass(slots=True)
class _Kept:
    """What is remembered of a policy."""

    problem: str
    generation: int
    settled: tuple[PolicySeen, PolicyTally, RecordState | None, MeshState | None] | None = None
    """For these it was found that there is nothing to write."""
    wrote: tuple[str, Mapping[str, Any]] | None = None
    """The resourceVersion that was known when a status was written, and that status: until the watch brings another, it
    is what the API server has."""
    wrote_at: float = 0.0
    """When one was written last, or tried."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A status to write."""

    seen: PolicySeen
    kept: _Kept
    before: Mapping[str, Any]
    status: Mapping[str, Any]

    @property
    def order(self) -> tuple[bool, float]:
        """What was said of another generation comes first, then what was written longest ago."""
        return self.before.get("observedGeneration") == self.seen.policy.generation, self.kept.wrote_at


class StatusWriter:
    """Follows a cluster."""

    def __init__(self, api: ApiServer, events: EventWriter, records: FleetRecords | None = None) -> None:
        """``records``: those in a control plane; None: there is none."""
        self._api = api
        self._events = events
        self._records = records
        self._book = TallyBook()
        self._kept: dict[str, _Kept] = {}
        self._sidecars = SidecarKeeper(api)
        self._mesh = MeshKeeper(api)

    async def run(self) -> None:
        """Until cancelled."""
        view, changed = ClusterView(), _Stirred()
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                saw, needed = partial(_saw_policies, view, kind), partial(_needed_of_policy, kind)
                nursery.start_soon(self._follow, policies_of_cluster(kind), saw, changed, needed)
            nursery.start_soon(self._follow, all_pods(), partial(_saw_pods, view), changed, _needed_of_pod)
            nursery.start_soon(self._follow, all_namespaces(), partial(_saw_namespaces, view), changed, _needed_labels)
            nursery.start_soon(self._follow, traffic_reports(), partial(_saw_reports, view), changed, _needed_of_report)
            nursery.start_soon(self._sidecars.run)
            nursery.start_soon(self._mesh.run, changed.stir)
            if self._records is not None:
                nursery.start_soon(self._records.run, changed.stir)
            while True:
                with trio.move_on_after(_LOOK_S):
                    await changed.wait()
                if view.whole and not await self._write(view):
                    changed.stir()
                await trio.sleep(_SPACING_S)

    async def _follow(self, collection: Any, saw: Any, changed: _Stirred, needed: Any) -> None:
        latest: Objects = {}

        def seen(objects: Objects) -> None:
            nonlocal latest
            latest = objects
            changed.stir(collection, lambda: saw(latest))

        await follow(self._api, collection, seen, needed, defined=False)

    async def _write(self, view: ClusterView) -> bool:
        """Whether nothing is left to write."""
        wanted = sorted(self._wanted(view), key=lambda each: each.order)
        turns = iter(wanted[:_MOST_WRITTEN])

        async def work() -> None:
            for each in turns:
                await self._write_one(each)

        async with trio.open_nursery() as nursery:
            for _ in range(min(_WRITERS, len(wanted))):
                nursery.start_soon(work)
        return len(wanted) <= _MOST_WRITTEN

    def _wanted(self, view: ClusterView) -> list[_Wanted]:
        """All statuses that differ from what the API server has."""
        assert view.pods is not None
        assert view.namespaces is not None
        assert view.reports is not None
        now = datetime.now(UTC)
        seen = [each for kind in KINDS for each in view.policies[kind]]
        policies = [each.policy for each in seen]
        reports = {**view.reports, **self._sidecars.look(policies, view.pods, view.details)}
        counted = self._book.tallies(policies, view.pods, view.namespaces, reports, now)
        self._kept = {each.policy.uid: self._known(each) for each in seen}
        records = self._records
        if records is not None:
            about = ((each.policy, each.user) for each in seen)
            records.want({policy.uid: (policy, self._kept[policy.uid].problem, user) for policy, user in about})
        judged = {each.policy.uid: (each.policy, self._kept[each.policy.uid].problem) for each in seen}
        meshes = self._mesh.look(judged, view.pods, view.namespaces)
        wanted = []
        for each in seen:
            policy = each.policy
            kept, tally = self._kept[policy.uid], counted[policy.uid]
            record = None if records is None else records.state(policy.uid)
            mesh = meshes.get(policy.uid)
            settled = kept.settled
            if settled is not None and settled[0] is each and settled[1] is tally and settled[2:] == (record, mesh):
                continue
            before = kept.wrote[1] if kept.wrote is not None else each.status
            status = status_of(policy, tally, kept.problem, before, now)
            if records is not None:
                status = with_record(status, record, before, now)
            status = with_mesh(status, mesh, before, now)
            outdated = (records is None and speaks_of_record(before)) or (mesh is None and speaks_of_mesh(before))
            if outdated or differs(status, before):
                wanted.append(_Wanted(each, kept, before, status))
            else:
                kept.settled = each, tally, record, mesh
        return wanted

    def _known(self, seen: PolicySeen) -> _Kept:
        policy = seen.policy
        kept = self._kept.get(policy.uid)
        if kept is None or kept.generation != policy.generation:
            wrote_at = 0.0 if kept is None else kept.wrote_at
            return _Kept(" ".join(map(str, faults(policy))), policy.generation, wrote_at=wrote_at)
        if kept.wrote is not None and kept.wrote[0] != seen.version:
            kept.wrote = None
        return kept

    async def _write_one(self, wanted: _Wanted) -> None:
        policy = wanted.seen.policy
        about = {"name": policy.name, **({"namespace": policy.namespace} if policy.namespace else {})}
        # With its UID, so that a policy that was deleted meanwhile is not made again.
        document = {"apiVersion": API_VERSION, "kind": policy.kind, "metadata": {**about, "uid": policy.uid}}
        place = policy_status(policy.kind, policy.namespace, policy.name)
        wanted.kept.wrote_at = trio.current_time()  # also when it fails: the others have their turn
        try:
            made = await self._api.apply(place, {**document, "status": wanted.status}, force=True)
        except NotFoundError:
            return
        except ApiError as error:
            log_some.warning("the status of a policy cannot be written", policy=str(policy), error=str(error))
            return
        wanted.kept.wrote = wanted.seen.version, made.get("status") or {}
        for happening in happenings(policy, wanted.before, wanted.status):
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
        failed = kind in _IN_FORCE and so == "False" and each["reason"] != "Pending"
        if (kind, so) in _TOLD or failed:
            is_warning = failed or kind not in _IN_FORCE
            reason = kind if so == "True" else f"Not{kind}"
            message = event_message(each["message"])
            told.append(Happening(policy.namespace or _CLUSTER_EVENTS, owner, reason, message, is_warning))
    return told


class _Stirred:
    """Set by any of several, and waited for by one, who then learns what each has seen last."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._learns: dict[object, Callable[[], None]] = {}

    def stir(self, who: object = None, learn: Callable[[], None] = lambda: None) -> None:
        self._learns[who] = learn
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()
        learns, self._learns = self._learns, {}
        for learn in learns.values():
            learn()


def _saw_policies(view: ClusterView, kind: str, objects: Objects) -> None:
    view.policies[kind] = tuple(each["seen"] for each in objects.values())


def _needed_of_policy(kind: str, found: Mapping[str, Any]) -> dict[str, PolicySeen]:
    about = found.get("metadata") or {}
    version, user = str(about.get("resourceVersion", "")), last_user(about.get("managedFields"))
    return {"seen": PolicySeen(PolicyObject.from_object(kind, found), found.get("status") or {}, version, user)}


def _saw_pods(view: ClusterView, objects: Objects) -> None:
    view.pods = tuple(each["pod"] for each in objects.values() if each["pod"] is not None)


def _needed_of_pod(pod: Mapping[str, Any]) -> dict[str, WatchedPod | None]:
    return {"pod": watched_pod(needed_of_pod(pod))}


def _saw_namespaces(view: ClusterView, objects: Objects) -> None:
    view.namespaces = {str(each["name"]): each["labels"] for each in objects.values()}
    view.details = {str(each["name"]): WatchedNamespace(each["labels"], each["maxima"]) for each in objects.values()}


def _needed_labels(namespace: Mapping[str, Any]) -> dict[str, Any]:
    about = namespace.get("metadata") or {}
    annotations = about.get("annotations") or {}
    maxima = {name: annotations[name] for name in (MAX_EGRESS, MAX_INGRESS) if name in annotations}
    return {"name": about.get("name"), "labels": about.get("labels") or {}, "maxima": maxima}


def _saw_reports(view: ClusterView, objects: Objects) -> None:
    view.reports = {uid: pod for each in objects.values() for uid, pod in each["pods"].items()}


def _needed_of_report(report: Mapping[str, Any]) -> dict[str, dict[str, ReportedPod]]:
    return {"pods": reported_pods(report)}
