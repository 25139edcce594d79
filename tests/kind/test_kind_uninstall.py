"""What an uninstallation leaves in a kind cluster. It comes after all other tests there."""

from __future__ import annotations

import pytest
from kind_cluster import CEIL, SIZE, SYSTEM, Client, KindCluster, Server, held
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")


def test_nothing_remains_and_pods_can_be_created(installed: KindCluster, client: Client, server: Server) -> None:
    """Pods that run keep their limits; new ones are made without a sidecar."""
    installed.helm("uninstall", "podlane", "--wait", "--timeout=120s")
    kinds = "mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding"
    assert "podlane" not in installed.kubectl("get", kinds, "--output=name")
    owned = "deployment,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,secret,configmap,pod"
    until(
        "everything in the chart's namespace to be gone",
        lambda: "podlane" not in installed.kubectl.within(SYSTEM)("get", owned, "--output=name"),
        patience=60,
    )
    assert held(client.upload(server, SIZE, "video.example.com", "http"))
    client.kubectl("rollout", "restart", "deployment/client")
    client.kubectl("rollout", "status", "deployment/client", "--timeout=120s", timeout=150)
    fresh = Client.of(client.kubectl, "client")
    spec = fresh.document["spec"]
    assert ([c["name"] for c in spec["containers"]], spec.get("initContainers")) == (["app"], None)
    assert fresh.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
