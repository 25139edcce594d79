"""Sidecars in a kind cluster that are killed, hang or lack memory, and a node that is restarted."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from kind_cluster import ANNOTATIONS, CEIL, SIZE, Client, KindCluster, Server, held, template
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def victim(shop: Kubectl) -> Client:
    """A Pod that other tests do not need as it was."""
    if not shop("get", "deployment/victim", "--ignore-not-found"):
        return Client.start(shop, "victim")
    return Client.of(shop, "victim")


def signal(cluster: KindCluster, pod: Client, name: str) -> None:
    """Send a signal to the sidecar's process, from the node: it reaches even the first one of its process namespace."""
    container = pod.status_of("podlane")["containerID"].removeprefix("containerd://")
    said = cluster.in_node("ctr", "--namespace=k8s.io", "tasks", "kill", f"--signal={name}", container)
    assert said == ""


def test_a_killed_sidecar_is_started_again_and_limits_as_before(
    installed: KindCluster, victim: Client, server: Server
) -> None:
    restarts = victim.status_of("podlane")["restartCount"]
    signal(installed, victim, "SIGKILL")
    until("the sidecar to run again", lambda: victim.status_of("podlane")["restartCount"] > restarts, patience=60)
    until("it to be ready", lambda: victim.status_of("podlane")["ready"], patience=60)
    assert victim.status_of("podlane")["lastState"]["terminated"]["exitCode"] == 137
    assert victim.status_of("app")["restartCount"] == 0
    assert held(victim.upload(server, SIZE, "video.example.com", "http"))


def test_a_hung_sidecar_delays_and_loses_nothing(installed: KindCluster, victim: Client, server: Server) -> None:
    """While it hangs nothing passes it unlimited; when it goes on, so does what has waited."""
    restarts = victim.status_of("podlane")["restartCount"]
    signal(installed, victim, "SIGSTOP")
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(victim.upload, server, SIZE, "video.example.com", "http")
            with pytest.raises(RefusedError, match="exit code 28"):  # curl's word for too late
                victim.run("curl", "--silent", "--max-time", "2", f"http://{server.address}/")
            assert not waiting.done()
            signal(installed, victim, "SIGCONT")
            assert waiting.result(60) < CEIL
    finally:
        signal(installed, victim, "SIGCONT")
    assert held(victim.upload(server, SIZE, "video.example.com", "http"))
    assert victim.status_of("podlane")["restartCount"] == restarts


def test_a_sidecar_out_of_memory_is_told_and_the_application_does_not_run_without_it(shop: Kubectl) -> None:
    """It takes about twice what this Pod allows it."""
    little = {"podlane.io/memory-request": "24Mi", "podlane.io/memory-limit": "24Mi"}
    document = {"apiVersion": "v1", "kind": "Pod", **template("small", ANNOTATIONS | little)}
    document["metadata"]["name"] = "small"
    shop.create(document)
    pod = Client(shop, "small")

    def last_end() -> str:
        statuses = pod.document["status"].get("initContainerStatuses", [{}])
        return str(statuses[0].get("lastState", {}).get("terminated", {}).get("reason", ""))

    assert until("the sidecar's end", last_end, patience=60) == "OOMKilled"
    assert pod.status_of("app")["state"]["waiting"]["reason"] == "PodInitializing"
    shop("delete", "pod", "small", "--wait=false")


def test_after_a_restart_of_the_node_pods_come_back_with_their_limits(
    installed: KindCluster, victim: Client, server: Server
) -> None:
    (node,) = installed.kubectl.list("nodes")
    restarts = victim.status_of("app")["restartCount"]
    subprocess.run(["docker", "restart", node["metadata"]["name"]], check=True, capture_output=True, timeout=120)

    def back() -> bool:
        try:
            app, sidecar = victim.status_of("app"), victim.status_of("podlane")
        except RefusedError:  # no API server yet
            return False
        return app["restartCount"] > restarts and app["ready"] and sidecar["ready"]

    until("the Pod to run again", back, patience=180)
    server.until_ready()
    assert held(victim.upload(server, SIZE, "video.example.com", "http"))
