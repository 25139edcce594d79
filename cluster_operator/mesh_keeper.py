"""Keeps the EnvoyFilters of policies with ``spec.mesh``, as long as this operator leads.

Each is written by server-side apply when it is wanted and not there, or not as it is to be; so one that somebody has
edited or deleted is put right. One that is not wanted any more is removed; where its policy is gone the cluster's
garbage collector does that, too. That is one request for an object that changes (two for a new one, which must not take
the name of somebody else's), and none for the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from cluster_operator.mesh_wish import NO_DEFINITION, MeshState, MeshWish, mesh_state, mesh_wishes
from cluster_operator.pods import WatchedPod
from daemon.kubernetes.api import ApiServer, ObjectCollection, envoy_filter, envoy_filters
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.kubernetes.reflector import Objects, follow
from daemon.log import Logger
from traffic_policy.cluster.kinds import GROUP
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.mesh.owned import MANAGED_BY, MANAGER, owned_filter, owned_name

_SPACING_S: Final = 0.05
"""Seconds between two requests."""
_RETRY_S: Final = 5.0
"""Seconds before what has failed is tried again."""
_CALM_S: Final = 2.0
"""Seconds before the same object is written again: somebody else may want it otherwise, and not give in."""
_GONE_S: Final = 15.0
"""Seconds for which a policy must be gone before its object is removed: longer than an API server that has just started
may say that it knows no such policies."""
_INVALID: Final = 422
_COLLECTION: Final[ObjectCollection] = envoy_filters(f"{MANAGED_BY}={MANAGER}")

log = Logger()
log_some = Logger(spacing=10.0)
Place = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class _There:
    """An object as the API server has it; ``owner`` is the UID of its policy, ``digest`` that of its spec."""

    uid: str
    owner: str
    digest: str


class MeshKeeper:
    """Of all policies of a cluster. :meth:`run` writes."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._wanted: dict[Place, tuple[str, int, dict[str, Any]]] = {}
        """The UID of the policy, its generation, and the object."""
        self._policies: frozenset[str] | None = None
        """Those whose objects may be removed at once when they do not want them."""
        self._faulty: frozenset[str] = frozenset()
        self._there: dict[Place, _There] | None = None
        self._problems: dict[Place, tuple[str, float]] = {}
        """Why one could not be written, and when that is to be tried again."""
        self._written: dict[Place, tuple[str, str]] = {}
        """The digest of what was written, and of what the API server made of it."""
        self._wrote_at: dict[Place, float] = {}
        self._gone: dict[Place, float] = {}
        self._stirred = trio.Event()

    def look(
        self,
        policies: Mapping[str, tuple[PolicyObject, str]],
        pods: Iterable[WatchedPod],
        namespaces: Mapping[str, Mapping[str, str]],
    ) -> dict[str, MeshState]:
        """What there is to say of policies with ``spec.mesh``, by UID. ``policies`` are all, each with what is wrong
        with it: then what is there stays as it is. What is to be written is left to :meth:`run`."""
        wishes = mesh_wishes((policy for policy, _ in policies.values()), pods, namespaces)
        wanted: dict[Place, tuple[str, int, dict[str, Any]]] = {}
        for uid, wish in wishes.items():
            policy, problem = policies[uid]
            if problem:
                wanted.update((place, each) for place, each in self._wanted.items() if each[0] == uid)
                continue
            for namespace in wish.namespaces:
                place = namespace, owned_name(policy)
                before = self._wanted.get(place)
                if before is None or before[:2] != (uid, policy.generation):
                    before = uid, policy.generation, owned_filter(policy, namespace)
                wanted[place] = before
        sound = frozenset(uid for uid, (_, problem) in policies.items() if not problem)
        self._faulty = frozenset(policies) - sound
        if wanted != self._wanted or self._policies != sound:
            self._wanted, self._policies = wanted, sound
            self._problems = {place: why for place, why in self._problems.items() if place in wanted}
            self._wrote_at = {place: at for place, at in self._wrote_at.items() if place in wanted}
            self._written = {place: digests for place, digests in self._written.items() if place in wanted}
            self._stirred.set()
        return {uid: self._state(policies[uid][0], wish) for uid, wish in wishes.items() if not policies[uid][1]}

    def _state(self, policy: PolicyObject, wish: MeshWish) -> MeshState:
        name = owned_name(policy)
        problems = {ns: self._problems[ns, name][0] for ns in wish.namespaces if (ns, name) in self._problems}
        return mesh_state(policy, wish, problems, (ns for ns in wish.namespaces if not self._is_right((ns, name))))

    def _is_right(self, place: Place) -> bool:
        """Whether the object is there, as it is to be."""
        there = None if self._there is None else self._there.get(place)
        if there is None or there.owner != self._wanted[place][0]:
            return False
        wanted = _digest(self._wanted[place][2])
        written, made = self._written.get(place, ("", ""))
        return there.digest == (made if written == wanted else wanted)

    async def run(self, stirred: Callable[[], None]) -> None:
        """Until cancelled. ``stirred`` is called when there is something else to say."""

        def saw(objects: Objects) -> None:
            there = {(each["namespace"], each["name"]): each["there"] for each in objects.values() if each["there"]}
            if there != self._there:
                self._there = there
                self._stirred.set()
                stirred()

        self._there = self._policies = None  # what an earlier turn as the leader has left may have changed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: follow(self._api, _COLLECTION, saw, _needed, defined=False))
            while True:
                again = await self._reconcile(stirred)
                with trio.move_on_after(again):
                    await self._stirred.wait()
                self._stirred = trio.Event()

    async def _reconcile(self, stirred: Callable[[], None]) -> float:
        """Seconds after which there is something to do, if nothing changes."""
        if self._there is None or self._policies is None:
            return _GONE_S
        now = trio.current_time()
        due = [place for place in self._wanted if not self._is_right(place) and not self._waits(place, now)]
        # Where there is one, there is a definition.
        undefined = bool(due) and not self._there and not await self._is_defined()
        for place in due:
            if place not in self._wanted or self._is_right(place):
                continue
            why = NO_DEFINITION if undefined else await self._write(place)
            self._wrote_at[place] = trio.current_time()
            before, _ = self._problems.pop(place, ("", 0.0))
            if why:
                self._problems[place] = why, trio.current_time() + _RETRY_S
            if before != why:
                stirred()
            if not undefined:
                await trio.sleep(_SPACING_S)
        there = self._there.items()
        extra = {place: each for place, each in there if place not in self._wanted and each.owner not in self._faulty}
        self._gone = {place: self._gone.get(place, now) for place in extra}
        for place, each in extra.items():
            if each.owner in self._policies or now >= self._gone[place] + _GONE_S:
                await self._remove(place, each)
                await trio.sleep(_SPACING_S)
        waiting = any(not self._is_right(place) for place in self._wanted)
        return _CALM_S if waiting or extra else 10 * _GONE_S

    def _waits(self, place: Place, now: float) -> bool:
        """Whether it is too early to write it again."""
        return max(self._problems.get(place, ("", 0.0))[1], self._wrote_at.get(place, -_CALM_S) + _CALM_S) > now

    async def _write(self, place: Place) -> str:
        """Why it could not be written; empty: it is, which the watch tells a moment later."""
        owner, _, document = self._wanted[place]
        resource = envoy_filter(*place)
        assert self._there is not None
        try:
            if place not in self._there and not await self._is_free(place, owner):
                return (
                    f"There is an EnvoyFilter {place[1]} in {place[0]} that is not of this policy. Rename the policy, "
                    "or remove it."
                )
            made = await self._apply(place, document)
            if made.get("spec") != document["spec"]:
                # What others have added is theirs, so that to apply again does not take it away.
                about = {key: document["metadata"][key] for key in ("labels", "ownerReferences")}
                whole = {**made, "metadata": {**made["metadata"], **about}, "spec": document["spec"]}
                made = await self._api.update(resource, whole)
        except NotFoundError:
            return f"There is no namespace {place[0]} any more, or no definition of EnvoyFilter."
        except ApiError as error:
            log_some.warning("an EnvoyFilter cannot be written", namespace=place[0], name=place[1], error=str(error))
            return str(error)
        self._written[place] = _digest(document), _digest(made)
        log.info("EnvoyFilter written", namespace=place[0], name=place[1])
        return ""

    async def _apply(self, place: Place, document: Mapping[str, Any]) -> dict[str, Any]:
        """The object, as it is then; as it was where ours would not go together with what others have added."""
        try:
            return await self._api.apply(envoy_filter(*place), document, force=True)
        except ApiError as error:
            if error.status != _INVALID or place not in (self._there or {}):
                raise
        return await self._api.get(envoy_filter(*place))

    async def _is_free(self, place: Place, owner: str) -> bool:
        """Whether nobody else has an object there."""
        try:
            found = await self._api.get(envoy_filter(*place))
        except NotFoundError:
            return True
        return _owner(found.get("metadata") or {}) == owner

    async def _is_defined(self) -> bool:
        """Whether the cluster knows EnvoyFilters."""
        try:
            async for _ in self._api.pages(_COLLECTION):
                return True
        except ApiError as error:
            return not isinstance(error, NotFoundError)
        return True

    async def _remove(self, place: Place, there: _There) -> None:
        try:
            await self._api.delete(envoy_filter(*place), there.uid)
        except NotFoundError:
            pass
        except ApiError as error:
            log_some.warning("an EnvoyFilter cannot be removed", namespace=place[0], name=place[1], error=str(error))
            return
        log.info("EnvoyFilter removed", namespace=place[0], name=place[1])


def _needed(found: Mapping[str, Any]) -> dict[str, Any]:
    about = found.get("metadata") or {}
    owner = _owner(about)
    there = _There(str(about.get("uid")), owner, _digest(found)) if owner else None
    return {"namespace": about.get("namespace"), "name": about.get("name"), "there": there}


def _owner(about: Mapping[str, Any]) -> str:
    """The UID of the policy that owns an object; empty: none does."""
    owners = (each for each in about.get("ownerReferences") or () if isinstance(each, Mapping))
    ours = (each for each in owners if str(each.get("apiVersion", "")).partition("/")[0] == GROUP)
    return next((str(each.get("uid", "")) for each in ours), "")


def _digest(document: Mapping[str, Any]) -> str:
    """Of what an object says."""
    return hashlib.sha256(json.dumps(document.get("spec"), sort_keys=True).encode()).hexdigest()
