"""``podlane export`` of a namespace of the real API server, which takes what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from manifests import deployment, limits, pod
from waiting import until


@pytest.mark.usefixtures("policies")
def test_what_is_exported_of_a_namespace_can_be_applied_there(cluster: Cluster) -> None:
    kubectl = cluster.namespace()
    kubectl("create", "configmap", "lanes", "--from-literal=policy.yaml=total: 9Mbit")
    kubectl.create(deployment(limits("a", "b")))
    until("its Pods", lambda: len(kubectl.list("pods")) == 2)
    kubectl.create(pod({"podlane.io/policy": "lanes"}, {"app": "db"}))
    tools = Path(cluster.tools.kubectl).parent
    done = subprocess.run(
        [sys.executable, "-m", "podlane", "export", "-n", kubectl.namespace, f"--kubeconfig={kubectl.kubeconfig}"],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kind: TrafficPolicy") == 2, "not one for the ReplicaSet and each Pod, too"
    assert "# From Deployment/web.\n" in done.stdout
    kubectl.apply(done.stdout)
    web, db = kubectl.get("tpol", "web")["spec"], kubectl.get("tpol", "db")["spec"]
    assert (web["total"], [each["name"] for each in web["classes"]]) == ("50Mbit", ["a", "b"])
    assert (db["total"], db["podSelector"]) == ("9Mbit", {"matchLabels": {"app": "db"}})
