"""The EnvoyFilters of policies with ``spec.mesh``: where there is one, what it says, and what the status says of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from istio_pods import FORMS, with_istio

from cluster_operator.mesh_wish import NO_DEFINITION, MeshState, mesh_state, mesh_wishes, speaks_of_mesh, with_mesh
from cluster_operator.pods import EnvoyOfPod, WatchedPod, needed_of_pod, watched_pod
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.objects import PodLabels, PolicyObject, who_wins
from traffic_policy.mesh.owned import owned_filter, owned_name, takes_marks
from traffic_policy.policy_file import policy_from_document

MADE = "2026-01-01T00:00:00Z"
API = [{"name": "api", "rate": "10Mbit", "match": [{"host": ["api.shop"]}]}]
MARKS, MARKS_NOT = EnvoyOfPod("web-0", True), EnvoyOfPod("web-1", False)


def policy(name: str = "web", kind: str = TRAFFIC_POLICY, **spec: Any) -> PolicyObject:
    about: dict[str, Any] = {"name": name, "uid": name, "generation": 1, "creationTimestamp": MADE}
    if kind == TRAFFIC_POLICY:
        about["namespace"] = "shop"
    given = {"total": "100Mbit", "classes": API, "mesh": "envoyfilter", **spec}
    return PolicyObject.from_object(
        kind, {"metadata": about, "spec": {k: v for k, v in given.items() if v is not None}}
    )


def pod(envoy: EnvoyOfPod | None = MARKS, namespace: str = "shop", **more: Any) -> WatchedPod:
    labels = more.pop("labels", {"app": "web"})
    return WatchedPod(f"uid-{len(more)}", namespace, labels, MADE, True, envoy=envoy, **more)


def state(*pods: WatchedPod, others: tuple[PolicyObject, ...] = (), mine: PolicyObject | None = None) -> MeshState:
    mine = mine or policy()
    wish = mesh_wishes((mine, *others), pods, {})[mine.uid]
    return mesh_state(mine, wish, {}, ())


@pytest.mark.parametrize(("form", "marks"), [("tproxy", True), ("classic", False), ("native", False), ("cni", False)])
def test_whether_envoy_may_mark_is_seen_in_the_pod(form: str, marks: bool) -> None:
    plain = {
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "u", "annotations": {}, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    }
    assert watched_pod(needed_of_pod(plain)).envoy is None  # type: ignore[union-attr]
    found = watched_pod(needed_of_pod(with_istio(plain, FORMS[form])))
    assert found is not None
    assert found.envoy == EnvoyOfPod("web-0", marks)


def test_where_all_envoys_may_mark_there_is_an_object() -> None:
    other = pod(namespace="elsewhere")
    assert mesh_wishes([policy()], [pod(), other], {})["web"].namespaces == {"shop": 1}
    assert state(pod(), pod()) == MeshState(
        "True", "Programmed", "EnvoyFilter podlane-web in shop: by it Envoy marks what 2 Pods send, and agents take its marks."
    )  # fmt: skip


def test_where_one_may_not_there_is_none_and_the_status_has_the_remedy() -> None:
    wish = mesh_wishes([policy()], [pod(), pod(MARKS_NOT)], {})["web"]
    assert wish.namespaces == {}
    found = state(pod(), pod(MARKS_NOT))
    assert (found.so, found.reason) == ("False", "ProxyMayNotMark")
    assert "1 Pod, as shop/web-1, may not set marks" in found.message
    assert "interceptionMode: TPROXY" in found.message


def test_a_policy_of_the_cluster_has_one_in_each_namespace_that_can_have_it() -> None:
    mine = policy("all", CLUSTER_TRAFFIC_POLICY)
    pods = [pod(), pod(namespace="b"), pod(MARKS_NOT, namespace="c"), pod(namespace="istio-system"), pod(None, "d")]
    wish = mesh_wishes([mine], pods, {})["all"]
    assert list(wish.namespaces) == ["b", "shop"]
    assert list(wish.unable) == ["c", "istio-system"]


def test_pods_with_another_policy_keep_it_away() -> None:
    other = policy("other", podSelector={"matchLabels": {"app": "web"}}, mesh=None)
    found = state(pod(), others=(other,))
    assert (found.so, found.reason) == ("False", "Overruled")
    assert "Pod shop/web-0 has the labels, and another policy, TrafficPolicy other" in found.message
    found = state(pod(own_policy="lanes"))
    assert "another policy, ConfigMap lanes" in found.message


def test_pods_with_a_sidecar_of_ours_are_not_served_and_told() -> None:
    found = state(pod(relayed=True))
    assert (found.so, found.reason) == ("True", "NoProxies")
    assert "1 Pod with a sidecar of Podlane are not served" in found.message


def test_a_cluster_without_the_definition_is_told_what_to_do() -> None:
    wish = mesh_wishes([policy()], [pod()], {})["web"]
    found = mesh_state(policy(), wish, {"shop": NO_DEFINITION}, ["shop"])
    assert (found.so, found.reason, found.message) == ("False", "NoDefinition", NO_DEFINITION)
    assert mesh_state(policy(), wish, {}, ["shop"]).reason == "Pending"
    assert mesh_state(policy(), wish, {"shop": "Forbidden."}, ["shop"]).reason == "Failed"


def test_a_condition_keeps_the_time_since_when_it_is_so_and_goes_with_the_field() -> None:
    now, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    first = with_mesh({"observedGeneration": 1, "conditions": []}, MeshState("True", "NoProxies", "None."), {}, now)
    again = with_mesh({"observedGeneration": 2, "conditions": []}, MeshState("True", "Programmed", "x"), first, later)
    assert again["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert again["conditions"][0]["observedGeneration"] == 2
    assert speaks_of_mesh(again)
    assert not speaks_of_mesh(with_mesh({"observedGeneration": 3, "conditions": []}, None, again, later))


def test_the_object_is_owned_and_the_stronger_policy_comes_last() -> None:
    made = owned_filter(policy(podSelector={"matchLabels": {"app": "web"}}), "shop")
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "podlane.io/v1alpha1", "kind": "TrafficPolicy", "name": "web", "uid": "web",
            "controller": True, "blockOwnerDeletion": False,
        }
    ]  # fmt: skip
    assert made["spec"]["workloadSelector"] == {"labels": {"app": "web"}}
    option = made["spec"]["configPatches"][0]["patch"]["value"]["upstream_bind_config"]["socket_options"][0]
    assert option["int_value"] == 0x1000000
    weakest_first = [
        policy("a", CLUSTER_TRAFFIC_POLICY, priority=1000),
        policy("b"),
        policy("c", podSelector={"matchLabels": {"app": "web"}}),
        policy("d", priority=1),
    ]
    order = [owned_filter(each, "shop")["spec"]["priority"] for each in weakest_first]
    assert order == sorted(set(order))


def test_names_of_objects_are_those_of_one_policy_each() -> None:
    assert owned_name(policy("web")) == "podlane-web"
    assert owned_name(policy("web", CLUSTER_TRAFFIC_POLICY)) == "podlane.web"
    long = [owned_name(policy("x" * 252 + end)) for end in "ab"]
    assert long[0] != long[1]
    assert {len(each) for each in long} == {253}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, "Write matchLabels alone"),
        ({"classes": [{"name": "a", "rate": "1Mbit", "match": [{"port": [25]}]}]}, "No match asks for a name"),
        ({"classes": [{"name": "a", "rate": "1Mbit", "match": [{"sni": ["a.b"], "direction": "inbound"}]}]}, "not the answers"),
        ({"classes": [{"name": "a", "rate": "1Mbit", "match": [{"sni": ["a.b"], "cidr": ["10.0.0.0/8"]}]}]}, "cannot be asked for cidr"),
    ],
)  # fmt: skip
def test_what_envoy_cannot_do_is_a_fault_with_a_remedy(spec: dict[str, Any], words: str) -> None:
    told = " ".join(map(str, faults(policy(**spec))))
    assert words in told
    assert "emove mesh" in told
    assert faults(policy(**{"mesh": None, **spec})) == ()


def test_what_the_agent_sees_to_is_none() -> None:
    received = [{**API[0], "ingress": {"rate": "1Mbit"}}]
    assert faults(policy(quic="block", ingress={"total": "10Mbit"}, classes=received)) == ()


def test_in_the_root_namespace_it_would_be_for_all() -> None:
    about = {"name": "web", "namespace": "istio-system", "uid": "web", "generation": 1}
    spec = {"total": "1Gbit", "classes": API, "mesh": "envoyfilter"}
    found = faults(PolicyObject.from_object(TRAFFIC_POLICY, {"metadata": about, "spec": spec}))
    assert "is for Pods of all namespaces" in str(found[0])


def test_marks_are_taken_where_the_classes_are_those_of_the_policy() -> None:
    labels = PodLabels("shop", {}, {"app": "web"})
    mine = policy()
    verdict = who_wins([mine], labels)
    made = policy_from_document(mine.document)
    assert takes_marks(verdict, made)
    other = policy_from_document(
        {"total": "1Gbit", "classes": [*API, {"name": "own", "rate": "1Mbit", "match": [{"port": [1]}]}]}
    )
    assert not takes_marks(verdict, other)
    assert not takes_marks(who_wins([policy(mesh=None)], labels), made)
