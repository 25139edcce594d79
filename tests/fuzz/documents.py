"""Harnesses for what people write: policies, annotations, AdmissionReviews.

Whatever it is, it is understood or refused with a message that says what is wrong; and what is understood can be said
again in other words and means the same.
"""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import jsonpatch

from injector.admission import mutate, validate
from injector.defaults import InjectionDefaults
from pod_policy.downward import read_annotations
from pod_policy.effective import effective
from pod_policy.errors import PodPolicyError
from sidecar.explanation import explain_policy
from sidecar.routing.flow import Content, Destination
from sidecar.routing.table import RoutingTable
from tc_core.errors import PolicyError
from tc_core.policy import TrafficPolicy
from tc_core.policy_file import parse_policy, policy_from_document
from tc_core.policy_scope import beyond_sidecar
from tests.fuzz.refusals import says_why

_SHARED = "total: 20Mbit\nclasses: [{name: db, rate: 1Mbit, match: {port: 5432}}]\n"
_DEFAULTS = (InjectionDefaults(image="podlane:test"), InjectionDefaults(image="podlane:test", native=False))
_WHERE = Destination.parse("192.0.2.1", 443)
_WHAT = Content("a.example.com", "a.example.com", ("h2",))


def policy(data: bytes) -> None:
    """The text of a policy."""
    try:
        read = parse_policy(data.decode("utf-8", "replace"))
    except PolicyError as error:
        says_why(error, *(problem.message for problem in error.problems))
        return
    _means_the_same(read)
    if not beyond_sidecar(read):
        table = RoutingTable.of(read)
        assert table.route(_WHERE, _WHAT).class_name in {c.name for c in read.resolved()}
    explained = explain_policy(read)
    assert len(explained.classes) == len(read.resolved())


def _means_the_same(read: TrafficPolicy) -> None:
    again = policy_from_document(json.loads(json.dumps(read.to_document())))
    assert again == read, "what is written of a policy is another policy"


def annotations(data: bytes) -> None:
    """A Pod's annotations, as a downward API volume writes them."""
    try:
        found = read_annotations(data.decode("utf-8", "replace"))
        for shared in (None, _SHARED):
            pod = effective(found, shared=shared)
            _means_the_same(pod.policy)
            assert pod.digest == effective(dict(reversed(found.items())), shared=shared).digest
    except PodPolicyError as error:
        says_why(error)


def review(data: bytes) -> None:
    """The JSON of an AdmissionReview.

    What the mutating webhook makes of a Pod, the validating one accepts, and the mutating one leaves as it is.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    for defaults in _DEFAULTS:
        before = copy.deepcopy(document)
        answer = _answered(mutate(document, defaults, _shared))
        _answered(validate(document, defaults, _shared))
        assert document == before, "the review was altered"
        if not answer.get("patch"):
            continue
        patch = json.loads(base64.b64decode(answer["patch"]))
        document["request"]["object"] = jsonpatch.apply_patch(before["request"]["object"], patch)
        again = _answered(mutate(document, defaults, _shared))
        assert again["allowed"], again
        assert "patch" not in again, "a Pod that was injected is injected again"
        checked = _answered(validate(document, defaults, _shared))
        assert checked["allowed"], checked
        document = before


def _shared(_namespace: str, name: str) -> str | None:
    return _SHARED if name == "lanes" else None


def _answered(document: dict[str, Any]) -> dict[str, Any]:
    """An answer that an API server can use: JSON, with a message where it refuses."""
    json.dumps(document).encode()
    response: dict[str, Any] = document["response"]
    assert isinstance(response["uid"], str)
    assert response["allowed"] is True or response["status"]["message"].strip()
    assert all(0 < len(warning) <= 256 for warning in response.get("warnings", ()))
    return response
