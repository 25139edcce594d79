"""Warns who creates or changes a policy of the Pods that it would refuse or lower.

Pods and policies are asked for with each such review, and nothing is kept: policies change seldom, and Pods often. What
is asked for is bounded, in number and in time. Where it is not known in time, or there are no rights to ask, there is a
warning less; the answer itself depends on nothing of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import trio

from daemon.http import RequestError
from daemon.kubernetes.api import ApiServer, namespaces, pods, policies
from daemon.kubernetes.errors import ApiError
from daemon.kubernetes.policy_watch import needed
from daemon.log import Logger
from injector.errors import SharedPolicyError
from injector.pod.pods import annotations_of, labels_of, mapping, metadata_of
from injector.pod.reviews import WARNING_PREFIX, allowed
from injector.server.budget import SHORT_BODY, DecodingBudget
from injector.server.review import ReviewAnswer, policy_change_in
from injector.server.shared_policies import SharedPolicies
from traffic_policy.cluster.kinds import KINDS, TRAFFIC_POLICY
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.cluster.outlook import (
    ClusterKnowledge,
    OutlookNamespace,
    OutlookPod,
    limits_of,
    outlook,
    shared_policies_named,
)
from traffic_policy.pod.annotations import STATUS

PATIENCE_S: Final = 2.5
"""Seconds for all of it. Nobody's Pod waits for it, and API servers wait 5 seconds by the chart."""
MOST_PODS: Final = 1000
_MOST_POLICIES: Final = 500
_MOST_NAMESPACES: Final = 1000
_MOST_SHARED: Final = 20
"""ConfigMaps that are read."""
_FEW_NAMESPACES: Final = 10
"""Of more namespaces than these Pods are asked for all at once."""
_LONGEST: Final = 256 - len(WARNING_PREFIX)
"""Characters of a warning (injector.pod.reviews)."""
_PODS: Final = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed"
"""Those that policies are for; what the fields are is on the API server's side (k8s.io/kubernetes,
pkg/apis/core/v1/conversion.go)."""
_SHARER: Final = "policies"
"""All warnings have turns as one client: no answer depends on them."""

log_some = Logger(spacing=10.0)


class PolicyOutlook:
    """Looks for one review after another, each for ``patience`` seconds at most; ``api`` is None without an API server,
    and nothing is warned of then."""

    def __init__(
        self, api: ApiServer | None, shared: SharedPolicies, decoding: DecodingBudget, patience: float = PATIENCE_S
    ) -> None:
        self._api = api
        self._shared = shared
        self._decoding = decoding
        self._patience = patience
        self._turn = trio.Lock()

    async def add(self, body: bytes, answer: ReviewAnswer) -> ReviewAnswer:
        """The answer to a review, with warnings if it lets a policy in."""
        if self._api is None or answer.outcome.result != "allowed":
            return answer
        with trio.move_on_after(self._patience) as patience:
            try:
                async with self._turn:
                    return _with(answer, await self._warnings(self._api, body))
            except (ApiError, RequestError) as error:
                log_some.warning("for which Pods a policy means less is not known", error=str(error))
        if patience.cancelled_caught:
            log_some.warning("which Pods a policy means less for was not known in time", seconds=self._patience)
        return answer

    async def _warnings(self, api: ApiServer, body: bytes) -> tuple[str, ...]:
        reading = partial(policy_change_in, body)
        change = reading() if len(body) <= SHORT_BODY else await self._decoding.run(reading, len(body), _SHARER)
        if change is None or change.new.target is None:
            return ()
        known = await self._knowledge(api, change.new)
        if not known.pods:
            return ()
        return await self._decoding.run(partial(outlook, change, known, _LONGEST), len(body), _SHARER)

    async def _knowledge(self, api: ApiServer, policy: PolicyObject) -> ClusterKnowledge:
        places = await _namespaces(api, policy)
        found, whole = await _pods(api, policy, places)
        if not found:
            return ClusterKnowledge()
        others: list[PolicyObject] = []
        for kind in KINDS:
            within = policy.namespace or None if kind == TRAFFIC_POLICY else None
            some, all_of_them = await api.some(policies(kind, within), _MOST_POLICIES, partial(_policy, kind))
            if not all_of_them:
                raise ApiError(f"There are more than {_MOST_POLICIES} policies.")
            others += some
        shared = {}
        for key in sorted(shared_policies_named(found, places))[:_MOST_SHARED]:
            try:
                shared[key] = await self._shared.read(*key)
            except SharedPolicyError:
                continue
        return ClusterKnowledge(found, places, others, shared, whole)


async def _namespaces(api: ApiServer, policy: PolicyObject) -> dict[str, OutlookNamespace]:
    """Those whose Pods the policy may be for."""
    if policy.namespace:
        found = await api.get(replace(namespaces(), name=policy.namespace))
        return {policy.namespace: _namespace(found).about}
    selected = policy.namespace_selector.text
    some, _ = await api.some(namespaces(), _MOST_NAMESPACES, _namespace, labels=selected, metadata=True)
    return {each.name: each.about for each in some}


async def _pods(
    api: ApiServer, policy: PolicyObject, places: Mapping[str, OutlookNamespace]
) -> tuple[Sequence[OutlookPod], bool]:
    """Pods that it may be for, and whether these are all."""
    assert policy.target is not None
    ask = partial(api.some, needed=_pod, labels=policy.target.pod_selector.text, fields=_PODS, metadata=True)
    if len(places) > _FEW_NAMESPACES:
        some, whole = await ask(pods(None), MOST_PODS)
        return [each for each in some if each.namespace in places], whole
    found: list[OutlookPod] = []
    whole = True
    for name in sorted(places):
        if len(found) == MOST_PODS:
            return found, False
        some, all_of_them = await ask(pods(name), MOST_PODS - len(found))
        found += some
        whole = whole and all_of_them
    return found, whole


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    about: OutlookNamespace


def _namespace(found: Mapping[str, Any]) -> _Place:
    return _Place(str(metadata_of(found).get("name", "")), OutlookNamespace(labels_of(found), annotations_of(found)))


def _pod(found: Mapping[str, Any]) -> OutlookPod:
    about, annotations = metadata_of(found), annotations_of(found)
    name, namespace = (str(about.get(key, "")) for key in ("name", "namespace"))
    # Its containers are not asked for; the injector leaves this where it has put one.
    return OutlookPod(name, namespace, labels_of(found), limits_of(annotations), STATUS in annotations)


def _policy(kind: str, found: Mapping[str, Any]) -> PolicyObject:
    return PolicyObject.from_object(kind, needed(found))


def _with(answer: ReviewAnswer, warnings: tuple[str, ...]) -> ReviewAnswer:
    if not warnings:
        return answer
    document = json.loads(answer.body)
    response = mapping(document["response"])
    told = allowed(warnings)["warnings"]
    document["response"] = {**response, "warnings": [*response.get("warnings", ()), *told]}
    return replace(answer, body=json.dumps(document, separators=(",", ":")).encode("ascii"))
