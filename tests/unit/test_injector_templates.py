"""Pod templates in workloads that are applied: what is refused, what is warned of, and what is nobody's business."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from injected_pods import LIMITS, SHARED, pod
from test_injector_admission import UID, answer, no_policies, review

from injector.errors import InjectionError, SharedPolicyError
from injector.manifests.edit import inject_text
from injector.pod.admission import SharedPolicies, mutate, validate
from injector.pod.defaults import InjectionDefaults
from injector.pod.templates import validate_template
from traffic_policy.pod.namespace import NamespaceRules

WRONG = LIMITS | {"podlane.io/loglevel": "info"}
ON_THE_NODES_NETWORK = "It uses its node's network, and limits there would hold the whole node."
MISPLACED = (
    "podlane.io/mesh, label podlane.io/inject: in metadata of Deployment/web this counts for nothing. "
    "Write it in spec.template.metadata."
)
ALLOWED = {"uid": UID, "allowed": True}
PLACES = {
    ("apps", "Deployment"): "spec.template",
    ("apps", "StatefulSet"): "spec.template",
    ("apps", "DaemonSet"): "spec.template",
    ("apps", "ReplicaSet"): "spec.template",
    ("", "ReplicationController"): "spec.template",
    ("batch", "Job"): "spec.template",
    ("batch", "CronJob"): "spec.jobTemplate.spec.template",
    ("argoproj.io", "Rollout"): "spec.template",
}
KINDS = pytest.mark.parametrize(("kind", "place"), PLACES.items(), ids=[kind for _, kind in PLACES])


def workload(template: dict[str, Any], place: str = "spec.template", **metadata: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"metadata": {"name": "web", **metadata}, "spec": {}}
    inner = made
    for step in place.split(".")[:-1]:
        inner = inner.setdefault(step, {})
    inner["template"] = template
    return made


def template_review(
    given: Any, before: Any = None, kind: tuple[str, str] = ("apps", "Deployment"), **request: Any
) -> dict[str, Any]:
    group, name = kind
    operation = "CREATE" if before is None else "UPDATE"
    return review(given, operation, before, kind={"group": group, "version": "v1", "kind": name}, **request)


def judged(template: dict[str, Any], shared: SharedPolicies = no_policies, **metadata: Any) -> dict[str, Any]:
    return answer(validate_template, template_review(workload(template, **metadata)), shared=shared)


@KINDS
def test_a_wrong_template_is_refused_wherever_it_is(kind: tuple[str, str], place: str) -> None:
    response = answer(validate_template, template_review(workload(pod(annotations=WRONG), place), kind=kind))
    assert response["status"]["code"] == 422
    assert response["status"]["message"] == (
        f"{place}: podlane.io/loglevel: There is no such annotation. Did you mean podlane.io/log-level?"
    )
    assert answer(validate_template, template_review(workload(pod(), place), kind=kind)) == ALLOWED


@KINDS
@pytest.mark.parametrize("webhook", [mutate, validate])
def test_the_webhooks_for_pods_leave_templates_alone(webhook: Any, kind: tuple[str, str], place: str) -> None:
    assert answer(webhook, template_review(workload(pod(annotations=WRONG), place), kind=kind)) == ALLOWED


def test_pods_are_left_to_their_own_webhooks() -> None:
    assert answer(validate_template, review(pod(annotations=WRONG))) == ALLOWED


def test_all_problems_are_told_at_once() -> None:
    message = judged(pod(annotations=WRONG | {"podlane.io/mesh": "?"}))["status"]["message"]
    assert message.startswith("spec.template: 2 problems in the Pod's annotations:\n  - podlane.io/loglevel: ")


def test_a_template_that_has_not_changed_is_not_judged() -> None:
    wrong = workload(pod(annotations=WRONG))
    scaled = copy.deepcopy(wrong)
    scaled["spec"]["replicas"] = 3
    scaled["metadata"]["annotations"] = {"example.com/a": "b"}
    assert answer(validate_template, template_review(scaled, wrong)) == ALLOWED
    scaled["spec"]["template"]["spec"]["containers"][0]["image"] = "another"
    assert "There is no such" in answer(validate_template, template_review(scaled, wrong))["status"]["message"]
    mended = workload(pod())
    assert answer(validate_template, template_review(mended, wrong)) == ALLOWED


def test_what_a_controller_made_is_not_judged() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "often", "uid": "1"}
    assert judged(pod(annotations=WRONG), ownerReferences=[owner | {"controller": True}]) == ALLOWED
    assert not judged(pod(annotations=WRONG), ownerReferences=[owner])["allowed"]


@pytest.mark.parametrize("request_", [{"subResource": "scale"}, {"operation": "DELETE"}, {"operation": "CONNECT"}])
def test_nothing_else_that_happens_to_a_workload_is_judged(request_: dict[str, str]) -> None:
    document = template_review(workload(pod(annotations=WRONG)))
    document["request"] |= request_
    assert answer(validate_template, document) == ALLOWED


def test_skips_are_told_where_they_surprise() -> None:
    assert judged(pod(hostNetwork=True))["warnings"] == [
        f"podlane: spec.template: Its Pods are not held to limits. {ON_THE_NODES_NETWORK}"
    ]
    assert judged(pod(labels={"podlane.io/inject": "false"}, annotations=WRONG)) == ALLOWED


def test_warnings_of_a_pod_are_those_of_its_template() -> None:
    taken = pod("app")
    taken["spec"]["containers"][0]["ports"] = [{"containerPort": 15101}]
    (warning,) = answer(mutate, review(taken))["warnings"]
    assert judged(taken)["warnings"] == [warning.replace("podlane: ", "podlane: spec.template: ")]


# --- what may still come ---------------------------------------------------------------------------------------------


def test_a_shared_policy_may_come_later() -> None:
    (warning,) = judged(pod(annotations=SHARED), lambda _namespace, _name: None)["warnings"]
    assert warning.startswith(
        "podlane: spec.template: As its ConfigMap is now, Pods are refused. podlane.io/policy: The Pod's namespace has "
        "no ConfigMap lanes"
    )


def test_a_shared_policy_that_does_not_fit_may_be_changed() -> None:
    given = pod(annotations=SHARED | {"podlane.io/classes": "[{name: a, rate: 8Mbit, match: {port: 1}}]"})
    asked: list[tuple[str, str]] = []

    def read(text: str, namespace: str, name: str) -> str:
        asked.append((namespace, name))
        return text

    (warning,) = judged(given, partial(read, "total: 1Mbit"))["warnings"]
    assert "As its ConfigMap is now, Pods are refused. " in warning
    assert "Cannot guarantee 8 Mbit/s inside 1 Mbit/s" in warning
    assert judged(given, partial(read, "total: 10Mbit")) == ALLOWED
    assert asked == [("shop", "lanes")] * 2


def test_what_is_wrong_whatever_a_shared_policy_says_is_refused() -> None:
    given = pod(annotations=SHARED | {"podlane.io/loglevel": "info"})
    assert "There is no such annotation" in judged(given)["status"]["message"]


def test_a_shared_policy_that_cannot_be_read_is_not_checked() -> None:
    def unreachable(_namespace: str, _name: str) -> str | None:
        raise SharedPolicyError("It is on fire.")

    assert judged(pod(annotations=SHARED), unreachable)["warnings"] == [
        "podlane: spec.template: ConfigMap lanes was not checked: It is on fire."
    ]


# --- namespaces --------------------------------------------------------------------------------------------------------


def under(rules: NamespaceRules, template: dict[str, Any]) -> dict[str, Any]:
    document = template_review(workload(template))
    response: dict[str, Any] = validate_template(document, InjectionDefaults(), no_policies, lambda: rules)["response"]
    return response


def test_the_namespace_s_rules_hold_for_templates() -> None:
    rules = NamespaceRules.from_annotations(
        {"podlane.io/egress-bandwidth": "20M", "podlane.io/max-egress-bandwidth": "50M"}
    )
    assert under(rules, pod(annotations={})) == ALLOWED
    response = under(rules, pod(annotations={"podlane.io/egress-bandwidth": "51M"}))
    assert "51M is more than the namespace allows its Pods, 50M" in response["status"]["message"]


@pytest.mark.parametrize("labels", [{}, {"podlane.io/inject": "false"}], ids=["none", "opted out"])
def test_where_limits_are_enforced_a_template_needs_them(labels: dict[str, str]) -> None:
    given = pod(annotations={} if not labels else LIMITS, labels=labels)
    message = under(NamespaceRules(enforced=True), given)["status"]["message"]
    assert message.startswith("spec.template: Every Pod of this namespace has to be held to limits")


def test_a_namespace_with_wrong_annotations_says_so() -> None:
    def wrong() -> NamespaceRules:
        raise InjectionError("The namespace is wrong.")

    document = template_review(workload(pod()))
    response = validate_template(document, InjectionDefaults(), no_policies, wrong)["response"]
    assert response["status"]["message"] == "spec.template: The namespace is wrong."


# --- in the wrong place -----------------------------------------------------------------------------------------------


def test_annotations_on_the_workload_itself_are_warned_of() -> None:
    here = {"podlane.io/egress-bandwidth": "10M", "podlane.io/mesh": "none", "example.com/a": "b"}
    (warning,) = judged(pod(), annotations=here, labels={"podlane.io/inject": "true"})["warnings"]
    assert warning == f"podlane: {MISPLACED}", "what the template has, too, is only said twice"


def test_podlane_inject_warns_of_them_in_the_same_words() -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\n"
        'metadata: {name: web, annotations: {podlane.io/mesh: none}, labels: {podlane.io/inject: "true"}}\n'
        "spec:\n  template:\n    metadata: {annotations: {podlane.io/egress-bandwidth: 10M}}\n"
        "    spec:\n      containers: [{name: web, image: nginx}]\n"
    )
    (outcome,) = inject_text(text, InjectionDefaults(image="podlane:test")).outcomes
    assert outcome.warnings == (MISPLACED,)


# --- whatever is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{}, None, [], {"spec": None}, {"spec": {"template": None}}, {"spec": {"template": {"spec": 1}}}],
    ids=repr,
)
def test_a_workload_without_a_template_is_nobodys_business(given: Any) -> None:
    assert answer(validate_template, template_review(given)) == ALLOWED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200)
@given_(metadata=JSON, annotations=JSON, labels=JSON, owners=JSON, spec=JSON, before=JSON)
def test_any_template_has_an_answer(**parts: Any) -> None:
    template = {
        "metadata": {"annotations": parts["annotations"], "labels": parts["labels"]},
        "spec": {"containers": parts["spec"]},
    }
    document = workload(template, ownerReferences=parts["owners"], annotations=parts["metadata"])
    response = answer(validate_template, template_review(document, parts["before"]))
    assert response["uid"] == UID
