"""The webhook's answer about TrafficPolicies and ClusterTrafficPolicies."""

from __future__ import annotations

from typing import Any

import pytest

from injector.pod.defaults import InjectionDefaults
from injector.pod.policies import validate_policy

GOOD = {"total": "100Mbit", "classes": [{"name": "a", "rate": "1Mbit", "match": [{"port": [25]}]}]}
HIDDEN = {**GOOD, "classes": [*GOOD["classes"], {"name": "b", "rate": "1Mbit", "match": [{"port": [25]}]}]}


def answer(
    spec: Any, operation: str = "CREATE", kind: str = "TrafficPolicy", group: str = "podlane.io", **more: Any
) -> dict[str, Any]:
    about = {"name": "web", "namespace": "shop"}
    request = {
        "uid": "u", "operation": operation, "kind": {"group": group, "version": "v1alpha1", "kind": kind},
        "object": {"metadata": about, "spec": spec}, **more,
    }  # fmt: skip
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    found = validate_policy(review, InjectionDefaults(), lambda _namespace, _name: None)
    assert found["response"]["uid"] == "u"
    response: dict[str, Any] = found["response"]
    return response


@pytest.mark.parametrize("kind", ["TrafficPolicy", "ClusterTrafficPolicy"])
def test_what_the_definition_cannot_say_is_refused(kind: str) -> None:
    assert answer(GOOD, kind=kind)["allowed"]
    refused = answer(HIDDEN, kind=kind)
    assert not refused["allowed"]
    assert refused["status"]["code"] == 422
    assert "classes[1].match[0]: This match (port 25) can never decide" in refused["status"]["message"]
    assert (
        "requests: The node agent sees the first packets" in answer({**GOOD, "requests": "follow"})["status"]["message"]
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert answer({**HIDDEN, "requests": "follow", "total": "1Mbit"})["status"]["message"].startswith("2 problems:")


def test_caps_alone_are_right() -> None:
    assert answer({"caps": {"total": "1Gbit"}}, kind="ClusterTrafficPolicy")["allowed"]


def test_a_change_of_anything_else_is_let_in() -> None:
    assert answer(HIDDEN, "UPDATE", oldObject={"spec": HIDDEN})["allowed"], "finalizers, labels"
    assert not answer(HIDDEN, "UPDATE", oldObject={"spec": GOOD})["allowed"]
    assert answer(HIDDEN, "UPDATE", oldObject={"spec": GOOD}, subResource="status")["allowed"]


def test_deletion_is_never_refused_and_others_are_not_judged() -> None:
    assert answer(HIDDEN, "DELETE")["allowed"]
    assert answer(HIDDEN, kind="TrafficReport")["allowed"]
    assert answer(HIDDEN, group="example.com")["allowed"]


@pytest.mark.parametrize("review", [None, [], {}, {"request": 1}, {"request": {"kind": [], "object": 5}}])
def test_any_json_has_an_answer(review: Any) -> None:
    assert validate_policy(review, InjectionDefaults(), lambda _namespace, _name: None)["response"]["allowed"]


def test_any_spec_has_an_answer() -> None:
    for spec in (1, [], {"podSelector": 1}, {"total": {}}, {"classes": 1, "total": "1Mbit"}):
        assert not answer(spec)["allowed"]


def test_one_that_is_being_deleted_can_be_changed_in_any_way() -> None:
    going = {"metadata": {"name": "web", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": HIDDEN}
    assert answer(HIDDEN, "UPDATE", object=going, oldObject={"spec": GOOD})["allowed"]
