# ruff: noqa: F401, F811 - fixtures of another module are imported by their names
"""Pods with sidecars under policies of the cluster, at a real API server: what they begin with, and what follows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, LIMITED, pod
from policy_objects import cluster_traffic_policy, lane, traffic_policy
from test_kubectl_verbs import Plugin, values
from test_operator import Start, home, operator, status, until_condition
from waiting import until

from traffic_policy.pod.governed import Governance, governed

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("release", "policies")]

EFFECTIVE = "podlane.io/effective-policy"
FORGED = '{"policy":{"generation":1,"name":"x","spec":{"total":"9Tbit"},"uid":"y"}}'


@pytest.fixture
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    made = cluster.namespace(INJECTED)
    yield made
    made("delete", "ctpol", "--all")


def told(kubectl: Kubectl, name: str = "app") -> Governance:
    """What the annotation of a Pod says."""
    return Governance.read(kubectl.get("pod", name)["metadata"]["annotations"].get(EFFECTIVE, "{}"))


def total(kubectl: Kubectl, name: str = "app") -> str:
    """What the sidecar of a Pod will have in force."""
    return str(governed(kubectl.get("pod", name)["metadata"]["annotations"]).policy.total)


def make(kubectl: Kubectl, annotations: Mapping[str, str], injects: str = "", **more: Any) -> dict[str, Any]:
    """Create a Pod once all injectors know the policies: until it is injected, and its policy is the one of a name."""

    def made() -> dict[str, Any] | None:
        try:
            found = kubectl.create(pod(annotations, **more))
        except RefusedError as error:
            if "out of admission without" not in str(error) and "has to be held to limits" not in str(error):
                raise
            return None
        won = Governance.read(found["metadata"]["annotations"].get(EFFECTIVE, "{}")).base
        if (won.name if won else "") == injects:
            return found
        kubectl("delete", "pod", "app", "--grace-period=0", "--force")
        return None

    return until("the Pod", made)


def lead(start: Start) -> None:
    """Start an operator, and wait until it works."""
    started = start()
    until("the operator to lead", lambda: "this operator leads" in started.output, patience=60)


def is_injected(found: Mapping[str, Any]) -> bool:
    return any(each["name"] == "podlane" for each in found["spec"].get("initContainers", ()))


def test_a_policy_alone_brings_a_sidecar(kubectl: Kubectl) -> None:
    assert not is_injected(kubectl.create(pod({}) | {"metadata": {"name": "before"}}))
    kubectl.create(traffic_policy("web", classes=[lane("mail")], podSelector={"matchLabels": {"app": "web"}}))
    made = make(kubectl, {}, "TrafficPolicy web", labels={"app": "web"})
    assert is_injected(made)
    policy = governed(made["metadata"]["annotations"])
    assert [each.name for each in policy.policy.classes] == ["mail"]
    assert json.loads(made["metadata"]["annotations"]["podlane.io/status"])["policy"] == policy.digest
    told = Plugin(kubectl.program, kubectl.kubeconfig, kubectl.namespace).explained("app")
    assert values(told)["class mail"] == ("10Mbit to 100Mbit, priority 4", "spec.classes of TrafficPolicy web")
    assert values(told)["total"] == ("100Mbit", "spec.total of TrafficPolicy web")
    assert not is_injected(kubectl.create(pod({}) | {"metadata": {"name": "other", "labels": {"app": "db"}}}))


def test_where_limits_are_enforced_a_policy_is_enough(cluster: Cluster) -> None:
    kubectl = cluster.namespace({"podlane.io/enforce": "true"})
    with pytest.raises(RefusedError, match="no TrafficPolicy is for it"):
        kubectl.create(pod({}))
    kubectl.create(traffic_policy("web"))
    assert is_injected(make(kubectl, {}, "TrafficPolicy web"))


def test_caps_are_told_to_who_creates_the_pod(kubectl: Kubectl) -> None:
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}}
    kubectl.create(cluster_traffic_policy("sidecar-guard", caps={"total": "4Mbit"}, **here))

    def warned() -> bool:
        done = kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod(LIMITED)))
        return "total is 4Mbit instead of 10Mbit, by the caps of ClusterTrafficPolicy sidecar-guard." in done.stderr

    until("both injectors to know the caps", lambda: warned() and warned() and warned())
    kubectl.create(pod(LIMITED))
    assert total(kubectl) == "4Mbit"


def test_what_others_write_there_is_overwritten_or_refused(kubectl: Kubectl) -> None:
    made = kubectl.create(pod(LIMITED | {EFFECTIVE: FORGED}))
    assert made["metadata"]["annotations"][EFFECTIVE] == "{}"
    for change in (f"{EFFECTIVE}={FORGED}", f"{EFFECTIVE}-"):
        with pytest.raises(RefusedError, match="is not what policies of the cluster say of this Pod"):
            kubectl("annotate", "--overwrite", "pod", "app", change)
    other = pod({EFFECTIVE: FORGED})
    assert not is_injected(kubectl.create({**other, "metadata": {**other["metadata"], "name": "other"}}))


def test_the_operator_tells_running_pods_and_counts_them(kubectl: Kubectl, operator: Start) -> None:
    lead(operator)
    kubectl.create(traffic_policy("web"))
    make(kubectl, {}, "TrafficPolicy web")
    until("the Pod to count", lambda: status(kubectl, "web").get("pods", {}).get("matched") == 1)
    assert status(kubectl, "web")["pods"]["programmed"] == 0, "its sidecar is not ready"
    ready = {"phase": "Running", "initContainerStatuses": [
        {"name": "podlane", "ready": True, "image": "x", "imageID": "x", "restartCount": 0, "state": {"running": {}}}
    ]}  # fmt: skip
    kubectl("patch", "pod", "app", "--subresource=status", "--type=merge", "-p", json.dumps({"status": ready}))
    until("its sidecar to be in force", lambda: status(kubectl, "web")["pods"]["programmed"] == 1)
    assert until_condition(kubectl, "web", "Programmed", "True", "Programmed")["message"] == "In force in 1 of 1 Pod."
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "50Mbit"}}')
    until("the changed policy", lambda: total(kubectl) == "50Mbit")
    until("its status", lambda: (status(kubectl, "web")["observedGeneration"], status(kubectl, "web")["pods"]["programmed"]) == (2, 1))  # fmt: skip

    kubectl("annotate", "pod", "app", "podlane.io/egress-bandwidth=20M")
    assert total(kubectl) == "20Mbit"
    kubectl("annotate", "pod", "app", "podlane.io/egress-bandwidth-")
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"podSelector": {"matchLabels": {"app": "db"}}}}')
    until("another Pod's", lambda: told(kubectl).base is None)
    assert total(kubectl) == "10000Gbit"
    kubectl("label", "pod", "app", "app=db")
    until("its own again", lambda: total(kubectl) == "50Mbit")
    kubectl("delete", "tpol", "web")
    until("none", lambda: total(kubectl) == "10000Gbit")


def test_labels_of_the_namespace_decide_too(cluster: Cluster, kubectl: Kubectl, operator: Start) -> None:
    lead(operator)
    team = {"namespaceSelector": {"matchLabels": {"team": "sidecars"}}}
    kubectl.create(cluster_traffic_policy("sidecar-team", "30Mbit", caps={"ceil": "10Mbit"}, **team))
    kubectl.create(pod(LIMITED))
    cluster.kubectl("label", "namespace", kubectl.namespace, "team=sidecars")
    until("the policy", lambda: told(kubectl).base, patience=60)
    until("its caps", lambda: [each.name for each in told(kubectl).caps] == ["ClusterTrafficPolicy sidecar-team"], patience=60)  # fmt: skip
    cluster.kubectl("label", "namespace", kubectl.namespace, "team-")
    until("none", lambda: told(kubectl) == Governance(), patience=60)


def test_a_sidecar_of_an_earlier_version_is_left_alone(cluster: Cluster, operator: Start) -> None:
    plain = cluster.namespace()
    sidecar = {"name": "podlane", "image": "registry.example.com/podlane:0.2.0", "restartPolicy": "Always"}
    plain.create(pod(LIMITED, initContainers=[sidecar]))
    lead(operator)
    plain.create(traffic_policy("web"))
    message = until_condition(plain, "web", "Programmed", "False", "NotHeld")["message"]
    assert "Its sidecar was injected without following policies. Create the Pod again." in message
    assert EFFECTIVE not in plain.get("pod", "app")["metadata"]["annotations"]
