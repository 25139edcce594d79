"""Which Pods a changed policy would refuse or lower, and how that is told."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from traffic_policy.cluster.label_selector import LabelSelector
from traffic_policy.cluster.objects import PolicyObject
from traffic_policy.cluster.outlook import (
    MOST_COMPARED,
    ClusterKnowledge,
    OutlookNamespace,
    OutlookPod,
    PolicyChange,
    limits_of,
    outlook,
    shared_policies_named,
)

EGRESS = "podlane.io/egress-bandwidth"
MAIL = {"name": "mail", "rate": "30Mbit", "match": [{"port": [25]}]}
UNMARKED = OutlookNamespace({}, {})
GUARD = "total is 20Mbit instead of 100Mbit, by the caps of ClusterTrafficPolicy guard."


def policy(name: str = "web", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> PolicyObject:
    about = {"name": name, "namespace": "shop", "uid": name, "generation": 1, "creationTimestamp": created}
    return PolicyObject.from_object("TrafficPolicy", {"metadata": about, "spec": {"total": "100Mbit", **spec}})


def of_cluster(name: str = "guard", **spec: Any) -> PolicyObject:
    about = {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return PolicyObject.from_object("ClusterTrafficPolicy", {"metadata": about, "spec": spec})


def pod(name: str, labels: Mapping[str, str] | None = None, **annotations: str) -> OutlookPod:
    written = {f"podlane.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
    return OutlookPod(name, "shop", labels or {}, written)


def told(
    change: PolicyObject,
    *pods: OutlookPod,
    old: PolicyObject | None = None,
    policies: tuple[PolicyObject, ...] = (),
    above: OutlookNamespace = UNMARKED,
    **known: Any,
) -> tuple[str, ...]:
    knowledge = ClusterKnowledge(pods, {"shop": above}, policies, **known)
    change_ = pickle.loads(pickle.dumps(PolicyChange(change, old)))
    return outlook(change_, pickle.loads(pickle.dumps(knowledge)), 247)


def test_nothing_is_said_of_pods_that_can_have_it() -> None:
    assert told(policy(classes=[MAIL]), pod("a"), pod("b", egress_bandwidth="50M")) == ()


def test_pods_that_would_be_refused_are_named_with_the_reason_once() -> None:
    pods = [pod(f"web-{n}", egress_bandwidth="20M") for n in range(7)]
    (said,) = told(policy(classes=[MAIL]), *pods, pod("fine"))
    assert said.startswith("Pods web-0, web-1, web-2 and 4 more would be refused it and keep what they have: ")
    assert said.endswith("or raise podlane.io/egress-bandwidth to 30M.")
    (one,) = told(policy(classes=[MAIL]), pods[0])
    assert one.startswith("Pod web-0 would be refused it and keeps what it has: ")


def test_pods_with_a_sidecar_are_meant_as_well() -> None:
    small = replace(pod("small", egress_bandwidth="20M"), has_sidecar=True)
    (said,) = told(policy(classes=[MAIL]), small, above=OutlookNamespace({"podlane.io/inject": "enabled"}, {}))
    assert said.startswith("Pod small would be refused it and keeps what it has: ")


def test_what_was_so_before_is_not_told_again() -> None:
    small = pod("small", egress_bandwidth="20M")
    old = policy(classes=[MAIL])
    assert told(policy(classes=[MAIL], total="200Mbit"), small, old=old) == ()
    assert told(old, small, old=policy()) != ()
    assert told(policy(), small, old=old) == ()


def test_caps_tell_of_all_pods_that_they_lower() -> None:
    guard = of_cluster(caps={"total": "20Mbit"})
    own, without = pod("own", egress_bandwidth="30M"), pod("without")
    assert told(guard, own, without) == (
        "In Pod shop/own: total is 20Mbit instead of 30Mbit, by the caps of ClusterTrafficPolicy guard.",
    )
    assert told(guard, without, policies=(policy(),)) == (f"In Pod shop/without: {GUARD}",)
    assert told(policy(), without, policies=(guard,)) == (f"In Pod without: {GUARD}",)
    assert told(of_cluster(caps={"total": "20Mbit", "priority": 0}), own, old=guard) == ()


def test_a_class_that_annotations_hide_is_told() -> None:
    classes = "[{name: all, rate: 1Mbit, match: {port: 1-100}}]"
    (said,) = told(policy(classes=[MAIL]), pod("web", classes=classes))
    assert said.startswith("In Pod web: Class mail of TrafficPolicy web is left out: the classes of podlane.io/classes")


def test_only_pods_that_it_counts_for_are_looked_at() -> None:
    small = {"egress_bandwidth": "20M"}
    strict = policy(classes=[MAIL], podSelector={"matchLabels": {"app": "web"}})
    assert told(strict, pod("other", **small)) == ()
    assert told(strict, pod("web", {"app": "web"}, **small)) != ()
    other = policy("other", "2025-01-01T00:00:00Z", priority=1)
    assert told(strict, pod("web", {"app": "web"}, **small), policies=(other,)) == ()
    assert told(policy("new", "", classes=[MAIL]), pod("web", **small), policies=(policy("old"),)) == (), (
        "it is younger"
    )


def test_pods_that_differ_in_what_any_policy_asks_for_are_judged_apart() -> None:
    """The changed one selects by nothing; another one, and what it was before, by labels."""
    small = {"egress_bandwidth": "20M"}
    special = policy("special", podSelector={"matchExpressions": [{"key": "special", "operator": "Exists"}]})
    told_of = told(policy(classes=[MAIL]), pod("a", {"special": ""}, **small), pod("b", **small), policies=(special,))
    assert [each.partition(" would")[0] for each in told_of] == ["Pod b"]
    old = policy(classes=[MAIL], podSelector={"matchLabels": {"tier": "x"}})
    told_of = told(policy(classes=[MAIL]), pod("a", {"tier": "x"}, **small), pod("b", {"tier": "y"}, **small), old=old)
    assert [each.partition(" would")[0] for each in told_of] == ["Pod b"]


@pytest.mark.parametrize(
    ("labels", "above", "counts"),
    [
        ({}, {}, True),
        ({"podlane.io/mode": "none"}, {"podlane.io/mode": "agent"}, False),
        ({"podlane.io/mode": "none"}, {"podlane.io/mode": "agent", "podlane.io/enforce": "true"}, True),
        ({}, {"podlane.io/mode": "sidecar"}, False),
        ({"podlane.io/mode": "agent"}, {"podlane.io/mode": "sidecar"}, True),
        ({"podlane.io/mode": "nonsense"}, {}, False),
    ],
)
def test_labels_decide_whether_agents_hold_a_pod(labels: dict[str, str], above: dict[str, str], counts: bool) -> None:
    web = pod("web", labels, egress_bandwidth="20M")
    assert bool(told(policy(classes=[MAIL]), web, above=OutlookNamespace(above, {}))) is counts


def test_what_a_namespace_says_counts() -> None:
    above = OutlookNamespace({}, {EGRESS: "20M"})
    assert told(policy(classes=[MAIL]), pod("web"), above=above)[0].startswith("Pod web would be refused")
    assert told(policy(classes=[MAIL]), pod("web"), above=OutlookNamespace({}, {"podlane.io/typo": "1"})) == ()


def test_pods_with_a_policy_of_their_own_are_lowered_by_caps_alone() -> None:
    own = pod("web", policy="lanes")
    text = {("shop", "lanes"): "total: 90Mbit"}
    guard = of_cluster(caps={"total": "20Mbit"})
    assert "instead of 90Mbit" in told(guard, own, shared=text)[0]
    assert told(guard, own) == (), "what it has is not known"
    assert told(policy(classes=[MAIL]), own, shared=text) == ()
    assert shared_policies_named([own, pod("other")], {}) == {("shop", "lanes")}


def test_it_says_where_there_is_more_than_it_looked_at() -> None:
    small = pod("web", egress_bandwidth="20M")
    assert told(policy(), small, whole=False) == ("There are more Pods than were looked at, 1.",)
    many = [pod(f"web-{n}", egress_bandwidth=f"{n + 40}M") for n in range(MOST_COMPARED + 1)]
    assert told(policy(classes=[MAIL]), *many) == (f"There are more Pods than were looked at, {len(many)}.",)


def test_a_long_reason_keeps_its_remedy() -> None:
    long = pod("w" * 60, egress_bandwidth="20M")
    classes = [{**MAIL, "name": f"{'c' * 50}{n}", "match": [{"port": [n + 1]}]} for n in range(9)]
    (said,) = told(policy(classes=classes, total="1Gbit"), long)
    assert len(said) <= 247
    assert said.endswith("M.")


def test_a_selector_is_written_as_the_api_server_reads_it() -> None:
    expressions = [
        {"key": "a", "operator": "In", "values": ["1", "2"]},
        {"key": "b", "operator": "NotIn", "values": ["3"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    found = LabelSelector.model_validate({"matchLabels": {"app": "web"}, "matchExpressions": expressions})
    assert found.text == "app=web,a in (1,2),b notin (3),c,!d"
    assert LabelSelector().text == ""


def test_annotations_that_matter() -> None:
    given = {EGRESS: "1", "podlane.io/status": "{}", "kubernetes.io/ingress-bandwidth": "1M", "example.com/a": "b"}
    assert set(limits_of(given)) == {EGRESS, "kubernetes.io/ingress-bandwidth"}
