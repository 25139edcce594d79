"""Pods that agents hold, at a real API server with the chart's webhooks: wrong annotations are refused where they are
written, and nothing is injected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import AGENT, LIMITED, deployment, pod
from policy_objects import cluster_traffic_policy, lane, traffic_policy
from release import Release
from waiting import until

WRONG = {"podlane.io/egress-bandwidth": "10Mbit"}
SAYS = "podlane.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity"
FOLLOW = "total: 9Mbit\nrequests: follow"


@pytest.fixture(scope="module")
def agents(release: Release) -> Iterator[Release]:
    """The chart with agents that hold Pods for which no label says a mode."""
    with release.alone() as made:
        made.install({"agent": {"enabled": True, "mode": "agent"}})
        made.serve(made.start_together(2))
        yield made


@pytest.fixture(params=["namespace", "Pod", "agents' default"])
def held(request: pytest.FixtureRequest, cluster: Cluster, agents: Release) -> tuple[Kubectl, dict[str, str]]:  # noqa: ARG001
    """A namespace, and labels of Pods there, so that agents hold them."""
    kubectl = cluster.namespace(AGENT if request.param == "namespace" else None)
    return kubectl, AGENT if request.param == "Pod" else {}


def named(name: str, annotations: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    document = pod(annotations, labels)
    document["metadata"]["name"] = name
    return document


def test_an_agents_pod_is_created_as_it_is_and_refused_where_it_is_wrong(held: tuple[Kubectl, dict[str, str]]) -> None:
    kubectl, labels = held
    made = kubectl.create(named("web", LIMITED, labels))
    assert "initContainers" not in made["spec"]
    assert made["metadata"]["annotations"] == LIMITED
    with pytest.raises(RefusedError, match=SAYS) as refused:
        kubectl.create(named("wrong", WRONG, labels))
    assert ".agent.podlane.io" in str(refused.value)
    kubectl("annotate", "--overwrite", "pod", "web", "podlane.io/egress-bandwidth=20M", "example.com/other=1")
    with pytest.raises(RefusedError, match=SAYS):
        kubectl("annotate", "--overwrite", "pod", "web", "podlane.io/egress-bandwidth=10Mbit")
    with pytest.raises(RefusedError, match=r"Did you mean podlane\.io/egress-bandwidth\?"):
        kubectl("annotate", "pod", "web", "podlane.io/egress-bandwith=10M")
    assert kubectl.get("pod", "web")["metadata"]["annotations"]["podlane.io/egress-bandwidth"] == "20M"


def test_what_needs_a_relay_is_refused_with_the_remedy(held: tuple[Kubectl, dict[str, str]]) -> None:
    kubectl, labels = held
    kubectl("create", "configmap", "lanes", f"--from-literal=policy.yaml={FOLLOW}")
    with pytest.raises(RefusedError, match="requests"):
        kubectl.create(named("web", {"podlane.io/policy": "lanes"}, labels))


def test_pods_that_nobody_holds_are_not_looked_at(cluster: Cluster, agents: Release) -> None:  # noqa: ARG001
    kubectl = cluster.namespace(AGENT)
    made = kubectl.create(named("none", WRONG, {"podlane.io/mode": "none"}))
    assert made["metadata"]["annotations"] == WRONG


def test_a_pod_with_another_change_is_not_asked_about(cluster: Cluster, agents: Release) -> None:
    """Also one whose annotations are wrong since before there were webhooks: it must remain changeable."""
    kubectl = cluster.namespace()
    kubectl.create(named("old", WRONG, {"podlane.io/mode": "none"}))
    kubectl("label", "--overwrite", "pod", "old", "podlane.io/mode=agent")
    kubectl("annotate", "pod", "old", "example.com/other=1")
    kubectl("annotate", "--overwrite", "pod", "old", "podlane.io/egress-bandwidth=10M")
    assert agents.injectors


def test_an_injector_that_is_away_holds_up_nobody(cluster: Cluster, agents: Release) -> None:
    agents.stop()
    try:
        cluster.namespace(AGENT).create(named("web", WRONG, {}))
    finally:
        agents.serve(agents.start_together(2))


def test_a_workload_whose_pods_are_an_agents_is_refused_when_it_is_applied(cluster: Cluster, agents: Release) -> None:  # noqa: ARG001
    kubectl = cluster.namespace(AGENT)
    with pytest.raises(RefusedError, match=f"spec.template: {SAYS}"):
        kubectl.create(deployment(WRONG))


@pytest.mark.usefixtures("policies", "agents")
def test_a_policy_that_no_agent_could_honour_is_refused_and_can_be_deleted(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    hidden = traffic_policy("web", classes=[lane("a"), lane("b")])
    for options in ((), ("--dry-run=server",)):
        with pytest.raises(RefusedError, match=r"classes\[1\]\.match\[0\]: This match \(port 25\) can never decide"):
            kubectl.create(hidden, *options)
    kubectl.create(traffic_policy("web", classes=[lane("a")]))
    with pytest.raises(RefusedError, match=r"policies\.validate"):
        kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"requests": "follow"}}')
    kubectl("label", "tpol", "web", "team=a")
    kubectl("delete", "tpol", "web", "--wait=true", "--timeout=20s")


def warned(kubectl: Kubectl, document: dict[str, Any], *options: str) -> list[str]:
    """What kubectl prints of the API server's warnings when the document is applied."""
    said = kubectl.run("apply", "--server-side", "-f", "-", *options, stdin=json.dumps(document)).stderr
    return [line.removeprefix("Warning: podlane: ") for line in said.splitlines() if line.startswith("Warning:")]


@pytest.mark.usefixtures("policies", "agents")
def test_a_policy_warns_of_the_pods_that_it_would_refuse_or_lower(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    web = {"app": "web"}
    for number in range(5):
        kubectl.create(named(f"web-{number}", {"podlane.io/egress-bandwidth": "20M"}, web))
    kubectl.create(named("db", {"podlane.io/egress-bandwidth": "20M"}, {"app": "db"}))
    kubectl.create(named("other", {"podlane.io/egress-bandwidth": "20M"}, {**web, "podlane.io/mode": "none"}))
    host = named("host", {}, web)
    host["spec"]["hostNetwork"] = True
    kubectl.create(host)
    policy = traffic_policy("web", classes=[lane("mail", "30Mbit")], podSelector={"matchLabels": web})
    (refused,) = until("the warning", lambda: warned(kubectl, policy, "--dry-run=server"))
    assert refused.startswith("Pods web-0, web-1, web-2 and 2 more would be refused it and keep what they have:")
    assert "raise podlane.io/egress-bandwidth to 30M" in refused
    policy["spec"]["classes"] = [lane("mail", "10Mbit")]
    assert warned(kubectl, policy) == []
    here = {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}
    guard = cluster_traffic_policy(f"guard-{kubectl.namespace}", caps={"total": "15Mbit"}, namespaceSelector=here)
    at = kubectl.namespace
    (lowered,) = warned(kubectl, guard, "--dry-run=server")
    assert lowered == (
        f"In Pods {at}/db, {at}/web-0, {at}/web-1 and 3 more: total is 15Mbit instead of 20Mbit, by the caps of "
        f"ClusterTrafficPolicy guard-{at}."
    )


@pytest.mark.usefixtures("policies")
def test_a_policy_that_is_being_deleted_can_be_changed_in_any_way(cluster: Cluster, agents: Release) -> None:
    kubectl = cluster.namespace()
    agents.stop()
    try:
        hidden = traffic_policy("web", classes=[lane("a"), lane("b")])
        hidden["metadata"]["finalizers"] = ["example.com/held"]
        kubectl.create(hidden)
    finally:
        agents.serve(agents.start_together(2))
    kubectl("label", "tpol", "web", "team=a")
    with pytest.raises(RefusedError, match="can never decide"):
        kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "90Mbit"}}')
    kubectl("delete", "tpol", "web", "--wait=false")
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "90Mbit"}}')
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kubectl("wait", "tpol", "web", "--for=delete", "--timeout=20s")
