"""Harnesses for what people write: policies, annotations, AdmissionReviews.

Whatever it is, it is understood or refused with a message that says what is wrong; and what is understood can be said
again in other words and means the same.
"""

from __future__ import annotations

import base64
import difflib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonpatch

from datapath.explain.policy import explain_policy
from datapath.routing.flow import Content, Destination
from datapath.routing.table import RoutingTable
from injector.pod.admission import mutate, validate
from injector.pod.defaults import InjectionDefaults
from injector.pod.happenings import mutated
from injector.pod.templates import validate_template
from tests.fuzz.refusals import says_why
from traffic_policy import policy_file
from traffic_policy.errors import PodlaneError, PolicyError
from traffic_policy.pod.downward import read_annotations
from traffic_policy.pod.effective import effective
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import parse_policy, policy_from_document
from traffic_policy.scope import beyond_sidecar

_SHARED = "total: 20Mbit\nclasses: [{name: db, rate: 1Mbit, match: {port: 5432}}]\n"
_DEFAULTS = (
    InjectionDefaults(image="podlane:test"),
    InjectionDefaults(image="podlane:test", image_pull_secrets=("registry",), cpu_limit="1"),
)
_WHERE = Destination.parse("192.0.2.1", 443)
_WHAT = Content("a.example.com", "a.example.com", ("h2",))


def policy(data: bytes, *, full: bool = True) -> None:
    """The text of a policy."""
    try:
        with _advice(full):
            read = parse_policy(data.decode("utf-8", "replace"))
    except PolicyError as error:
        says_why(error, *(problem.message for problem in error.problems))
        return
    if not beyond_sidecar(read):
        table = RoutingTable.from_policy(read)
        assert table.route(_WHERE, _WHAT).class_name in {c.name for c in read.resolved()}
    if full:
        _means_the_same(read)
        explained = explain_policy(read)
        assert len(explained.classes) == len(read.resolved())


@contextmanager
def _advice(full: bool) -> Iterator[None]:
    """In brief a text that libyaml refuses is not read once more by PyYAML, which takes ten times as long to say what
    is wrong, and there is no search for the key that was meant by one that there is not, which takes longer still."""
    longest, similar = policy_file._SHORT_TEXT, difflib.get_close_matches
    if not full:
        policy_file._SHORT_TEXT = 0
        difflib.get_close_matches = _nothing_similar
    try:
        yield
    finally:
        policy_file._SHORT_TEXT, difflib.get_close_matches = longest, similar


def _nothing_similar(*_: object, **__: object) -> list[str]:
    return []


def _means_the_same(read: TrafficPolicy) -> None:
    again = policy_from_document(json.loads(json.dumps(read.to_document())))
    assert again == read, "what is written of a policy is another policy"


def annotations(data: bytes, *, full: bool = True) -> None:
    """A Pod's annotations, as a downward API volume writes them; in brief with a shared policy or without."""
    try:
        found = read_annotations(data.decode("utf-8", "replace"))
    except PodlaneError as error:
        says_why(error)
        return
    for shared in (None, _SHARED) if full else (_SHARED if zlib.crc32(data) & 1 else None,):
        try:
            with _advice(full):
                pod = effective(found, shared=shared)
        except PodlaneError as error:
            says_why(error)
            continue
        if full:
            _means_the_same(pod.policy)
            assert pod.digest == effective(dict(reversed(found.items())), shared=shared).digest


def review(data: bytes, *, full: bool = True) -> None:
    """The JSON of an AdmissionReview; in brief the first answer of one of the webhooks, with one of two settings.

    What the mutating webhook makes of a Pod, the validating one accepts, and the mutating one leaves as it is.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not full:
        way = zlib.crc32(data)
        webhook, defaults = (mutate, validate)[way & 1], _DEFAULTS[way >> 1 & 1]
        with _advice(full):
            _answered(webhook(document, defaults, _shared))
        return
    before = json.dumps(document)
    for defaults in _DEFAULTS:
        reply = mutate(document, defaults, _shared)
        answer = _answered(reply)
        mutated(document, reply)
        _answered(validate(document, defaults, _shared))
        _answered(validate_template(document, defaults, _shared))
        assert json.dumps(document) == before, "the review was altered"
        if not answer.get("patch"):
            continue
        patch = json.loads(base64.b64decode(answer["patch"]))
        jsonpatch.apply_patch(document["request"]["object"], patch, in_place=True)
        again = _answered(mutate(document, defaults, _shared))
        assert again["allowed"], again
        assert "patch" not in again, "a Pod that was injected is injected again"
        checked = _answered(validate(document, defaults, _shared))
        assert checked["allowed"], checked
        document = json.loads(data)


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
