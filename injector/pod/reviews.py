"""AdmissionReviews of ``admission.k8s.io/v1``: what is asked, and the form of the answer. Pure, and total: any JSON has
an answer.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/ defines the format. The API
server prefixes a refusal's message with its own text, so it must be self-contained; it truncates warnings to 256
characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from injector.errors import InjectionError
from injector.pod import pods
from injector.pod.workloads import Thing, Workload, workload
from traffic_policy.errors import shortened
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.namespace import NamespaceRules

SharedPolicies = Callable[[str, str], str | None]
"""By namespace and name of a ConfigMap: the text of its key ``policy.yaml``, None if either does not exist. Raises
:class:`SharedPolicyError` if it cannot be read at present."""

Rules = Callable[[], NamespaceRules]
"""What the Pod's namespace says. Raises :class:`AnnotationsError` if that is wrong."""

WARNING_PREFIX: Final = "podlane: "
_API_VERSION: Final = "admission.k8s.io/v1"
_LONGEST_WARNING: Final = 256
"""The API server's limit in characters (k8s.io/apiserver, admission warnings)."""
_MOST_WARNINGS: Final = 20
_LONGEST_MESSAGE: Final = 16_000
"""Characters of a refusal; twenty problems as :class:`AnnotationsError` tells them."""
_REASONS: Final = {HTTPStatus.BAD_REQUEST: "BadRequest", HTTPStatus.UNPROCESSABLE_ENTITY: "Invalid"}
"""metav1.StatusReason of the status codes in use."""


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """The relevant parts of a review about something with a Pod in it: a Pod itself, or a workload with its template.

    ``before`` is the Pod, or the template, as it was; empty for an object that is created.
    """

    namespace: str
    operation: str
    found: Workload
    before: Mapping[str, Any]


class _MalformedError(Exception):
    """Not a valid review; an error of the client."""


def answered(review: Any, decide: Callable[[ReviewRequest], dict[str, Any]]) -> dict[str, Any]:
    """The AdmissionReview with the response that ``decide`` makes of the request, which may raise
    :class:`AnnotationsError` and :class:`InjectionError` to refuse it. What it is not asked about is allowed. Never
    raises, for any JSON."""
    try:
        request = _read(review)
        response = allowed() if request is None else decide(request)
    except _MalformedError as error:
        response = refused(HTTPStatus.BAD_REQUEST, str(error))
    except RecursionError:
        response = refused(HTTPStatus.BAD_REQUEST, "The object is nested too deeply. Send what an API server sends.")
    except (AnnotationsError, InjectionError) as error:
        response = refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return reply(review, response)


def reply(review: Any, response: dict[str, Any]) -> dict[str, Any]:
    """The AdmissionReview that answers one by a response."""
    uid = pods.mapping(pods.mapping(review).get("request")).get("uid")
    response["uid"] = uid if isinstance(uid, str) else ""
    return {"apiVersion": _API_VERSION, "kind": "AdmissionReview", "response": response}


def allowed(warnings: Iterable[str] = ()) -> dict[str, Any]:
    """The response that lets the object in, with warnings for who sent it."""
    response: dict[str, Any] = {"allowed": True}
    if texts := _texts(warnings):
        response["warnings"] = texts
    return response


def _texts(warnings: Iterable[str]) -> list[str]:
    return [_short(f"{WARNING_PREFIX}{warning}") for warning in islice(warnings, _MOST_WARNINGS)]


def warned(answer: dict[str, Any], warnings: Iterable[str]) -> dict[str, Any]:
    """The answer with further warnings if it is a patch: for who creates a Pod that gets the sidecar."""
    response = answer["response"]
    if "patch" in response and (more := _texts(warnings)):
        response["warnings"] = [*response.get("warnings", ()), *more][:_MOST_WARNINGS]
    return answer


def workload_in(review: Any, key: str = "object") -> Workload | None:
    """The Pod or template that a review is about, of whatever operation; None if there is none. ``key`` is
    ``oldObject`` for what it was before."""
    request = pods.mapping(pods.mapping(review).get("request"))
    about = pods.mapping(request.get("kind"))
    group, kind, data = about.get("group") or "", about.get("kind"), pods.mapping(request.get(key))
    if not isinstance(group, str) or not isinstance(kind, str):
        return None
    own = pods.metadata_of(data)
    name = own.get("name") or own.get("generateName")
    return workload(Thing((), data, group, kind, name if isinstance(name, str) else "", ""))


def _read(review: Any) -> ReviewRequest | None:
    """None if there is nothing to decide."""
    document = pods.mapping(review)
    if document.get("kind") != "AdmissionReview" or document.get("apiVersion") != _API_VERSION:
        raise _MalformedError(f"This is not an AdmissionReview of {_API_VERSION}. Send what an API server sends.")
    request = pods.mapping(document.get("request"))
    if not isinstance(request.get("uid"), str) or not request["uid"]:
        raise _MalformedError("The review has no request with a uid. Send what an API server sends.")
    if request.get("subResource") or request.get("operation") not in ("CREATE", "UPDATE"):
        return None
    found, before = workload_in(review), workload_in(review, "oldObject")
    if found is None:
        kind = pods.mapping(request.get("kind"))
        if (kind.get("group") or "", kind.get("kind")) == ("", "Pod"):
            raise _MalformedError("The review's object is not a Pod. Send what an API server sends.")
        return None
    namespace = request.get("namespace")
    return ReviewRequest(
        namespace=namespace if isinstance(namespace, str) else "",
        operation=str(request["operation"]),
        found=found,
        before=before.pod if before else {},
    )


def refused(code: HTTPStatus, message: str) -> dict[str, Any]:
    """The response that refuses the object."""
    status = {"code": int(code), "reason": _REASONS[code], "message": shortened(message, _LONGEST_MESSAGE)}
    return {"allowed": False, "status": status}


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _LONGEST_WARNING].split())
    return line if len(line) <= _LONGEST_WARNING else f"{line[: _LONGEST_WARNING - 3]}..."
