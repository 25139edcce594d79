"""What became of a controller's Pod, for an Event on the controller's object: who applied that sees no answer. Pure.

What is read is not validated by the API server yet. A Pod without a controller has no object to tell it on, and whoever
creates it gets the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from daemon.kubernetes.event_series import Happening, Owner, event_message
from injector.pod import pods
from injector.pod.containers import NAME
from injector.pod.reviews import WARNING_PREFIX, workload_in
from traffic_policy.pod.annotations import STATUS

_DNS_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""A DNS subdomain (RFC 1123), which names of namespaces and of controllers' objects are."""
_KIND: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_VERSION: Final = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[a-z0-9]{1,63}")
_UID: Final = re.compile(r"[-A-Za-z0-9]{1,63}")


class EventReason(StrEnum):
    """The Event's reason."""

    INJECTED = "Injected"
    SKIPPED = "Skipped"
    REFUSED = "Refused"


def controller_of(found: Mapping[str, Any]) -> Owner | None:
    """The controller that made an object, if it is one that lives in a namespace. A mirror of a static Pod has its
    Node."""
    reference = pods.controller_of(found) or {}
    patterns = {"apiVersion": _VERSION, "kind": _KIND, "name": _DNS_NAME, "uid": _UID}
    values = [value if isinstance(value := reference.get(key), str) else "" for key in patterns]
    if not all(pattern.fullmatch(value) for pattern, value in zip(patterns.values(), values, strict=True)):
        return None
    owner = Owner(*values)
    return None if (owner.api_version, owner.kind) == ("v1", "Node") else owner


def mutated(review: Mapping[str, Any], reply: Mapping[str, Any]) -> Happening | None:
    """What the answer of the mutating webhook made of a Pod. None: nothing that an owner should hear of."""
    response = pods.mapping(reply.get("response"))
    if not response.get("allowed"):
        return validated(review, reply)
    found = workload_in(review)
    if found is None or STATUS in pods.annotations_of(found.pod) or NAME in pods.names(found.pod, pods.INIT_CONTAINERS):
        return None  # it was injected before: by `podlane inject`, or when this webhook was asked first
    warnings = [str(each).removeprefix(WARNING_PREFIX) for each in pods.listed(response.get("warnings"))]
    if response.get("patch"):
        return _happening(
            review, EventReason.INJECTED, " ".join(["Podlane's sidecar was injected.", *warnings]), warnings
        )
    return _happening(review, EventReason.SKIPPED, " ".join(warnings), warnings) if warnings else None


def validated(review: Mapping[str, Any], reply: Mapping[str, Any]) -> Happening | None:
    """What the answer of the validating webhook made of a Pod: only refusals, since the mutating one told the rest."""
    response = pods.mapping(reply.get("response"))
    if response.get("allowed"):
        return None
    message = str(pods.mapping(response.get("status")).get("message", ""))
    return _happening(review, EventReason.REFUSED, message, [message])


def _happening(review: Mapping[str, Any], reason: EventReason, message: str, warnings: list[str]) -> Happening | None:
    request = pods.mapping(review.get("request"))
    found, namespace = workload_in(review), request.get("namespace")
    if found is None or found.place or request.get("operation") != "CREATE" or request.get("dryRun"):
        return None
    owner = controller_of(found.pod)
    if owner is None or not isinstance(namespace, str) or not _DNS_NAME.fullmatch(namespace):
        return None
    return Happening(namespace, owner, reason, event_message(message), bool(warnings))
