"""Where the values of a Pod's policy come from."""

from __future__ import annotations

import pytest

from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.namespace import NamespaceRules
from traffic_policy.pod.provenance import origins

SHARED = """
total: 100Mbit
classes:
  - {name: api, rate: 20Mbit, match: {port: 443}}
  - {name: mail, rate: 1Mbit, match: {port: 25}}
"""
LANES = {"podlane.io/policy": "lanes"}


def told(
    own: dict[str, str], namespace: dict[str, str] | None = None, shared: str | None = None
) -> dict[str, tuple[str, str]]:
    rules = NamespaceRules.from_annotations(namespace or {})
    policy = effective_for_agent({**rules.missing(own), **own}, rules, shared=shared)
    return {each.what: (each.value, each.source) for each in origins(own, rules, policy, shared)}


def test_the_pods_own_annotations() -> None:
    own = {
        "podlane.io/egress-bandwidth": "50M",
        "kubernetes.io/ingress-bandwidth": "80M",
        "podlane.io/classes": "[{name: a, rate: 1Mbit, match: {port: 25}}]",
        "podlane.io/default-class": "{rate: 2Mbit, ceil: 9Mbit}",
        "podlane.io/exclude-outbound-ports": "53, 123",
    }
    assert told(own) == {
        "total": ("50Mbit", "annotation podlane.io/egress-bandwidth of the Pod"),
        "ingress total": ("80Mbit", "annotation kubernetes.io/ingress-bandwidth of the Pod"),
        "class a": ("1Mbit to 50Mbit, priority 4", "annotation podlane.io/classes of the Pod"),
        "class default": ("2Mbit to 9Mbit, priority 7", "annotation podlane.io/default-class of the Pod"),
        "exclude-outbound-ports": ("53, 123", "annotation podlane.io/exclude-outbound-ports of the Pod"),
    }


def test_defaults_of_the_namespace_stand_behind_the_pods_own() -> None:
    above = {"podlane.io/egress-bandwidth": "50M", "podlane.io/ingress-bandwidth": "60M"}
    found = told({"podlane.io/ingress-bandwidth": "70M"}, above)
    assert found["total"] == (
        "50Mbit", "annotation podlane.io/egress-bandwidth of the namespace, for Pods without it",
    )  # fmt: skip
    assert found["ingress total"] == ("70Mbit", "annotation podlane.io/ingress-bandwidth of the Pod")
    assert found["class default"][1] == "left by the others"


def test_a_shared_policy_and_what_the_pod_replaces_of_it() -> None:
    own = {**LANES, "podlane.io/classes": "[{name: api, rate: 5Mbit, match: {port: 80}}]"}
    found = told(own, shared=SHARED)
    assert found["total"] == ("100Mbit", "total of ConfigMap lanes, which the Pod names")
    assert found["class api"] == ("5Mbit to 100Mbit, priority 4", "annotation podlane.io/classes of the Pod")
    assert found["class mail"][1] == "classes of ConfigMap lanes, which the Pod names"
    assert told({}, LANES, SHARED)["class mail"][1] == "classes of ConfigMap lanes, which the namespace names"


@pytest.mark.parametrize(("most", "total"), [("30M", "30Mbit"), ("300M", "100Mbit")])
def test_a_maximum_of_the_namespace_holds_down_a_shared_total(most: str, total: str) -> None:
    above = {"podlane.io/max-egress-bandwidth": most, "podlane.io/max-ingress-bandwidth": "9M"}
    found = told(LANES, above, SHARED)
    limit = f"at most podlane.io/max-egress-bandwidth of the namespace ({most.removesuffix('M')}Mbit)"
    assert found["total"] == (total, f"total of ConfigMap lanes, which the Pod names, {limit}")
    assert found["ingress total"] == ("9Mbit", "annotation podlane.io/max-ingress-bandwidth of the namespace")
