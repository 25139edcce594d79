"""The whole product in a kind cluster: chart, webhook, kubelet, sidecar, traffic between Pods; the uninstallation comes last."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest
from kind_cluster import CEIL, SYSTEM, Client, KindCluster, Server, classes, deployment
from kubectl import RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300)

SIZE: Final = 4_000_000
"""Bytes of an upload: 4 s in its lane, so that what HTB lets through at first does not count."""
PAYLOAD_SHARE: Final = 1448 / 1514
"""Of each 1,514 bytes that HTB counts (Ethernet 14, IPv4 20, TCP 20, timestamps 12) 1,448 are payload."""
NEW_CEIL: Final = 24
LANES: Final = [
    pytest.param("video", "video.example.com", "http", id="host"),
    pytest.param("secret", "secret.example.com", "tls", id="sni"),
    pytest.param("bulk", "other.example.com", "bulk", id="port"),
]


def container_of(pod: dict[str, Any], name: str) -> dict[str, Any]:
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    found: dict[str, Any] = next(c for c in containers if c["name"] == name)
    return found


def test_the_chart_is_installed(installed: KindCluster) -> None:
    """Both injectors are ready, and `helm test` gets a Pod injected."""
    pods = installed.kubectl.within(SYSTEM).list("pods")
    ready = [c["ready"] for pod in pods for c in pod["status"]["containerStatuses"]]
    assert ready == [True, True]
    assert "Phase:          Succeeded" in installed.helm("test", "podlane", "--timeout=120s")


def test_a_deployment_gets_a_ready_sidecar(client: Client) -> None:
    pod = client.document
    sidecar = container_of(pod, "podlane")
    assert sidecar["restartPolicy"] == "Always"
    statuses = {c["name"]: c for c in [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]}
    assert {name: (c["ready"], c["restartCount"]) for name, c in statuses.items()} == {
        "podlane": (True, 0), "app": (True, 0),
    }  # fmt: skip
    started = {name: c["state"]["running"]["startedAt"] for name, c in statuses.items()}
    assert started["podlane"] <= started["app"]
    assert json.loads(pod["metadata"]["annotations"]["podlane.io/status"])["version"]
    assert {"video", "secret", "bulk"} <= client.lanes().keys()


@pytest.mark.parametrize(("lane", "host", "port"), LANES)
def test_a_limit_between_two_pods_is_held(client: Client, server: Server, lane: str, host: str, port: str) -> None:
    before = client.lanes()[lane]["bytes"]
    rate = client.upload(server, SIZE, host, port)
    sent = client.lanes()[lane]["bytes"] - before
    print(f"{lane}: {rate:.2f} Mbit/s of {CEIL}")
    assert 0.85 * CEIL * PAYLOAD_SHARE <= rate <= 1.1 * CEIL
    assert sent >= SIZE


def test_other_traffic_is_not_held_to_a_lane(client: Client, server: Server) -> None:
    assert client.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL


def test_an_annotation_changed_on_a_live_pod_comes_into_force(client: Client, server: Server) -> None:
    """No container restarts, and the new limit is that of the traffic."""
    began = time.monotonic()
    client.kubectl("annotate", "pod", client.pod, "--overwrite", f"podlane.io/classes={classes(NEW_CEIL)}")
    until(
        "the new limit to be in force",
        lambda: client.lanes()["video"]["ceil_bits_per_second"] == NEW_CEIL * 1_000_000,
        patience=150,  # the kubelet looks at volumes at least each minute (syncFrequency), and again with a jitter
    )
    print(f"in force {time.monotonic() - began:.1f} s after kubectl annotate had been called")
    rate = client.upload(server, 3 * SIZE, "video.example.com", "http")
    assert 0.85 * NEW_CEIL * PAYLOAD_SHARE <= rate <= 1.1 * NEW_CEIL
    assert all(c["restartCount"] == 0 for c in client.document["status"]["initContainerStatuses"])


def test_an_invalid_annotation_is_refused_where_the_developer_sees_it(installed: KindCluster, shop: str) -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "wrong", "annotations": {"podlane.io/egress-bandwidth": "10m"}},
        "spec": deployment("wrong")["spec"]["template"]["spec"],
    }  # fmt: skip
    kubectl = installed.kubectl.within(shop)
    with pytest.raises(RefusedError) as refused:
        kubectl("apply", "--filename=-", stdin=json.dumps(pod))
    print(refused.value)
    assert "podlane.io/egress-bandwidth" in str(refused.value)
    assert "10m" in str(refused.value)
    assert kubectl("get", "pod", "wrong", "--ignore-not-found") == ""


def test_uninstalling_leaves_no_trace_and_pods_creatable(
    installed: KindCluster, client: Client, server: Server
) -> None:
    """Pods that run keep their limits; new ones are made without a sidecar."""
    installed.helm("uninstall", "podlane", "--wait", "--timeout=120s")
    kinds = "mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding"
    assert "podlane" not in installed.kubectl("get", kinds, "--output=name")
    owned = "deployment,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget"
    system = installed.kubectl.within(SYSTEM)
    until(
        "everything in the chart's namespace to be gone",
        lambda: "podlane" not in system("get", f"{owned},secret,configmap,pod", "--output=name"),
        patience=60,
    )
    assert client.upload(server, 3 * SIZE, "video.example.com", "http") <= 1.1 * NEW_CEIL
    client.kubectl("rollout", "restart", "deployment/client")
    client.kubectl("rollout", "status", "deployment/client", "--timeout=120s", timeout=150)
    client.kubectl("wait", "--for=delete", f"pod/{client.pod}", "--timeout=60s", timeout=90)
    (pod,) = client.kubectl.list("pods")
    assert [c["name"] for c in pod["spec"]["containers"]] == ["app"]
    assert "initContainers" not in pod["spec"]
    fresh = Client(client.kubectl, pod["metadata"]["name"])
    assert fresh.upload(server, SIZE, "video.example.com", "http") > 3 * NEW_CEIL
