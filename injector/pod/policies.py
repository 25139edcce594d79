"""The validating webhook's answer about TrafficPolicies and ClusterTrafficPolicies. Pure, and total.

It refuses what the rules of their definitions cannot say, as a match that another one hides. A change of anything but
the spec is let in, whatever is there, and any change of one that is being deleted: an object must remain changeable,
and go. Nothing depends on this webhook: agents refuse the same, and what was in force stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from injector.pod import pods
from injector.pod.defaults import InjectionDefaults
from injector.pod.reviews import Rules, SharedPolicies, allowed, refused, reply
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import GROUP, KINDS
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.cluster.outlook import PolicyChange
from traffic_policy.errors import PolicyError


def validate_policy(
    review: Any,
    defaults: InjectionDefaults,  # noqa: ARG001
    shared: SharedPolicies,  # noqa: ARG001
    rules: Rules | None = None,  # noqa: ARG001
) -> dict[str, Any]:
    """Allowed, or a refusal with all that is wrong and its remedies. Never raises, for any JSON."""
    request = pods.mapping(pods.mapping(review).get("request"))
    try:
        return reply(review, _decided(request))
    except RecursionError:
        return reply(review, refused(HTTPStatus.BAD_REQUEST, "The object is nested too deeply. Write a policy."))


def _decided(request: Mapping[str, Any]) -> dict[str, Any]:
    if (found := _judged(request)) is None:
        return allowed()
    kind, new, _ = found
    if wrong := faults(PolicyObject.from_object(kind, new)):
        return refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(PolicyError(wrong)))
    return allowed()


def policy_change(review: Any) -> PolicyChange | None:
    """What a review changes of a policy; None: nothing that is judged."""
    found = _judged(pods.mapping(pods.mapping(review).get("request")))
    if found is None:
        return None
    kind, new, old = found
    return PolicyChange(PolicyObject.from_object(kind, new), PolicyObject.from_object(kind, old) if old else None)


def _judged(request: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], Mapping[str, Any]] | None:
    """The kind, the object, and what it was before: empty where it is created."""
    about = pods.mapping(request.get("kind"))
    found, before = pods.mapping(request.get("object")), pods.mapping(request.get("oldObject"))
    kind = about.get("kind")
    if about.get("group") != GROUP or kind not in KINDS or request.get("operation") not in ("CREATE", "UPDATE"):
        return None
    if request.get("subResource") or found.get("spec") == before.get("spec"):
        return None
    if pods.metadata_of(found).get("deletionTimestamp"):
        return None  # whatever is written into it now, it goes
    return str(kind), found, before
