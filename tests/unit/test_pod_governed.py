"""What the cluster says of a Pod with a sidecar: the annotation, and what it means there, which is what agents do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from test_cluster_policies import ctpol, lane, tpol, verdict

from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.annotations import EFFECTIVE
from traffic_policy.pod.effective import AnnotationsError, PodPolicy
from traffic_policy.pod.governed import MOST_CHARACTERS, NOTHING, Governance, governed
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.units import Rate

OWN = {"podlane.io/egress-bandwidth": "50M"}
CLASSES = {"podlane.io/classes": '[{"name": "mail", "rate": "1Mbit", "match": {"port": 80}}]'}
SHARED = {"podlane.io/policy": "lanes"}
WEB = tpol("web", classes=[lane("mail"), lane("old", port=26)], default={"rate": "5Mbit"})
GUARD = ctpol("guard", caps={"total": "20Mbit", "ceil": "15Mbit", "priority": 5, "ingress": "9Mbit"})

ALIKE: list[tuple[str, list[PolicyObject], Mapping[str, str]]] = [
    ("annotations alone", [], OWN),
    ("a policy alone", [WEB], {}),
    ("the stronger of two", [WEB, tpol("first", priority=1), ctpol("all", total="1Gbit")], {}),
    ("the cluster's alone", [ctpol("all", total="1Gbit", classes=[lane("mail")])], {}),
    ("a total over the policy's", [WEB], OWN),
    ("classes over the policy's", [WEB], CLASSES),
    ("all of them", [WEB], {**OWN, **CLASSES, "podlane.io/default-class": "{rate: 2Mbit}", "podlane.io/ingress-bandwidth": "7M"}),
    ("a ConfigMap instead of it", [WEB], SHARED),
    ("caps on annotations", [GUARD], OWN),
    ("caps on a policy", [WEB, GUARD], {}),
    ("caps of two", [WEB, GUARD, ctpol("hard", caps={"total": "10Mbit"})], CLASSES),
    ("settings that no policy has", [WEB], {"podlane.io/on-failure": "closed", "podlane.io/exclude-outbound-ports": "25"}),
]  # fmt: skip


def by_sidecar(
    policies: list[PolicyObject],
    own: Mapping[str, str],
    rules: NamespaceRules = NO_RULES,
    shared: str | None = "total: 30Mbit",
) -> PodPolicy:
    text = Governance.from_verdict(verdict(*policies), rules).text()
    return governed({**own, EFFECTIVE: text}, shared=shared)


@pytest.mark.parametrize(("policies", "own"), [case[1:] for case in ALIKE], ids=[case[0] for case in ALIKE])
def test_a_sidecar_has_what_an_agent_would_give_the_pod(policies: list[PolicyObject], own: Mapping[str, str]) -> None:
    found = verdict(*policies)
    by_agent = effective_for_agent(own, shared="total: 30Mbit", base=found.base, caps=found.caps)
    assert by_sidecar(policies, own) == by_agent


def test_without_the_annotation_the_others_alone_count() -> None:
    assert governed(OWN) == effective_for_agent(OWN)


def test_the_text_holds_all_and_is_the_same_for_the_same() -> None:
    said = Governance.from_verdict(verdict(WEB, GUARD), NO_RULES)
    assert (said.uid, said.generation) == ("web", 1)
    assert Governance.read(said.text()) == said
    assert Governance.from_verdict(verdict(GUARD, WEB), NO_RULES).text() == said.text()
    assert Governance.from_verdict(verdict(), NO_RULES).text() == NOTHING == "{}"


def test_what_a_namespace_allows_lowers_a_policy() -> None:
    rules = NamespaceRules(most_sent=Rate.parse("10Mbit"), most_received=Rate.parse("2Mbit"))
    policy = by_sidecar([WEB], {}, rules)
    assert (str(policy.policy.total), str(policy.policy.ingress and policy.policy.ingress.total)) == ("10Mbit", "2Mbit")
    assert str(policy.clamps[0]) == (
        "total is 10Mbit instead of 100Mbit, by the caps of podlane.io/max-egress-bandwidth of the namespace."
    )
    assert sum(each.rate.bits_per_second for each in policy.policy.resolved()) <= 10_000_000


def test_a_pod_that_nothing_limits_any_more_is_held_to_nothing() -> None:
    policy = by_sidecar([], {"podlane.io/log-level": "debug"})
    assert str(policy.policy.total) == "10000Gbit"
    assert policy.warnings[-1].startswith("No policy of the cluster is for this Pod any more")
    assert str(by_sidecar([GUARD], {}).policy.total) == "20Mbit", "what caps it counts still"


def test_incomplete_annotations_are_not_released() -> None:
    with pytest.raises(AnnotationsError, match="The classes have nothing to share"):
        by_sidecar([], CLASSES)


def test_what_is_wrong_with_a_policy_is_told_with_its_name() -> None:
    with pytest.raises(AnnotationsError, match=r"TrafficPolicy web: classes\[1\]\.match\[0\]: This match"):
        by_sidecar([tpol("web", classes=[lane("a"), lane("b")])], {})


UNREADABLE: list[Any] = [
    "", "[]", "null", "{", '{"policy": 1}', '{"policy": {}}', '{"caps": 1}', '{"caps": [{}]}', '{"caps": [{"of": "x", "total": "y"}]}',
    '{"policy": {"name": "x", "uid": "y", "generation": "z", "spec": {}}}', '{"policy": {"name": "x", "uid": "y", "generation": 1, "spec": 1}}',
    "[" * 100_000, '{"policy": {"name": "x", "uid": "y", "generation": 1e999, "spec": {}}}',
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_others_wrote_there_is_refused(text: str) -> None:
    with pytest.raises(
        AnnotationsError, match=r"podlane\.io/effective-policy: Podlane's injector or operator wrote it"
    ):
        governed({**OWN, EFFECTIVE: text})


def test_a_policy_that_no_annotation_can_hold_is_refused() -> None:
    huge = tpol("huge", classes=[lane("a", match=[{"sni": [f"{'x' * 60}{i}.example.com" for i in range(2000)]}])])
    with pytest.raises(AnnotationsError, match=f"TrafficPolicy huge has .* which may have {MOST_CHARACTERS}"):
        Governance.from_verdict(verdict(huge), NO_RULES).text()
