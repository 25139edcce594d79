"""The examples for Helm and Kustomize: what they make is taken by the real API server, and is what they say."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples" / "gitops"
API = "podlane.io/v1alpha1/TrafficPolicy"


def made(*command: str) -> dict[str, dict[str, Any]]:
    """The documents that a command prints, by their kinds."""
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {each["kind"]: each for each in yaml.safe_load_all(text) if each}


@pytest.mark.usefixtures("policies")
def test_kustomize_changes_the_policy_and_its_selector(cluster: Cluster) -> None:
    base = made(cluster.tools.kubectl, "kustomize", str(EXAMPLES / "kustomize" / "base"))
    found = made(cluster.tools.kubectl, "kustomize", str(EXAMPLES / "kustomize" / "production"))
    spec = found["TrafficPolicy"]["spec"]
    assert spec["podSelector"]["matchLabels"] == {"app": "web", "env": "production"}
    pods = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= pods.items()
    assert (spec["total"], spec["classes"][0]["rate"]) == ("200Mbit", "80Mbit")
    assert spec["classes"][1] == base["TrafficPolicy"]["spec"]["classes"][1], "others stay"
    kubectl = cluster.namespace()
    for each in (base, found):
        for document in each.values():
            document["metadata"].pop("namespace", None)
            kubectl.create(document, "--dry-run=server")


@pytest.mark.usefixtures("policies")
def test_helm_makes_a_policy_for_its_pods_where_the_cluster_has_the_kind(cluster: Cluster) -> None:
    template = (cluster.tools.helm, "template", "web", str(EXAMPLES / "helm"))
    found = made(*template, "--api-versions", API)
    selector = found["TrafficPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    kubectl = cluster.namespace()
    for document in found.values():
        kubectl.create(document, "--dry-run=server")
    assert set(made(*template)) == {"Deployment"}
    assert set(made(*template, "--api-versions", API, "--set", "traffic=null")) == {"Deployment"}


@pytest.mark.usefixtures("policies")
def test_a_policy_that_nobody_has_looked_at_says_so(cluster: Cluster) -> None:
    """By a default, which the API server has in what it gives: else tools that judge it would take it for in force."""
    kubectl = cluster.namespace()
    document = made(cluster.tools.kubectl, "kustomize", str(EXAMPLES / "kustomize" / "base"))["TrafficPolicy"]
    kubectl.create(document)
    assert kubectl.get("tpol", "web")["status"] == {"observedGeneration": -1}
