"""What an uninstallation leaves in a kind cluster. It comes after all other tests there."""

from __future__ import annotations

from typing import Final

import pytest
from kind_agents import in_the_network_of
from kind_cluster import CEIL, LANES_NAMESPACE, SIZE, SYSTEM, Client, KindCluster, Server, rolled_out
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")


CONFIGURATION: Final = "cat /etc/cni/net.d/*"
"""Of the node's network, in a shell there."""


def test_nothing_remains_and_pods_can_be_created(installed: KindCluster, client: Client, server: Server) -> None:
    """Pods that run keep the limits of their sidecars; new ones are made without one. Agents take theirs away."""
    installed.allow_agents()
    before = installed.in_node("sh", "-c", CONFIGURATION)
    installed.upgrade("agent.enabled=true", "agent.cni.enabled=true")
    until("the plugin", lambda: "podlane-cni" in installed.in_node("sh", "-c", CONFIGURATION), patience=60)
    installed.need_namespace(LANES_NAMESPACE, {"podlane.io/mode": "agent"})
    agents_pod = Client.start(installed.kubectl.within(LANES_NAMESPACE), "last")
    assert agents_pod.is_held(server, SIZE, "video.example.com", "http")
    assert "htb" in in_the_network_of(agents_pod, installed)
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
    assert installed.in_node("sh", "-c", CONFIGURATION) == before, (
        "but for /opt/cni/bin/podlane-cni, which runtimes may still call"
    )
    left = in_the_network_of(agents_pod, installed)
    print(left)
    assert not [word for word in ("PODLANE", "NFQUEUE", "htb", "15101", "ingress", "clsact", "ifb") if word in left]
    assert client.is_held(server, SIZE, "video.example.com", "http")
    client.kubectl("rollout", "restart", "deployment/client")
    rolled_out(client.kubectl, "deployment/client")
    fresh = Client.of(client.kubectl, "client")
    spec = fresh.document["spec"]
    assert ([c["name"] for c in spec["containers"]], spec.get("initContainers")) == (["app"], None)
    assert fresh.upload(server, SIZE, "video.example.com", "http") > 3 * CEIL
