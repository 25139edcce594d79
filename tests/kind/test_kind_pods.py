"""Pods of all kinds of owners in a kind cluster, with init containers and probes of their own."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from kind_cluster import (
    EACH_SECOND,
    SIZE,
    Client,
    Server,
    application,
    completed,
    deployment,
    held,
    job_spec,
    last_words,
    owner,
    rate_of,
    upload,
    web_server,
)
from kubectl import Kubectl
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

PROBES: Final = 8


def uploading(server: Server, **more: Any) -> dict[str, Any]:
    """An application that sends once in its lane, says at which rate, and ends."""
    command = upload(server, SIZE, "video.example.com", "http")
    return application("sh", "-c", f"{command} >/dev/termination-log", **more)


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_pods_of_other_owners_get_their_limits(shop: Kubectl, server: Server, kind: str) -> None:
    name = kind.lower()
    pod = Client.of_owner(shop, owner(kind, name))
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    shop("delete", kind, name, "--wait=false")


@pytest.mark.parametrize("kind", ["Job", "CronJob"])
def test_a_job_completes_within_its_limits(shop: Kubectl, server: Server, kind: str) -> None:
    name = kind.lower()
    spec = job_spec(name, uploading(server))
    if kind == "Job":
        shop.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
    else:
        cron = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": spec}}
        shop.create({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "yearly"}, "spec": cron})
        shop("create", "job", name, "--from=cronjob/yearly")
    pod = completed(shop, name)
    assert held(rate_of(last_words(pod.status_of("app")), SIZE))
    assert pod.status_of("podlane")["state"]["terminated"]["exitCode"] == 0
    assert pod.document["status"]["phase"] == "Succeeded"


def test_init_containers_of_the_application_are_held_to_its_limits(shop: Kubectl, server: Server) -> None:
    first = uploading(server) | {"name": "first"}
    pod = Client.of_owner(shop, deployment("initial", initContainers=[first]))
    assert [c["name"] for c in pod.document["spec"]["initContainers"]] == ["podlane", "first"]
    assert held(rate_of(last_words(pod.status_of("first")), SIZE))
    shop("delete", "deployment", "initial", "--wait=false")


def probed(name: str, *containers: dict[str, Any]) -> dict[str, Any]:
    """A Deployment in whose Pod the proxy takes what clients open, to look at names in it: probes of the kubelet included."""
    inbound = [{"name": "answers", "rate": "1Mbit", "match": {"direction": "inbound", "host": "shop.example.com"}}]
    given = {
        "podlane.io/egress-bandwidth": "100M",
        "podlane.io/classes": json.dumps(inbound),
    }
    return deployment(name, given, containers=list(containers))


def test_probes_of_the_application_are_not_disturbed(shop: Kubectl) -> None:
    """The kubelet asks by HTTP and TCP, each second, and by a command; a single failure would tell."""
    pod = Client.of_owner(shop, probed("probed", web_server()))
    before = pod.failed_probes()
    until(
        f"{PROBES} probes", lambda: shop("logs", pod.pod, "--container=app").count("kube-probe/") >= PROBES, patience=60
    )
    assert pod.failed_probes() == before
    assert [pod.status_of(name)["restartCount"] for name in ("app", "podlane")] == [0, 0]
    assert pod.lanes()["default"]["connections"]["total"] >= 2 * (PROBES - 1), "they were captured"
    shop("delete", "deployment", "probed", "--wait=false")


def test_grpc_probes_are_not_disturbed(shop: Kubectl) -> None:
    """The kubelet's client says nothing beyond SETTINGS before it has the server's, and gives up after a second."""
    etcd = [
        "/etcd",
        "--data-dir=/tmp/etcd",
        "--listen-client-urls=http://0.0.0.0:2379",
        "--advertise-client-urls=http://localhost:2379",
    ]
    # The one program on every such node that answers gRPC's questions about health.
    container = {
        "name": "etcd", "image": etcd_image(shop), "command": etcd,
        "startupProbe": {"grpc": {"port": 2379}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {"grpc": {"port": 2379}, **EACH_SECOND}, "livenessProbe": {"grpc": {"port": 2379}, **EACH_SECOND},
    }  # fmt: skip
    pod = Client.of_owner(shop, probed("grpc", container, application()))
    before, probes = pod.failed_probes(), captured(pod)
    until(f"{2 * PROBES} probes", lambda: captured(pod) >= probes + 2 * PROBES, patience=60)
    assert pod.failed_probes() == before
    assert [pod.status_of(name)["restartCount"] for name in ("etcd", "podlane")] == [0, 0]
    shop("delete", "deployment", "grpc", "--wait=false")


def captured(pod: Client) -> int:
    """HTTP/2 connections that clients opened and the proxy saw."""
    by_protocol: dict[str, int] = pod.lanes()["default"]["connections"]["by_protocol"]
    return by_protocol.get("http2", 0)


def etcd_image(kubectl: Kubectl) -> str:
    (pod,) = [p for p in kubectl.within("kube-system").list("pods") if p["metadata"]["name"].startswith("etcd-")]
    return str(pod["spec"]["containers"][0]["image"])
