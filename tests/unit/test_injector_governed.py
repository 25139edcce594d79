"""The injector and policies of the cluster: who gets a sidecar by them, with what, and who may write what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from admission_reviews import answer, changed, patched, review
from injected_pods import LIMITS, pod
from test_cluster_policies import ctpol, lane, tpol, verdict

from injector.pod.admission import mutate, validate, validate_for_agent
from injector.pod.templates import validate_template
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.pod.annotations import EFFECTIVE
from traffic_policy.pod.governed import NOTHING, governed
from traffic_policy.pod.mode import Mode
from traffic_policy.pod.namespace import NamespaceRules
from traffic_policy.units import Rate

WEB = tpol("web", classes=[lane("mail")])
GUARD = ctpol("guard", caps={"total": "20Mbit"})
BARE: Mapping[str, str] = {}
FORGED = {EFFECTIVE: '{"policy":{"name":"x","uid":"y","generation":1,"spec":{"total":"9Tbit"}}}'}


def rules(*policies: PolicyObject, **more: Any) -> NamespaceRules:
    return NamespaceRules(verdict=verdict(*policies), **more)


def asked(webhook: Any, document: Any, held: NamespaceRules) -> dict[str, Any]:
    return answer(lambda *given: webhook(*given, lambda: held), document)


def created(given: dict[str, Any], held: NamespaceRules) -> dict[str, Any]:
    """The Pod that comes out of admission."""
    made = patched(given, asked(mutate, review(given), held))
    assert asked(validate, review(made), held)["allowed"]
    again = asked(mutate, review(made), held)
    assert "patch" not in again, "a second time changes nothing"
    return made


def refusal(webhook: Any, document: Any, held: NamespaceRules) -> str:
    response = asked(webhook, document, held)
    assert not response["allowed"]
    return str(response["status"]["message"])


def in_force(made: Mapping[str, Any]) -> Any:
    """What the sidecar of a Pod will find."""
    policy = governed(made["metadata"]["annotations"])
    assert json.loads(made["metadata"]["annotations"]["podlane.io/status"])["policy"] == policy.digest
    return policy


def test_a_policy_alone_brings_a_sidecar_which_begins_with_it() -> None:
    made = created(pod(annotations=BARE), rules(WEB))
    policy = in_force(made)
    assert (str(policy.policy.total), [each.name for each in policy.policy.classes]) == ("100Mbit", ["mail"])
    assert set(made["metadata"]["annotations"]) == {EFFECTIVE, "podlane.io/status"}


def test_no_policy_and_no_annotation_is_told_as_that() -> None:
    response = asked(mutate, review(pod(annotations=BARE)), rules(tpol("other", namespace="other")))
    assert "patch" not in response
    assert "no TrafficPolicy is for it, and no annotation podlane.io/..." in response["warnings"][0]


def test_caps_alone_are_no_limits() -> None:
    assert "patch" not in asked(mutate, review(pod(annotations=BARE)), rules(GUARD))


def test_annotations_go_over_it_and_caps_lower_both() -> None:
    given = pod(annotations={"podlane.io/egress-bandwidth": "50M"})
    response = asked(mutate, review(given), rules(WEB, GUARD))
    assert any("total is 20Mbit instead of 50Mbit, by the caps of ClusterTrafficPolicy guard." in each for each in response["warnings"])  # fmt: skip
    policy = in_force(created(given, rules(WEB, GUARD)))
    assert (str(policy.policy.total), [each.name for each in policy.policy.classes]) == ("20Mbit", ["mail"])


def test_each_injected_pod_says_that_policies_reach_it_later() -> None:
    annotations = created(pod(), rules())["metadata"]["annotations"]
    assert json.loads(annotations["podlane.io/status"])["governed"] is True
    assert EFFECTIVE not in annotations, "where there is nothing to say yet"


def test_where_policies_are_not_known_there_is_none() -> None:
    given = pod()
    annotations = created(given, NamespaceRules())["metadata"]["annotations"]
    assert EFFECTIVE not in annotations
    assert "governed" not in annotations["podlane.io/status"]


@pytest.mark.parametrize("held", [NamespaceRules(), rules(), rules(WEB)], ids=["not known", "none", "one"])
def test_what_an_author_writes_there_is_overwritten(held: NamespaceRules) -> None:
    made = created(pod(annotations={**LIMITS, **FORGED}), held)
    assert "9Tbit" not in made["metadata"]["annotations"][EFFECTIVE]
    assert "patch" not in asked(mutate, review(pod(annotations=FORGED)), rules()), "and it is no limit of its own"


def test_where_limits_are_enforced_a_policy_is_one() -> None:
    given = pod(annotations=BARE, labels={"podlane.io/inject": "true"})
    created(given, rules(WEB, enforced=True))
    said = refusal(mutate, review(pod(annotations=BARE)), rules(enforced=True))
    assert "Every Pod of this namespace has to be held to limits" in said


def test_the_namespaces_maximum_caps_a_policy_and_writes_no_total() -> None:
    most = rules(WEB, most_sent=Rate.parse("40Mbit"))
    made = created(pod(annotations=BARE), most)
    assert set(made["metadata"]["annotations"]) == {EFFECTIVE, "podlane.io/status"}
    assert str(in_force(made).policy.total) == "40Mbit"
    asks_more = pod(annotations={"podlane.io/egress-bandwidth": "50M"})
    assert "50M is more than the namespace allows its Pods, 40M." in refusal(mutate, review(asks_more), most)


def test_a_policy_that_cannot_be_honoured_refuses_the_pod_with_its_name() -> None:
    broken = tpol("web", classes=[lane("a"), lane("b")])
    said = refusal(mutate, review(pod(annotations=BARE)), rules(broken))
    assert "TrafficPolicy web: classes[1].match[0]" in said


def test_host_network_is_not_meant_by_policies() -> None:
    given = pod(annotations=BARE, hostNetwork=True)
    assert "patch" not in asked(mutate, review(given), rules(WEB))
    held = rules(WEB, mode=Mode.AGENT, enforced=True)
    assert "It has no limits." in refusal(validate_for_agent, review(given), held)


def test_agents_pods_are_checked_by_the_same() -> None:
    agents = rules(WEB, GUARD, mode=Mode.AGENT)
    assert asked(validate_for_agent, review(pod(annotations=BARE)), agents)["allowed"]
    own = {"podlane.io/classes": '[{"name": "x", "rate": "95Mbit", "match": {"port": 80}}]'}
    assert "Cannot guarantee 105 Mbit/s inside 100 Mbit/s." in refusal(
        validate_for_agent, review(pod(annotations=own)), agents
    )
    broken = rules(tpol("web", classes=[lane("a"), lane("b")]), mode=Mode.AGENT)
    assert asked(validate_for_agent, review(pod(annotations=BARE)), broken)["allowed"]


@pytest.mark.parametrize("way", ["egress", "ingress"])
def test_bandwidth_annotations_beside_a_policy_are_told_who_creates_the_pod(way: str) -> None:
    given = pod(annotations={f"kubernetes.io/{way}-bandwidth": "10M"})
    place = "total" if way == "egress" else "ingress.total"
    words = f"kubernetes.io/{way}-bandwidth takes the place of {place} of TrafficPolicy web."
    for webhook, held in ((validate_for_agent, rules(WEB, mode=Mode.AGENT)), (mutate, rules(WEB))):
        told = " ".join(asked(webhook, review(given), held)["warnings"])
        assert words in told
        assert "Remove the annotation" in told
    quiet = pod(annotations={"podlane.io/egress-bandwidth": "20M"})
    assert "warnings" not in asked(validate_for_agent, review(quiet), rules(WEB, mode=Mode.AGENT))


def test_templates_are_judged_with_the_policies() -> None:
    template = {"metadata": {}, "spec": pod(annotations=BARE)["spec"]}
    deployment = {"metadata": {"name": "web"}, "spec": {"template": template}}
    about = review(deployment, kind={"group": "apps", "version": "v1", "kind": "Deployment"})
    assert "warnings" not in asked(validate_template, about, rules(WEB))
    assert "no TrafficPolicy is for it" in asked(validate_template, about, rules())["warnings"][0]


def test_only_the_truth_can_be_written_on_a_running_pod() -> None:
    before = created(pod(annotations=BARE), rules(WEB))
    later = rules(tpol("web", classes=[lane("mail", "20Mbit")]))
    after = created(pod(annotations=BARE), later)["metadata"]["annotations"][EFFECTIVE]
    told = {**before, "metadata": {**before["metadata"], "annotations": {**before["metadata"]["annotations"], EFFECTIVE: after}}}  # fmt: skip
    assert asked(validate, review(told, "UPDATE", before), later) == {
        "uid": review(told)["request"]["uid"],
        "allowed": True,
    }
    for forged in (
        told,
        changed(before, effective_policy=FORGED[EFFECTIVE]),
        changed(before, effective_policy=NOTHING),
    ):
        said = refusal(validate, review(forged, "UPDATE", before), rules(WEB))
        assert f"{EFFECTIVE} is not what policies of the cluster say of this Pod." in said
    gone = {**before, "metadata": {**before["metadata"], "annotations": {}}}
    assert not asked(validate, review(gone, "UPDATE", before), rules(WEB))["allowed"]
    silent = json.loads(before["metadata"]["annotations"]["podlane.io/status"]) | {"governed": False}
    said = refusal(validate, review(changed(before, status=json.dumps(silent)), "UPDATE", before), rules(WEB))
    assert "By podlane.io/status Podlane's operator knows" in said
    not_known = NamespaceRules()
    assert not asked(validate, review(told, "UPDATE", before), not_known)["allowed"]


def test_the_last_limit_cannot_be_taken_away_but_for_a_policy() -> None:
    before = created(pod(annotations=LIMITS), rules())
    bare = {k: v for k, v in before["metadata"]["annotations"].items() if k not in LIMITS}
    after = {**before, "metadata": {**before["metadata"], "annotations": bare}}
    assert "no annotation would say which any more" in refusal(validate, review(after, "UPDATE", before), rules())
    assert asked(validate, review(after, "UPDATE", before), rules(WEB))["allowed"]
