"""What a control plane is told of a policy of the cluster, and what the status says of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cluster_operator.fleet_wish import NotExpressibleError, fleet_wish, last_user, prefix_of, record_name
from cluster_operator.record_status import RecordState, speaks_of_record, with_record
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.names import is_name
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.objects import ClusterPolicies, PodLabels, PolicyObject
from traffic_policy.selection import labels_of_pod, selected

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 2, tzinfo=UTC)


def policy(name: str = "web", namespace: str = "shop", **spec: Any) -> PolicyObject:
    kind = TRAFFIC_POLICY if namespace else CLUSTER_TRAFFIC_POLICY
    about = {"name": name, "namespace": namespace, "uid": name, "generation": 3}
    return PolicyObject.from_object(kind, {"metadata": about, "spec": {"total": "100Mbit", **spec}})


def of_cluster(**spec: Any) -> PolicyObject:
    return policy("c", "", **spec)


def test_a_record_has_the_policy_its_labels_and_who_wrote_it() -> None:
    lanes = [{"name": "mail", "rate": "10Mbit", "match": [{"port": [25]}]}]
    wish = fleet_wish(policy(podSelector={"matchLabels": {"app": "web"}}, classes=lanes), "east", "kubectl")
    assert (wish.selector, wish.nodes) == (
        {"app": "web", "podlane.io/namespace": "shop"},
        {"podlane.io/cluster": "east"},
    )
    assert wish.document == CheckedPolicy.from_document({"total": "100Mbit", "classes": lanes}).document
    assert wish.reason == "source: kubernetes, cluster east: TrafficPolicy shop/web, generation 3, by kubectl"


SELECTS = [
    policy(),
    policy(podSelector={"matchLabels": {"app": "web", "tier": "front"}}),
    policy(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}),
    of_cluster(),
    of_cluster(podSelector={"matchLabels": {"app": "db"}}),
    of_cluster(namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "shop"}}),
]


@pytest.mark.parametrize("written", SELECTS, ids=str)
def test_it_selects_the_pods_that_the_object_selects(written: PolicyObject) -> None:
    wish = fleet_wish(written, "east", "")
    for namespace in ("shop", "bank"):
        for labels in ({}, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "front"}):
            pod = PodLabels(namespace, {"kubernetes.io/metadata.name": namespace}, labels)
            chosen = selected([wish], labels_of_pod(namespace, labels))
            assert (chosen is not None) == (ClusterPolicies([written]).verdict(pod).winner is not None)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (of_cluster(namespaceSelector={"matchLabels": {"team": "a"}}), "the label team of namespaces"),
        (policy(podSelector={"matchExpressions": [{"key": "app", "operator": "Exists"}]}), "podSelector has a condition on app"),
        (policy(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}), "a policy for each value"),
        (of_cluster(caps={"total": "1Gbit"}), "a ClusterTrafficPolicy of their own"),
        (PolicyObject.from_object(CLUSTER_TRAFFIC_POLICY, {"spec": {"caps": {"total": "1Gbit"}}}), "caps alone"),
    ],
)  # fmt: skip
def test_what_a_fleet_cannot_have_is_said_with_the_remedy(written: PolicyObject, words: str) -> None:
    with pytest.raises(NotExpressibleError, match=words):
        fleet_wish(written, "east", "")


def test_names_are_valid_and_each_objects_own() -> None:
    written = [
        policy("a", "b-c"), policy("c-a", "b"), policy("x.y", "shop"), policy("x-y", "shop"), policy("n" * 253, "s" * 63),
        policy("-", "9"), of_cluster(),
    ]  # fmt: skip
    names = [record_name(cluster, each) for cluster in ("east", "east-2") for each in written]
    assert len(set(names)) == len(names)
    assert all(is_name(each) for each in names), names
    assert [each.startswith(prefix_of("east")) for each in names] == [True] * len(written) + [False] * len(written)


def test_who_has_changed_it_last() -> None:
    managed = [
        {"manager": "helm", "time": "2026-01-01T00:00:00Z"},
        {"manager": "argocd-controller", "time": "2026-01-02T00:00:00Z"},
        {"manager": "podlane-operator", "time": "2026-01-03T00:00:00Z", "subresource": "status"},
    ]
    assert last_user(managed) == "argocd-controller"
    assert (last_user(None), last_user([]), last_user([7])) == ("", "", "")


STATUS = {"observedGeneration": 3, "conditions": [{"type": "Accepted", "status": "True"}]}


def test_the_status_says_the_revision_and_keeps_since_when() -> None:
    first = with_record(STATUS, RecordState(True, "Recorded", "It is.", 4), {}, NOW)
    assert first["revision"] == 4
    assert first["conditions"][-1] == {
        "type": "Recorded", "status": "True", "reason": "Recorded", "message": "It is.", "lastTransitionTime": "2026-01-01T01:00:00Z",
        "observedGeneration": 3,
    }  # fmt: skip
    again = with_record(STATUS, RecordState(True, "Recorded", "It is.", 5), first, LATER)
    assert again["conditions"][-1]["lastTransitionTime"] == "2026-01-01T01:00:00Z"
    lost = with_record(STATUS, RecordState(False, "Refused", "No."), again, LATER)
    assert "revision" not in lost
    assert lost["conditions"][-1]["lastTransitionTime"] == "2026-01-01T02:00:00Z"


def test_what_is_not_known_yet_says_what_it_said() -> None:
    before = with_record(STATUS, RecordState(True, "Recorded", "It is.", 4), {}, NOW)
    assert with_record(STATUS, None, before, LATER) == before
    assert with_record(STATUS, None, {}, LATER) == STATUS
    assert speaks_of_record(before)
    assert not speaks_of_record(STATUS)
