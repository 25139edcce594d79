"""What a namespace decides about its Pods: limits for all, defaults, and the most that they may ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from injected_pods import LIMITS, SHARED, USUAL, applied, pod
from test_injector_admission import answer, patched, review

from injector.pod.admission import mutate, validate
from injector.pod.patch import patch
from injector.pod.plan import InjectionPlan, Skip, plan
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.namespace import NamespaceRules

ENFORCED = NamespaceRules(enforced=True)
DEFAULTS = {"podlane.io/egress-bandwidth": "50M", "podlane.io/classes": "[{name: a, rate: 1Mbit, match: {port: 25}}]"}
CEILINGS = {"podlane.io/max-egress-bandwidth": "100M", "podlane.io/max-ingress-bandwidth": "200M"}


def rules(annotations: dict[str, str], *, enforced: bool = False) -> NamespaceRules:
    return NamespaceRules.from_annotations(annotations, enforced=enforced)


def asked(webhook: Callable[..., dict[str, Any]], given: Any, of: NamespaceRules, **more: Any) -> dict[str, Any]:
    """The answer about a Pod in a namespace with these rules."""
    shared = more.pop("shared", "total: 30Mbit\ningress: {total: 1Gbit}")
    response = webhook(review(given, **more), USUAL, lambda _namespace, _name: shared, lambda: of)["response"]
    assert isinstance(response, dict)
    return response


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pod(labels={"podlane.io/inject": "false"}), 'Its label podlane.io/inject is "false".'),
        (pod(annotations={}), "It has no limits"),
        (pod(hostNetwork=True), "It uses its node's network"),
        (pod(os={"name": "windows"}), "It runs on Windows"),
    ],
    ids=["opted out", "no limits", "host network", "windows"],
)
def test_where_limits_are_enforced_no_pod_is_without(
    webhook: Callable[..., dict[str, Any]], given: dict[str, Any], words: str
) -> None:
    refused = asked(webhook, given, ENFORCED)
    assert refused["allowed"] is False
    assert words in refused["status"]["message"]
    assert "(its label podlane.io/enforce)" in refused["status"]["message"]
    assert asked(webhook, given, NamespaceRules())["allowed"]


def test_a_mirror_of_a_static_pod_runs_already() -> None:
    mirror = pod(annotations={"kubernetes.io/config.mirror": "x"})
    assert isinstance(plan(mirror, USUAL, lambda _: None, ENFORCED), Skip)


def test_pods_get_the_defaults_of_their_namespace_once_and_keep_their_own() -> None:
    mine = {"podlane.io/egress-bandwidth": "10M"}
    for own in ({}, mine):
        given = pod(annotations=own)
        made = patched(given, asked(mutate, given, rules(DEFAULTS)))
        found = made["metadata"]["annotations"]
        assert {name: found[name] for name in DEFAULTS} == {**DEFAULTS, **own}
        assert asked(validate, made, rules(DEFAULTS)) == {"uid": review({})["request"]["uid"], "allowed": True}
        assert "patch" not in asked(mutate, made, rules(DEFAULTS))


def test_a_pod_without_metadata_gets_the_defaults_too() -> None:
    given = {"spec": {"containers": [{"name": "a", "image": "a"}]}}
    made = plan(given, USUAL, lambda _: None, rules(DEFAULTS))
    assert isinstance(made, InjectionPlan)
    assert applied(given, patch(given, made))["metadata"]["annotations"].items() >= DEFAULTS.items()


def test_an_annotation_for_the_bandwidth_plugin_is_the_pods_own() -> None:
    given = pod(annotations={"kubernetes.io/egress-bandwidth": "10M"})
    made = patched(given, asked(mutate, given, rules(DEFAULTS)))
    assert "podlane.io/egress-bandwidth" not in made["metadata"]["annotations"]


def test_validation_refuses_a_pod_that_came_without_the_defaults() -> None:
    message = asked(validate, pod(annotations={}), rules(DEFAULTS))["status"]["message"]
    assert "without annotation podlane.io/egress-bandwidth, annotation podlane.io/classes, container podlane" in message


@pytest.mark.parametrize("webhook", [mutate, validate])
@pytest.mark.parametrize("name", ["podlane.io/egress-bandwidth", "kubernetes.io/egress-bandwidth"])
def test_more_than_the_namespace_allows_is_refused(webhook: Callable[..., dict[str, Any]], name: str) -> None:
    given = pod(annotations={name: "1G", "podlane.io/ingress-bandwidth": "201M"})
    message = asked(webhook, given, rules(CEILINGS))["status"]["message"]
    assert f"{name}: 1G is more than the namespace allows its Pods, 100M. Lower it" in message
    assert "podlane.io/ingress-bandwidth: 201M is more than the namespace allows its Pods, 200M." in message


@pytest.mark.parametrize(
    ("own", "sent", "received"),
    [
        pytest.param({"podlane.io/egress-bandwidth": "100M"}, "100M", "200M", id="of its own"),
        pytest.param(SHARED, "30M", "200M", id="shared"),
        pytest.param({**SHARED, "podlane.io/ingress-bandwidth": "1M"}, "30M", "1M", id="both"),
    ],
)
def test_under_a_maximum_the_totals_are_in_the_pod_where_no_config_map_can_change_them(
    own: dict[str, str], sent: str, received: str
) -> None:
    given = pod(annotations=own)
    made = patched(given, asked(mutate, given, rules(CEILINGS)))
    found = made["metadata"]["annotations"]
    assert (found["podlane.io/egress-bandwidth"], found["podlane.io/ingress-bandwidth"]) == (sent, received)
    assert asked(validate, made, rules(CEILINGS), shared="total: 10Gbit")["allowed"]


def test_a_running_pod_cannot_be_changed_beyond_the_maximum() -> None:
    given = pod(annotations=SHARED)
    before = patched(given, asked(mutate, given, rules(CEILINGS)))
    after = copy.deepcopy(before)
    after["metadata"]["annotations"]["podlane.io/egress-bandwidth"] = "101M"
    message = asked(validate, after, rules(CEILINGS), operation="UPDATE", before=before)["status"]["message"]
    assert "101M is more than the namespace allows" in message
    del after["metadata"]["annotations"]["podlane.io/egress-bandwidth"]
    message = asked(validate, after, rules(CEILINGS), operation="UPDATE", before=before)["status"]["message"]
    assert "its Pods need podlane.io/egress-bandwidth. Leave that in the Pod." in message


def test_a_running_pod_is_not_held_to_defaults_that_came_later() -> None:
    before = patched(pod(), answer(mutate, review(pod())))
    after = copy.deepcopy(before)
    after["metadata"]["annotations"]["podlane.io/egress-bandwidth"] = "20M"
    later = rules({"podlane.io/policy": "lanes"}, enforced=True)
    assert asked(validate, after, later, operation="UPDATE", before=before) == {
        "uid": review({})["request"]["uid"],
        "allowed": True,
    }


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"podlane.io/max-egres-bandwidth": "1M"}, "podlane.io/max-egres-bandwidth, which there is not"),
        ({"podlane.io/max-egress-bandwidth": "lots"}, "podlane.io/max-egress-bandwidth cannot be read: 'lots' is not"),
    ],
)
def test_what_a_namespace_says_wrongly_is_told_to_its_pods(annotations: dict[str, str], words: str) -> None:
    with pytest.raises(AnnotationsError, match=words):
        rules(annotations)


def test_annotations_of_others_on_a_namespace_mean_nothing() -> None:
    assert rules({"openshift.io/sa.scc.mcs": "s0", "kubernetes.io/egress-bandwidth": "1M"}) == NamespaceRules()


@pytest.mark.parametrize("webhook", [mutate, validate])
def test_a_namespace_with_wrong_annotations_lets_no_pod_in(webhook: Callable[..., dict[str, Any]]) -> None:
    def wrong() -> NamespaceRules:
        return rules({"podlane.io/max-egress-bandwidth": "lots"})

    response = webhook(review(pod(annotations=LIMITS)), USUAL, lambda *_: None, wrong)["response"]
    assert "Ask your cluster's administrator to correct it." in response["status"]["message"]
