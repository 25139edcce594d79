"""TrafficPolicies of clusters for a control plane: what it can express, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from podlane.fleet.traffic_policies import fleet_policies, refuse_other_namespaces
from traffic_policy.errors import ConfigError

NAMESPACE = "podlane.io/namespace"


def policy(name: str = "web", namespace: str = "shop", kind: str = "TrafficPolicy", **spec: Any) -> dict[str, Any]:
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "podlane.io/v1alpha1", "kind": kind, "metadata": about, "spec": {"total": "9Mbit", **spec}}


def read(*documents: Any) -> Any:
    return fleet_policies(yaml.safe_dump_all(documents), "policies.yaml")


def test_names_selectors_and_policies_are_taken() -> None:
    labels = {"app": "web"}
    one_of = [{"key": "tier", "operator": "In", "values": ["a"]}]
    found = read(policy(podSelector={"matchLabels": labels, "matchExpressions": one_of}), policy("all"))
    assert [(each.name, each.selector, each.document) for each in found] == [
        ("web", {"app": "web", "tier": "a", NAMESPACE: "shop"}, {"total": "9Mbit"}),
        ("all", {NAMESPACE: "shop"}, {"total": "9Mbit"}),
    ]


def test_lists_as_kubectl_prints_them_are_taken() -> None:
    assert len(read({"kind": "List", "apiVersion": "v1", "items": [policy(), policy("b")]})) == 2


def test_one_of_a_cluster_is_for_all_or_for_a_namespace_by_its_name() -> None:
    kind = "ClusterTrafficPolicy"
    by_name = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
    (everywhere,) = read(policy("all", "", kind))
    assert everywhere.selector == {}
    (one,) = read(policy("one", "", kind, namespaceSelector=by_name))
    assert one.selector == {NAMESPACE: "shop"}


@pytest.mark.parametrize("text", ["total: 9Mbit", "", "- a", "a: [", "kind: Deployment\napiVersion: apps/v1"])
def test_anything_else_is_read_as_a_policy(text: str) -> None:
    assert fleet_policies(text, "x") is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (policy(priority=5), "spec.priority: A control plane has none"),
        (policy(mesh="envoyfilter"), "spec.mesh: A control plane makes no objects of a mesh."),
        (policy(kind="ClusterTrafficPolicy", caps={"total": "1Mbit"}), "spec.caps: A control plane has none"),
        (policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}), "matchExpressions[0]: A control plane selects"),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}),
            "Write matchLabels, in a policy for each value.",
        ),
        (
            policy(podSelector={"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["2"]}]}),
            "No Pod has two values of the label a",
        ),
        (policy("web", "", "ClusterTrafficPolicy", namespaceSelector={"matchLabels": {"team": "a"}}), "names of namespaces alone"),
        (policy(namespace=""), "It has no metadata.namespace"),
        (policy(name=""), "It has no metadata.name"),
        (policy(podSelector=5), "spec.podSelector"),
    ],
)  # fmt: skip
def test_what_a_control_plane_cannot_express_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(document)
    assert str(refused.value).startswith("policies.yaml: ")
    assert words in str(refused.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        read(policy(), policy(namespace="other"), {"kind": "Service", "apiVersion": "v1"}, policy("b", priority=1))
    same, service, priority = str(refused.value).splitlines()
    assert "TrafficPolicy other/web: TrafficPolicy shop/web has the same name" in same
    assert "Service: This is no policy" in service
    assert "spec.priority" in priority


def test_a_policy_for_another_namespace_is_not_taken_from_it() -> None:
    def there(selector: dict[str, str]) -> list[dict[str, Any]]:
        return [{"name": "web", "in_force": {"selector": selector}, "draft": None}]

    mine = read(policy())
    refuse_other_namespaces(mine, [])
    refuse_other_namespaces(mine, there({NAMESPACE: "shop", "app": "x"}))
    with pytest.raises(ConfigError, match="has a policy web for namespace other"):
        refuse_other_namespaces(mine, there({NAMESPACE: "other"}))
    with pytest.raises(ConfigError, match="for no single namespace"):
        refuse_other_namespaces(mine, there({"team": "a"}))
