"""The API server itself, before any injector: what the other tests rely on is there, and it is a real one."""

from __future__ import annotations

import json

import pytest
from cluster import Cluster
from kubectl import RefusedError

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "app"},
    "spec": {"containers": [{"name": "app", "image": "registry.example.com/app:1"}]},
}


def test_it_says_its_version(cluster: Cluster) -> None:
    """The injector refuses one that has no native sidecars."""
    version = json.loads(cluster.kubectl("get", "--raw", "/version"))
    assert (version["major"], int(version["minor"]) >= 31) == ("1", True)
    assert version["gitVersion"].startswith(f"v1.{version['minor']}.")


def test_a_pod_is_stored_with_defaults_and_stays_pending(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    made = kubectl.create(POD)
    assert made["spec"]["serviceAccountName"] == "default"
    assert [v["name"][:15] for v in made["spec"]["volumes"]] == ["kube-api-access"], "the ServiceAccount plugin ran"
    assert kubectl.get("pod", "app")["status"]["phase"] == "Pending"


def test_a_dry_run_stores_nothing(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    assert kubectl.create(POD, "--dry-run=server")["metadata"]["uid"]
    assert kubectl("get", "pods", "-o", "name") == ""


def test_what_is_no_pod_is_refused(cluster: Cluster) -> None:
    with pytest.raises(RefusedError, match=r"spec\.containers: Required value"):
        cluster.namespace().create({**POD, "spec": {"containers": []}})


def test_rights_are_checked(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    with pytest.raises(RefusedError, match='pods is forbidden: User "jane" cannot list resource "pods"'):
        kubectl("get", "pods", "--as=jane")


def test_deployments_become_pods(cluster: Cluster) -> None:
    """By the real controllers, which is how most Pods come to be: with generateName, by a ServiceAccount."""
    kubectl = cluster.namespace()
    labels = {"app": "web"}
    kubectl.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": POD["spec"]},
            },
        }
    )
    kubectl("wait", "deployment/web", "--for=jsonpath={.status.replicas}=2", "--timeout=30s")
    pods = json.loads(kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    assert {p["metadata"]["generateName"][:4] for p in pods} == {"web-"}


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
def test_a_webhook_that_nobody_serves_decides_by_its_failure_policy(cluster: Cluster, policy: str) -> None:
    kubectl = cluster.namespace({"probe": policy.lower()})
    name = f"nobody.{policy.lower()}.example.com"
    kubectl.create(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": name,
                    "clientConfig": {"url": "https://127.0.0.1:9/mutate"},
                    "rules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ],
                    "namespaceSelector": {"matchLabels": {"probe": policy.lower()}},
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": policy,
                    "timeoutSeconds": 5,
                }
            ],
        }
    )
    try:
        if policy == "Fail":
            with pytest.raises(RefusedError, match=r"failed calling webhook .*connection refused"):
                kubectl.create(POD)
        else:
            assert kubectl.create(POD)["metadata"]["uid"]
    finally:
        kubectl("delete", "mutatingwebhookconfiguration", name)
