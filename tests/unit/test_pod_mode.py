"""Pods that are not held by a sidecar: what the webhooks make of the label podlane.io/mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from injected_pods import LIMITS, USUAL, pod
from test_injector_admission import review

from injector.manifests.edit import inject_text
from injector.pod.admission import mutate, validate, validate_for_agent, validate_for_agent_by_default
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.mode import Mode, namespace_mode
from traffic_policy.pod.namespace import NamespaceRules

AGENT = {"podlane.io/mode": "agent"}
FOLLOW = "total: 9Mbit\nrequests: follow"
BY_AGENT = NamespaceRules(mode=Mode.AGENT)


def asked(webhook: Callable[..., dict[str, Any]], given: Any, rules: NamespaceRules, **more: Any) -> dict[str, Any]:
    shared = more.pop("shared", "total: 30Mbit")
    response = webhook(review(given, **more), USUAL, lambda _namespace, _name: shared, lambda: rules)["response"]
    assert isinstance(response, dict)
    return response


def refusal(response: dict[str, Any]) -> str:
    assert response["allowed"] is False
    return str(response["status"]["message"])


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize(
    ("given", "rules"),
    [
        (pod(labels=AGENT), NamespaceRules()),
        (pod(), BY_AGENT),
        (pod(annotations={}), BY_AGENT),
        (pod(labels={"podlane.io/mode": "none"}), BY_AGENT),
        (pod(), NamespaceRules(mode=Mode.NONE)),
        (pod(labels={**AGENT, "podlane.io/inject": "false"}), NamespaceRules()),
        (pod(labels={**AGENT, "podlane.io/inject": "true"}), NamespaceRules()),
        (pod(annotations={}, labels=AGENT), NamespaceRules({"podlane.io/egress-bandwidth": "5M"})),
    ],
    ids=["Pod", "namespace", "no limits", "Pod none", "namespace none", "not injected", "both labels", "defaults"],
)
def test_nothing_is_injected(
    webhook: Callable[..., dict[str, Any]], given: dict[str, Any], rules: NamespaceRules
) -> None:
    assert asked(webhook, given, rules) == {"uid": review({})["request"]["uid"], "allowed": True}


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        (pod(labels={"podlane.io/mode": "sidecar"}), BY_AGENT),
        (pod(labels={"podlane.io/inject": "true"}), BY_AGENT),
        (pod(), NamespaceRules(mode=Mode.SIDECAR)),
    ],
    ids=["mode", "inject", "namespace"],
)
def test_who_asks_for_a_sidecar_gets_one(given: dict[str, Any], rules: NamespaceRules) -> None:
    assert "patch" in asked(mutate, given, rules)
    assert "came out of admission without" in refusal(asked(validate, given, rules))


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize(
    ("given", "rules", "words"),
    [
        (pod(annotations={**LIMITS, "podlane.io/clases": "[]"}, labels=AGENT), NamespaceRules(), "podlane.io/classes?"),
        (pod(annotations={"podlane.io/policy": "lanes"}), BY_AGENT, "requests: The node agent sees the first packets"),
        (pod(annotations={}, labels=AGENT), NamespaceRules(), "no limit is set"),
        (pod(labels=AGENT, hostNetwork=True), NamespaceRules(), "would hold the whole node"),
        (pod(labels={"podlane.io/mode": "on"}), NamespaceRules(), "'on' is not a value of this label. Write agent"),
        (pod(annotations={"podlane.io/egress-bandwidth": "2G"}, labels=AGENT),
         NamespaceRules.from_annotations({"podlane.io/max-egress-bandwidth": "1G"}), "more than the namespace allows"),
        (pod(labels={"podlane.io/mode": "none"}), NamespaceRules(enforced=True), "Its mode is none"),
        (pod(annotations={}), NamespaceRules(enforced=True, mode=Mode.AGENT), "It has no limits."),
        (pod(annotations={**LIMITS, "podlane.io/mode": "agent"}), NamespaceRules(), "This is a label"),
    ],
    ids=["misspelt", "relay", "no limits", "host network", "value", "maximum", "enforced none", "enforced", "annotation"],
)  # fmt: skip
def test_what_an_agent_cannot_honour_is_refused(
    webhook: Callable[..., dict[str, Any]], given: dict[str, Any], rules: NamespaceRules, words: str
) -> None:
    assert words in refusal(asked(webhook, given, rules, shared=FOLLOW))


def test_a_change_of_a_running_pod_counts_with_its_namespaces_defaults() -> None:
    rules = NamespaceRules({"podlane.io/egress-bandwidth": "50M"}, mode=Mode.AGENT)
    before = pod(annotations={})

    def changed(text: str) -> dict[str, Any]:
        after = pod(annotations={"podlane.io/classes": text})
        return asked(validate, after, rules, operation="UPDATE", oldObject=before)

    assert changed("[{name: a, rate: 1Mbit, match: {port: 25}}]")["allowed"]
    assert "ceil" in refusal(changed("[{name: a, rate: 1Mbit, ceil: 7, match: {port: 25}}]"))


SIDECAR = {"initContainers": [{"name": "podlane", "image": "p", "restartPolicy": "Always"}], "containers": []}
WRONG = {"podlane.io/egress-bandwidth": "10Mbit"}


@pytest.mark.parametrize(
    ("given", "rules", "by_label", "by_default"),
    [
        (pod(annotations=WRONG, labels=AGENT), NamespaceRules(), False, False),
        (pod(annotations=WRONG), BY_AGENT, False, False),
        (pod(annotations=WRONG), NamespaceRules(), True, False),
        (pod(annotations=WRONG, labels={"podlane.io/mode": "none"}), BY_AGENT, True, True),
        (pod(annotations=WRONG, labels={"podlane.io/mode": "sidecar"}), BY_AGENT, True, True),
        (pod(annotations=WRONG), NamespaceRules(mode=Mode.NONE), True, True),
        (pod(annotations=WRONG, labels={"podlane.io/inject": "true"}), NamespaceRules(), True, True),
        ({**pod(annotations=WRONG, labels=AGENT), "spec": SIDECAR}, BY_AGENT, True, True),
        (pod(), NamespaceRules(), True, True),
    ],
    ids=["Pod", "namespace", "no label", "none", "sidecar", "none there", "inject", "has a sidecar", "nothing wrong"],
)
def test_agents_pods_are_refused_where_nothing_is_injected(
    given: dict[str, Any], rules: NamespaceRules, by_label: bool, by_default: bool
) -> None:
    """Others pass: they are reviewed elsewhere, or nobody holds them."""
    assert asked(validate_for_agent, given, rules)["allowed"] is by_label
    assert asked(validate_for_agent_by_default, given, rules)["allowed"] is by_default


def test_a_wrong_label_of_a_namespace_is_told() -> None:
    with pytest.raises(AnnotationsError, match="'yes', which the namespace has, is not a value"):
        NamespaceRules.from_annotations({}, {"podlane.io/mode": "yes"})
    assert namespace_mode({"podlane.io/mode": "sidecar"}) is Mode.SIDECAR
    assert namespace_mode({}) is None


def test_inject_leaves_a_manifest_of_the_agents_alone_and_checks_it() -> None:
    manifest = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {podlane.io/mode: agent}
  annotations: {podlane.io/egress-bandwidth: 10M}
spec:
  containers: [{name: web, image: web}]
"""
    result = inject_text(manifest, USUAL)
    assert result.text == manifest
    assert result.outcomes[0].action == "left alone. Its node's agent holds it to its limits."
