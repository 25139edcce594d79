"""The validating webhook's answer about TrafficPolicies and ClusterTrafficPolicies. Pure, and total.

It refuses what the rules of their definitions cannot say, as a match that another one hides. A change of anything but
the spec is let in, whatever is there: an object must remain changeable. Nothing depends on this webhook: agents refuse
the same, and what was in force stays.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from injector.pod import pods
from injector.pod.defaults import InjectionDefaults
from injector.pod.reviews import Rules, SharedPolicies, allowed, refused, reply
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import GROUP, KINDS
from traffic_policy.cluster.objects import PolicyObject
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


def _decided(request: Any) -> dict[str, Any]:
    about, found = pods.mapping(request.get("kind")), pods.mapping(request.get("object"))
    kind = about.get("kind")
    if about.get("group") != GROUP or kind not in KINDS or request.get("operation") not in ("CREATE", "UPDATE"):
        return allowed()
    if request.get("subResource") or found.get("spec") == pods.mapping(request.get("oldObject")).get("spec"):
        return allowed()
    if wrong := faults(PolicyObject.from_object(kind, found)):
        return refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(PolicyError(wrong)))
    return allowed()
