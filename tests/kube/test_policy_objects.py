"""TrafficPolicy and ClusterTrafficPolicy at a real API server: what it takes, what it refuses and how that reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from policy_objects import cluster_traffic_policy, lane, traffic_policy

from traffic_policy.cluster.definitions import definitions

GOOD = [
    traffic_policy("plain"),
    traffic_policy("rates", "1.5 Gbit/s", classes=[lane("a", "64Kibit"), lane("b", "1Gi"), lane("c", "10 mbitps", ceil="10M")]),
    traffic_policy("exact", "30Mbit", classes=[lane("a"), lane("b", "15Mbit", port=26)], default={"rate": "5Mbit"}),
    traffic_policy("ingress", ingress={"total": "50Mbit"}, classes=[lane("a", ingress={"rate": "50Mbit"})]),
    traffic_policy("budget", budget={"node": "10Mbit"}, classes=[lane("a")]),
    traffic_policy("rehearsal", rehearsal={"delay": "50 ms", "jitter": "50ms"}, classes=[lane("a")]),
    traffic_policy("ports", classes=[lane("a", match=[{"port": [443, "8000-8100"], "protocol": ["tcp"]}])]),
    traffic_policy("names", classes=[lane("a", match=[{"sni": ["*.example.com"], "protocol": ["udp"]}])]),
    traffic_policy(
        "selected", podSelector={"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}, priority=10
    ),
    traffic_policy("meshed", mesh="envoyfilter", podSelector={"matchLabels": {"app": "web"}}, classes=[lane("a", match=[{"host": ["a.shop"]}])]),
    cluster_traffic_policy("good-caps", caps={"total": "1Gbit", "priority": 3}),
    cluster_traffic_policy("good-both", "50Mbit", caps={"ceil": "10Mbit"}, namespaceSelector={"matchLabels": {"team": "a"}}),
]  # fmt: skip


def match(**criteria: Any) -> dict[str, Any]:
    return traffic_policy("bad", classes=[lane("a", match=[criteria])])


def selector(**expression: Any) -> dict[str, Any]:
    return traffic_policy("bad", podSelector={"matchExpressions": [{"key": "app", **expression}]})


BAD = [
    (traffic_policy("bad", "100mbps"), "spec.total", "This is not a rate. Write bits per second with a unit"),
    (traffic_policy("bad", classes=[lane("a", "10")]), "spec.classes[0].rate", "This is not a rate."),
    (traffic_policy("bad", "1kbit"), "spec.total", "too little to carry packets. Raise it to 8kbit or more."),
    (traffic_policy("bad", None), "spec.total", "Required value"),
    (traffic_policy("bad", "19Mbit", classes=[lane("a"), lane("b")]), "spec", "more than total, 19Mbit, together. Lower them"),
    (traffic_policy("bad", "10Mbit", classes=[lane("a")], default={"rate": "8kbit"}), "spec", "more than total, 10Mbit, together."),
    (
        traffic_policy("bad", ingress={"total": "9Mbit"}, classes=[lane("a", ingress={"rate": "10Mbit"})]),
        "spec", "more than ingress.total, 9Mbit, together. Lower them",
    ),
    (traffic_policy("bad", budget={"node": "9Mbit"}, classes=[lane("a")]), "spec", "more than budget.node, 9Mbit, together. Lower them"),
    (traffic_policy("bad", budget={"node": "500"}), "spec.budget.node", "This is not a rate."),
    (traffic_policy("bad", budget={}), "spec.budget.node", "Required value"),
    (traffic_policy("bad", classes=[lane("a", ingress={"rate": "1Mbit"})]), "spec", "Add it under spec, as in ingress"),
    (traffic_policy("bad", classes=[lane("a", ceil="9Mbit")]), "spec.classes[0]", "held to 9Mbit while 10Mbit is guaranteed to it. Lower rate to 9Mbit"),
    (traffic_policy("bad", default={"rate": "2Mbit", "ceil": "1Mbit"}), "spec.default", "held to 1Mbit while 2Mbit"),
    (
        traffic_policy("bad", ingress={"total": "9Mbit"}, default={"ingress": {"rate": "2Mbit", "ceil": "1M"}}),
        "spec.default.ingress", "held to 1M while 2Mbit",
    ),
    (traffic_policy("bad", classes=[lane("a"), lane("a", port=26)]), "spec.classes[1]", 'Duplicate value: {"name":"a"}'),
    (traffic_policy("bad", classes=[lane("default")]), "spec.classes[0]", "Set it by the key default under spec"),
    (traffic_policy("bad", classes=[lane("a b")]), "spec.classes[0].name", "should match"),
    (traffic_policy("bad", classes=[{"name": "a", "rate": "1Mbit"}]), "spec.classes[0].match", "Required value"),
    (traffic_policy("bad", classes=[lane("a", match=[])]), "spec.classes[0].match", "at least 1 items"),
    (match(), "spec.classes[0].match[0]", "A match without a criterion would take all. Add one"),
    (match(direction="inbound"), "spec.classes[0].match[0]", "A match without a criterion"),
    (match(port=[22], application=["ssh"]), "spec.classes[0].match[0]", "Keep one, or make two matches"),
    (match(port=[22], protocol=["icmp"]), "spec.classes[0].match[0]", "icmp has no ports. Remove port"),
    (match(host=["a.example.com"], protocol=["udp"]), "spec.classes[0].match[0]", "Names are read from TCP connections"),
    (match(port=["x"]), "spec.classes[0].match[0].port[0]", "should match"),
    (match(protocol=["sctp"]), "spec.classes[0].match[0].protocol[0]", 'supported values: "tcp", "udp", "icmp"'),
    (traffic_policy("bad", shaper="cake"), "spec.shaper", 'supported values: "htb"'),
    (traffic_policy("bad", rehearsal={}), "spec.rehearsal", "The rehearsal is empty, so nothing is worse. Say what is"),
    (traffic_policy("bad", rehearsal={"delay": "1ms", "jitter": "2ms"}), "spec.rehearsal", "Raise delay, or lower jitter"),
    (traffic_policy("bad", rehearsal={"delay": "2m"}), "spec.rehearsal", "longer than any path. Write 60s or less."),
    (traffic_policy("bad", rehearsal={"loss": "1%"}, default={"queue": "fair"}), "spec", "Remove queue, or the rehearsal."),
    (traffic_policy("bad", default={"queue": "fair", "rehearsal": {"loss": "1%"}}), "spec.default", "Remove queue, or the rehearsal."),
    (selector(operator="In"), "spec.podSelector.matchExpressions[0]", "In and NotIn need values"),
    (selector(operator="Exists", values=["a"]), "spec.podSelector.matchExpressions[0]", "Exists and DoesNotExist have none."),
    (selector(operator="in", values=["a"]), "spec.podSelector.matchExpressions[0].operator", 'supported values: "In"'),
    (
        traffic_policy("bad", "9Gbit", classes=[lane(f"c{i}", "1Mbit", match=[{"port": [1]}] * 100) for i in range(6)]),
        "spec", "A policy has 500 matches at most. Merge them",
    ),
    (traffic_policy("bad", mesh="envoyfilter", classes=[lane("a")]), "spec", "No match asks for a name"),
    (traffic_policy("bad", mesh="envoyfilter", podSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}), "spec", "Istio's EnvoyFilter selects"),
    (traffic_policy("bad", mesh="linkerd"), "spec.mesh", 'supported values: "envoyfilter"'),
    (cluster_traffic_policy("bad"), "spec", "The policy says nothing. Add total"),
    (cluster_traffic_policy("bad", caps={}), "spec.caps", "The caps are empty. Say the most"),
    (cluster_traffic_policy("bad", caps={"ceil": "1Gbit"}, budget={"node": "1Gbit"}), "spec", "Add total, as in total: 100Mbit"),
    (cluster_traffic_policy("bad", caps={"ceil": "1Gbit"}, classes=[lane("a")]), "spec", "Add total, as in total: 100Mbit"),
]  # fmt: skip


@pytest.fixture
def kubectl(cluster: Cluster, policies: None) -> Kubectl:  # noqa: ARG001
    return cluster.namespace()


def rules(found: Any) -> Iterator[Mapping[str, str]]:
    if isinstance(found, dict):
        yield from found.get("x-kubernetes-validations", ())
        for each in found.values():
            yield from rules(each)


def refusal(kubectl: Kubectl, document: Mapping[str, Any]) -> str:
    with pytest.raises(RefusedError) as refused:
        kubectl.create(document)
    return str(refused.value)


@pytest.mark.parametrize("document", GOOD, ids=lambda each: each["metadata"]["name"])
def test_what_is_right_is_taken_as_it_is(kubectl: Kubectl, document: dict[str, Any]) -> None:
    assert kubectl.create(document, "--dry-run=server")["spec"] == document["spec"]


@pytest.mark.parametrize(("document", "place", "words"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_refused_in_its_place_with_the_remedy(
    kubectl: Kubectl, document: dict[str, Any], place: str, words: str
) -> None:
    said = refusal(kubectl, document)
    assert f"{place}: " in said
    assert words in said


def test_one_mistake_is_told_once(kubectl: Kubectl) -> None:
    said = refusal(kubectl, traffic_policy("bad", classes=[lane("a", "10 Mbps")]))
    assert said.count("Invalid value") == 1, said


def test_each_rule_has_a_bad_object(kubectl: Kubectl) -> None:
    """By the beginning of its message: what it says after that may have figures."""
    told = "\n".join(refusal(kubectl, document) for document, _, _ in BAD)
    every = {rule["message"][:20] for each in definitions() for rule in rules(each["spec"]["versions"][0])}
    assert {message for message in every if message not in told} == set()
    assert len(every) > 15


def test_a_misspelt_key_is_refused(kubectl: Kubectl) -> None:
    assert 'unknown field "spec.clases"' in refusal(kubectl, traffic_policy("bad", clases=[]))


def test_kubectl_explains_and_lists_them(kubectl: Kubectl) -> None:
    explained = kubectl("explain", "tpol.spec.classes.match")
    for name in ("sni", "host", "port", "cidr", "direction"):
        assert f"  {name}\t" in explained
    assert "*.example.com takes all names" in explained
    kubectl.create(traffic_policy("web"))
    assert "web" in kubectl("get", "podlane")
    head, line = kubectl("get", "tpol").splitlines()
    assert head.split()[:2] == ["NAME", "TOTAL"]
    assert line.split()[:2] == ["web", "100Mbit"]


def test_two_may_apply_classes_of_one_policy_and_their_order_stays(kubectl: Kubectl) -> None:
    """Server-side apply merges classes by name; the order in which they were written decides."""
    mine = traffic_policy("web", classes=[lane("b"), lane("a", port=26)])
    theirs = traffic_policy("web", classes=[lane("z", port=27)])
    kubectl.apply(json.dumps(mine), "--field-manager=one")
    kubectl.apply(json.dumps(theirs), "--field-manager=two")
    kubectl.apply(json.dumps(traffic_policy("web", classes=[lane("a", port=26), lane("b")])), "--field-manager=one")
    names = [each["name"] for each in kubectl.get("tpol", "web")["spec"]["classes"]]
    assert set(names) == {"a", "b", "z"}
    assert names.index("a") < names.index("b")
