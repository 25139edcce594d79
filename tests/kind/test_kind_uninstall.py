"""What an uninstallation leaves in a kind cluster. It comes after all other tests there."""

from __future__ import annotations

import pytest
from kind_cluster import CEIL, LANES_NAMESPACE, SIZE, SYSTEM, Client, KindCluster, Server, held, rolled_out
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")


def test_nothing_remains_and_pods_can_be_created(installed: KindCluster, client: Client, server: Server) -> None:
    """Pods that run keep the limits of their sidecars; new ones are made without one. Agents take theirs away."""
    installed.allow_agents()
    installed.upgrade("agent.enabled=true")
    if not installed.kubectl("get", "namespace", LANES_NAMESPACE, "--ignore-not-found"):
        installed.make_namespace(LANES_NAMESPACE, {"podlane.io/mode": "agent"})
    agents_pod = Client.start(installed.kubectl.within(LANES_NAMESPACE), "last")
    until("its lanes", lambda: held(agents_pod.upload(server, SIZE, "video.example.com", "http")), patience=60)
    installed.helm("uninstall", "podlane", "--wait", "--timeout=120s")
    kinds = "mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding"
    assert "podlane" not in installed.kubectl("get", kinds, "--output=name")
    owned = "deployment,daemonset,job,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,secret,configmap,pod"
    until(
        "everything in the chart's namespace to be gone",
        lambda: "podlane" not in installed.kubectl.within(SYSTEM)("get", owned, "--output=name"),
        patience=60,
    )
    assert agents_pod.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
    assert installed.in_node("ls", "/run/podlane/agent") == ""
    assert held(client.upload(server, SIZE, "video.example.com", "http"))
    client.kubectl("rollout", "restart", "deployment/client")
    rolled_out(client.kubectl, "deployment/client")
    fresh = Client.of(client.kubectl, "client")
    spec = fresh.document["spec"]
    assert ([c["name"] for c in spec["containers"]], spec.get("initContainers")) == (["app"], None)
    assert fresh.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
