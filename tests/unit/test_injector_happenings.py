"""What of a review becomes an Event, and whom it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from injected_pods import LIMITS, USUAL, injected, pod
from test_injector_admission import no_policies, review

from daemon.kubernetes.event_series import Happening, Owner
from injector.pod.admission import mutate, validate
from injector.pod.happenings import EventReason, mutated, validated
from injector.pod.templates import validate_template

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7db7cf4669", "uid": "c541e8e3-df3a-4424"}
REPLICA_SET = Owner("apps/v1", "ReplicaSet", "web-7db7cf4669", "c541e8e3-df3a-4424")
FAST = {"podlane.io/egress-bandwidth": "fast"}


def owned(given: dict[str, Any], **owner: Any) -> dict[str, Any]:
    """The Pod as a controller makes it."""
    given["metadata"]["ownerReferences"] = [{"name": "other"}, {**OWNER, "controller": True, **owner}]
    return given


def after_mutation(given: Any, **request: Any) -> Happening | None:
    document = review(given, **request)
    return mutated(document, mutate(document, USUAL, no_policies))


def after_validation(given: Any, **request: Any) -> Happening | None:
    document = review(given, **request)
    return validated(document, validate(document, USUAL, no_policies))


def test_an_injection_is_told() -> None:
    assert after_mutation(owned(pod())) == Happening(
        "shop", REPLICA_SET, EventReason.INJECTED, "Podlane's sidecar was injected.", is_warning=False
    )


def test_its_warnings_are_told_with_it() -> None:
    given = owned(pod("app"))
    given["spec"]["containers"][0]["ports"] = [{"containerPort": 15101}]
    found = after_mutation(given)
    assert found == Happening(
        "shop", REPLICA_SET, EventReason.INJECTED,
        "Podlane's sidecar was injected. Container app uses port 15101, on which Podlane listens in the Pod.",
        is_warning=True,
    )  # fmt: skip


def test_a_skip_is_told_where_it_surprises() -> None:
    found = after_mutation(owned(pod(hostNetwork=True)))
    assert found is not None
    assert (found.reason, found.is_warning) == (EventReason.SKIPPED, True)
    assert found.message.startswith("This Pod is not held to limits. It uses its node's network")
    assert after_validation(owned(pod(hostNetwork=True))) is None, "the mutating webhook has told it"
    assert after_mutation(owned(pod(labels={"podlane.io/inject": "false"}))) is None


def test_a_refusal_is_told_with_its_remedy() -> None:
    found = after_mutation(owned(pod(annotations=FAST)))
    assert found is not None
    assert (found.reason, found.is_warning) == (EventReason.REFUSED, True)
    assert found.message.startswith("podlane.io/egress-bandwidth: 'fast' is not a Kubernetes quantity. Write ")


def test_the_validating_webhook_tells_refusals_only() -> None:
    found = after_validation(owned(pod()))
    assert found is not None
    assert found.reason is EventReason.REFUSED
    assert "came out of admission without container podlane" in found.message
    assert after_validation(owned(injected(pod()))) is None


def test_what_was_injected_before_is_not_told_again() -> None:
    """The mutating webhook is asked once more when others have changed the Pod."""
    assert after_mutation(owned(injected(pod()))) is None
    changed = owned(injected(pod()))
    changed["spec"]["initContainers"].reverse()
    changed["spec"]["initContainers"][0]["command"] = ["sleep"]
    assert after_mutation(changed) is None


def test_several_lines_become_one_that_is_short_and_printable() -> None:
    wrong = {f"podlane.io/x{'y' * 90}{number}\u0085\ufffe\u202e": "" for number in range(20)}
    found = after_mutation(owned(pod(annotations=wrong)))
    assert found is not None
    assert len(found.message) <= 1000
    assert found.message.isprintable()
    assert "problems in the Pod's annotations: - podlane.io/" in found.message


@pytest.mark.parametrize(
    "request_",
    [
        {"dryRun": True},
        {"operation": "UPDATE"},
        {"namespace": ""},
        {"namespace": "../kube-system"},
        {"namespace": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("annotations", [LIMITS, FAST], ids=["injected", "refused"])
def test_these_are_not_told(request_: dict[str, Any], annotations: dict[str, str]) -> None:
    assert after_mutation(owned(pod(annotations=annotations)), **request_) is None
    assert after_validation(owned(pod(annotations=annotations)), **request_) is None


@pytest.mark.parametrize(
    "owner",
    [
        {"controller": False},
        {"controller": "true"},
        {"name": "../../secrets/x"},
        {"name": "a" * 254},
        {"name": None},
        {"name": ""},
        {"kind": "Replica Set"},
        {"kind": ["ReplicaSet"]},
        {"apiVersion": "apps/v1/x"},
        {"apiVersion": "APPS/v1"},
        {"uid": "x" * 64},
        {"uid": ""},
        {"uid": "a b\n"},
        {"apiVersion": "v1", "kind": "Node"},
    ],
    ids=str,
)
def test_what_is_no_object_of_the_namespace_hears_nothing(owner: dict[str, Any]) -> None:
    """The API server has not looked at owner references yet."""
    assert after_mutation(owned(pod(annotations=FAST), **owner)) is None


def test_a_pod_without_a_controller_has_nobody_to_tell() -> None:
    assert after_mutation(pod(annotations=FAST)) is None


def test_templates_are_answered_and_not_told() -> None:
    document = review(
        {"metadata": {"name": "web", "ownerReferences": [OWNER]}, "spec": {"template": owned(pod(annotations=FAST))}},
        kind={"group": "apps", "version": "v1", "kind": "Deployment"},
    )
    reply = validate_template(document, USUAL, no_policies)
    assert not reply["response"]["allowed"]
    assert mutated(document, reply) is validated(document, reply) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200)
@given_(
    request=st.dictionaries(st.sampled_from(["object", "namespace", "kind", "operation", "dryRun"]), JSON), reply=JSON
)
def test_whatever_is_reviewed_it_is_told_or_not(request: Mapping[str, Any], reply: Any) -> None:
    document = review(owned(pod()))
    document["request"].update(request)
    for told in (mutated, validated):
        found = told(document, {"response": reply})
        assert found is None or json.dumps(found.message)
