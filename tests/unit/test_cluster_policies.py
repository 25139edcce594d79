"""Who wins: which policies a Pod has, out of the objects of a cluster, its annotations and caps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.objects import ClusterPolicies, PodLabels, PolicyObject, PolicyVerdict
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.effective import AnnotationsError, PodPolicy
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.pod.provenance import origins

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
WEB = {"app": "web", "tier": "front"}
SHOP = PodLabels("shop", {"team": "a"}, WEB)


def lane(name: str, rate: str = "10Mbit", port: int = 25, **more: Any) -> dict[str, Any]:
    return {"name": name, "rate": rate, "match": [{"port": [port]}], **more}


def selecting(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


def tpol(name: str, created: str = OLD, namespace: str = "shop", **spec: Any) -> PolicyObject:
    about = {"name": name, "namespace": namespace, "uid": name, "generation": 1, "creationTimestamp": created}
    return PolicyObject.from_object(TRAFFIC_POLICY, {"metadata": about, "spec": {"total": "100Mbit", **spec}})


def ctpol(name: str, created: str = OLD, **spec: Any) -> PolicyObject:
    about = {"name": name, "uid": name, "generation": 1, "creationTimestamp": created}
    return PolicyObject.from_object(CLUSTER_TRAFFIC_POLICY, {"metadata": about, "spec": spec})


def verdict(*policies: PolicyObject, pod: PodLabels = SHOP) -> PolicyVerdict:
    found = ClusterPolicies(policies).verdict(pod)
    assert ClusterPolicies(reversed(policies)).verdict(pod).winner == found.winner, "their order does not matter"
    return found


WHO_WINS = [
    ("nobody is there", [], None, {}),
    ("another namespace's is not for it", [tpol("a", namespace="other")], None, {}),
    ("without a selector it is for all Pods of the namespace", [tpol("a")], "a", {}),
    ("all labels of the selector have to be there", [tpol("a", podSelector=selecting(app="web", tier="back"))], None, {}),
    ("the cluster's is for all namespaces", [ctpol("c", total="1Gbit")], "c", {}),
    ("but for those its selector takes", [ctpol("c", total="1Gbit", namespaceSelector=selecting(team="b"))], None, {}),
    ("nearer is stronger", [ctpol("c", total="1Gbit", priority=9), tpol("a", NEW)], "a", {"c": "TrafficPolicy a is nearer to the Pod."}),
    (
        "the greater priority first",
        [tpol("a", podSelector=selecting(app="web")), tpol("b", NEW, priority=1)], "b",
        {"a": "TrafficPolicy b has the greater priority (1 against 0)."},
    ),
    (
        "then the more specific selector",
        [tpol("a"), tpol("b", NEW, podSelector=selecting(app="web"))], "b",
        {"a": "TrafficPolicy b has the more specific selector (1 condition against 0)."},
    ),
    (
        "both selectors of the cluster's count",
        [ctpol("a", total="1G", podSelector=selecting(app="web")), ctpol("b", NEW, total="1G", podSelector=selecting(app="web"), namespaceSelector=selecting(team="a"))],
        "b", {"a": "ClusterTrafficPolicy b has the more specific selector (2 conditions against 1)."},
    ),
    ("then the older one", [tpol("a", NEW), tpol("b")], "b", {"a": "TrafficPolicy b is older."}),
    ("then the name", [tpol("b"), tpol("a")], "a", {"b": "TrafficPolicy a has the name that sorts first, both being as old."}),
    ("caps alone are no policy", [ctpol("c", caps={"total": "1Gbit"}, priority=9), ctpol("d", NEW, total="1Gbit")], "d", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policies", "winner", "overruled"), [case[1:] for case in WHO_WINS], ids=[case[0] for case in WHO_WINS]
)
def test_who_wins(policies: list[PolicyObject], winner: str | None, overruled: Mapping[str, str]) -> None:
    found = verdict(*policies)
    assert (found.winner.name if found.winner else None) == winner
    assert {each.policy.name: str(each) for each in found.overruled} == overruled


def test_a_conflict_is_between_two_of_one_kind() -> None:
    found = verdict(tpol("a"), tpol("b", NEW), ctpol("c", total="1Gbit"), ctpol("d", NEW, total="1Gbit"))
    assert {each.policy.name: each.conflict for each in found.overruled} == {"b": True, "c": False, "d": True}


@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        ({"key": "app", "operator": "In", "values": ["db", "web"]}, True),
        ({"key": "app", "operator": "In", "values": ["db"]}, False),
        ({"key": "app", "operator": "NotIn", "values": ["db"]}, True),
        ({"key": "none", "operator": "NotIn", "values": ["db"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, False),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_are_those_of_kubernetes(expression: dict[str, Any], taken: bool) -> None:
    assert (verdict(tpol("a", podSelector={"matchExpressions": [expression]})).winner is not None) is taken


def test_one_that_cannot_be_read_is_for_no_pod_and_says_why() -> None:
    bad = tpol("a", podSelector={"matchLabel": {}})
    assert verdict(bad).winner is None
    assert bad.problem == "spec.podSelector.matchLabel: Extra inputs are not permitted."


def effective(
    *policies: PolicyObject,
    annotations: Mapping[str, str] | None = None,
    rules: NamespaceRules = NO_RULES,
    shared: str | None = None,
) -> tuple[PodPolicy, dict[str, tuple[str, str]]]:
    found, own = verdict(*policies), annotations or {}
    policy = effective_for_agent(own, rules, shared=shared, base=found.base, caps=found.caps)
    told = origins(own, rules, policy, shared, found.base)
    return policy, {each.what: (each.value, each.source) for each in told}


def test_annotations_go_over_the_policy() -> None:
    policies = (tpol("web", classes=[lane("mail"), lane("old", port=26)]), ctpol("all", total="1Gbit"))
    own = {
        "podlane.io/egress-bandwidth": "50M",
        "podlane.io/classes": '[{"name": "old", "rate": "1Mbit", "match": {"port": 80}}]',
    }
    policy, told = effective(*policies, annotations=own)
    assert [each.name for each in policy.policy.classes] == ["old", "mail"]
    assert told == {
        "total": ("50Mbit", "annotation podlane.io/egress-bandwidth of the Pod"),
        "class old": ("1Mbit to 50Mbit, priority 4", "annotation podlane.io/classes of the Pod"),
        "class mail": ("10Mbit to 50Mbit, priority 4", "spec.classes of TrafficPolicy web"),
        "class default": ("500kbit to 50Mbit, priority 7", "left by the others"),
    }


def test_a_policy_that_annotations_name_is_nearer() -> None:
    policy, told = effective(tpol("web"), annotations={"podlane.io/policy": "lanes"}, shared="total: 7Mbit")
    assert str(policy.policy.total) == "7Mbit"
    assert told["total"][1] == "total of ConfigMap lanes, which the Pod names"


def test_what_is_wrong_is_told_with_the_policys_name() -> None:
    two = [lane("a"), lane("b")]
    with pytest.raises(AnnotationsError) as refused:
        effective(tpol("web", classes=two))
    assert str(refused.value).startswith(
        "TrafficPolicy web: classes[1].match[0]: This match (port 25) can never decide"
    )
    with pytest.raises(
        AnnotationsError,
        match=r"^requests: The node agent sees the first packets",
    ):
        effective(tpol("web", requests="follow"))


def test_the_namespaces_maximum_holds_for_a_policy() -> None:
    rules = NamespaceRules.from_annotations({"podlane.io/max-egress-bandwidth": "20M"})
    policy, told = effective(tpol("web"), rules=rules)
    assert str(policy.policy.total) == "20Mbit"
    assert told["total"][1] == (
        "spec.total of TrafficPolicy web, at most podlane.io/max-egress-bandwidth of the namespace (20Mbit)"
    )


def clamps(policy: PodPolicy) -> list[str]:
    return [str(each) for each in policy.clamps]


def test_caps_lower_what_is_more_and_tell_it() -> None:
    guard = ctpol("guard", caps={"total": "50Mbit", "ceil": "20Mbit", "priority": 3})
    policy, told = effective(guard, tpol("web", classes=[lane("a", priority=0), lane("b", "30Mbit", 26)]))
    assert clamps(policy) == [
        "total is 50Mbit instead of 100Mbit, by the caps of ClusterTrafficPolicy guard.",
        "ceil of class a is 20Mbit instead of 50Mbit, by the caps of ClusterTrafficPolicy guard.",
        "priority of class a is 3 instead of 0, by the caps of ClusterTrafficPolicy guard.",
        "ceil of class b is 20Mbit instead of 50Mbit, by the caps of ClusterTrafficPolicy guard.",
        "rate of class b is 20Mbit instead of 30Mbit, by the caps of ClusterTrafficPolicy guard.",
        "ceil of class default is 20Mbit instead of 50Mbit, by the caps of ClusterTrafficPolicy guard.",
    ]
    assert told["total"] == (
        "50Mbit",
        "spec.total of TrafficPolicy web; total is 50Mbit instead of 100Mbit, by the caps of ClusterTrafficPolicy guard.",
    )
    assert policy.warnings == tuple(clamps(policy))


def test_what_is_within_the_caps_is_left_alone() -> None:
    policy, told = effective(
        ctpol("guard", caps={"total": "100Mbit", "ceil": "100Mbit"}), tpol("web", classes=[lane("a")])
    )
    assert policy.clamps == ()
    assert told["total"] == ("100Mbit", "spec.total of TrafficPolicy web")


def test_guarantees_are_lowered_in_proportion() -> None:
    guard = ctpol("guard", caps={"total": "10Mbit"})
    policy, _ = effective(guard, tpol("web", classes=[lane("a", "20Mbit"), lane("b", "60Mbit", 26)]))
    assert [str(each.rate) for each in policy.policy.classes] == ["2.5Mbit", "7.5Mbit"]
    assert "rate of class b is 7.5Mbit instead of 60Mbit, by the caps of ClusterTrafficPolicy guard." in clamps(policy)


def test_the_lowest_of_all_caps_counts_and_is_named() -> None:
    caps = [ctpol("one", caps={"total": "30Mbit"}), ctpol("two", NEW, caps={"total": "20Mbit", "ingress": "5Mbit"})]
    policy, told = effective(*caps, tpol("web"))
    assert (str(policy.policy.total), str(policy.policy.ingress and policy.policy.ingress.total)) == ("20Mbit", "5Mbit")
    assert clamps(policy) == [
        "total is 20Mbit instead of 100Mbit, by the caps of ClusterTrafficPolicy two.",
        "ingress.total is 5Mbit instead of no limit, by the caps of ClusterTrafficPolicy two.",
    ]
    assert told["ingress total"][0] == "5Mbit"


def test_caps_hold_for_annotations_too() -> None:
    policy, _ = effective(ctpol("guard", caps={"total": "1Mbit"}), annotations={"podlane.io/egress-bandwidth": "10M"})
    assert str(policy.policy.total) == "1Mbit"


def test_caps_that_leave_too_little_are_told() -> None:
    many = [lane(f"c{i}", "1Mbit", 1000 + i) for i in range(20)]
    with pytest.raises(
        AnnotationsError, match=r"The caps of ClusterTrafficPolicy guard leave too little\. total: Cannot guarantee"
    ):
        effective(ctpol("guard", caps={"total": "100kbit"}), tpol("web", classes=many))


def test_an_annotation_for_bandwidth_plugins_is_told_where_a_policy_of_the_cluster_counts() -> None:
    base = verdict(tpol("a", ingress={"total": "50Mbit"})).base
    theirs = {"kubernetes.io/egress-bandwidth": "10M", "kubernetes.io/ingress-bandwidth": "5M"}
    policy = effective_for_agent(theirs, base=base)
    assert str(policy.policy.total) == "10Mbit"
    assert [each.partition(". ")[0] for each in policy.warnings] == [
        "kubernetes.io/egress-bandwidth takes the place of total of TrafficPolicy a",
        "kubernetes.io/ingress-bandwidth takes the place of ingress.total of TrafficPolicy a",
    ]
    assert effective_for_agent({}, base=base).warnings == ()
    assert effective_for_agent({"podlane.io/egress-bandwidth": "10M"}, base=base).warnings == ()
    assert effective_for_agent(theirs).warnings == (), "nobody has said anything else"
