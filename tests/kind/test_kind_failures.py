"""Sidecars in a kind cluster that are killed, hang or lack memory, as docs/reference/operations.md tells, and a node that is restarted."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Final

import pytest
from kind_cluster import (
    ANNOTATIONS,
    CEIL,
    SIZE,
    Client,
    KindCluster,
    Server,
    classes,
    held,
    lone_pod,
    rate_of,
    upload,
)
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

PROXY: Final = "$(cat /proc/1/task/1/children)"
"""In a shell in the sidecar's container: the one child of the supervisor, which is the first process there."""
FILL: Final = """
import os, select
proxy = os.pidfd_open(int(open("/proc/1/task/1/children").read()))
hoard = []
while not select.select([proxy], [], [], 0)[0]:
    hoard.append(b"x" * (1 << 18))
"""
"""A program that takes memory until the proxy has ended: the kernel ends the largest process in the container."""


@pytest.fixture
def victim(shop: Kubectl) -> Client:
    """A Pod that other tests do not need as it was."""
    if not shop("get", "deployment/victim", "--ignore-not-found"):
        return Client.start(shop, "victim")
    return Client.of(shop, "victim")


def restarts(pod: Client, reason: str) -> int:
    """How often the proxy was started anew for a reason; 0 also while there is none to tell."""
    try:
        told = pod.run("curl", "--silent", "--max-time", "2", "http://127.0.0.1:15109/metrics")
    except RefusedError:
        return 0
    found = re.search(rf'^podlane_restarts_total{{reason="{reason}"}} (\d+)', told, re.MULTILINE)
    return int(found[1]) if found else 0


def in_force(pod: Client) -> bool:
    """Whether there is a proxy that is ready: for seconds after a restart the kubelet calls ready what was so before."""
    try:
        pod.run("curl", "--silent", "--fail", "--max-time", "2", "http://127.0.0.1:15109/readyz")
    except RefusedError:
        return False
    return True


def log_of(pod: Client) -> str:
    return pod.kubectl("logs", pod.pod, "--container=podlane", "--timestamps")


def last_logged(pod: Client, event: str) -> tuple[float, str]:
    """The last line of the sidecar's log with these words, and when it was written, in seconds of the epoch."""
    line = [line for line in log_of(pod).splitlines() if event in line][-1]
    return datetime.fromisoformat(line.split()[0]).timestamp(), line


def test_a_killed_sidecar_is_started_again_and_limits_as_before(
    installed: KindCluster, victim: Client, server: Server
) -> None:
    restarts = victim.status_of("podlane")["restartCount"]
    installed.kill(victim.status_of("podlane"), "SIGKILL")
    until("the sidecar to run again", lambda: victim.status_of("podlane")["restartCount"] > restarts, patience=60)
    until("its rules", lambda: in_force(victim), patience=60)
    assert victim.status_of("podlane")["lastState"]["terminated"]["exitCode"] == 137
    assert victim.status_of("app")["restartCount"] == 0
    assert victim.is_held(server, SIZE, "video.example.com", "http")


def test_a_hung_proxy_is_done_without_and_replaced(victim: Client, server: Server) -> None:
    """New connections go direct, hence beyond their lane, until there is another proxy in the same container."""
    before, starts = restarts(victim, "hang"), victim.status_of("podlane")["restartCount"]
    stopped = float(victim.run("sh", "-c", f"date +%s.%N && kill -STOP {PROXY}", container="podlane"))
    once = upload(server, SIZE // 2, "video.example.com", "http", patience=1)  # in its lane it takes two seconds
    said = victim.run("sh", "-c", f'for attempt in 1 2 3 4 5; do said=$({once}) && echo "$said" && exit; done; exit 1')
    assert rate_of(said, SIZE // 2) > 3 * CEIL
    at, line = last_logged(victim, "the proxy does not answer")
    print(f"direct {at - stopped:.2f} s after it was stopped")
    assert "go direct" in line
    assert 0 < at - stopped < 1
    until("another proxy", lambda: restarts(victim, "hang") == before + 1, patience=30)
    until("its rules", lambda: in_force(victim), patience=60)
    assert victim.is_held(server, SIZE, "video.example.com", "http")
    assert victim.status_of("podlane")["restartCount"] == starts


def test_a_stopped_supervisor_is_found_by_the_liveness_probe(
    installed: KindCluster, victim: Client, server: Server
) -> None:
    """Its proxy goes on; after three probes, half a minute apart, the kubelet starts the container anew."""
    starts = victim.status_of("podlane")["restartCount"]
    installed.kill(victim.status_of("podlane"), "SIGSTOP")
    assert victim.is_held(server, SIZE, "video.example.com", "http")
    until("a new container", lambda: victim.status_of("podlane")["restartCount"] > starts, patience=150)
    until("its rules", lambda: in_force(victim), patience=60)
    assert victim.status_of("podlane")["lastState"]["terminated"]["exitCode"] == 137
    assert any("Liveness probe failed" in event["message"] for event in victim.events("Unhealthy"))
    assert victim.status_of("app")["restartCount"] == 0
    assert victim.is_held(server, SIZE, "video.example.com", "http")


def test_traffic_goes_on_while_a_proxy_out_of_memory_is_replaced(shop: Kubectl, server: Server) -> None:
    """Under control groups of version 1 the kernel kills the proxy alone, under version 2 all of the container."""
    given = ANNOTATIONS | {"podlane.io/classes": classes(lanes=("bulk", "video")), "podlane.io/memory-limit": "80Mi"}
    pod = Client.start(shop, "full", given)
    with ThreadPoolExecutor(1) as pool:
        by_port = pool.submit(pod.upload, server, 4 * SIZE, "other.example.com", "bulk")
        until("bytes on their way", lambda: pod.lanes()["bulk"]["bytes"], patience=60)
        with suppress(RefusedError):  # it belongs to the container
            pod.run("python3", "-c", FILL, container="podlane")
        assert not by_port.done()
        until(
            "the end of the proxy, or of its container",
            lambda: restarts(pod, "kill") or pod.status_of("podlane")["lastState"],
            patience=60,
        )
        until("another proxy's rules", lambda: in_force(pod), patience=60)
        assert held(by_port.result(60))
    ended = pod.status_of("podlane")["lastState"]
    assert ended == {} or ended["terminated"]["reason"] == "OOMKilled"
    assert pod.is_held(server, SIZE, "video.example.com", "http")
    shop("delete", "deployment", "full", "--wait=false")


def test_a_sidecar_without_the_memory_to_start_keeps_the_application_from_starting(shop: Kubectl) -> None:
    """It takes about twice what this Pod allows it. Its log says so, or the kubelet."""
    little = {"podlane.io/memory-request": "24Mi", "podlane.io/memory-limit": "24Mi"}
    shop.create(lone_pod("small", ANNOTATIONS | little))
    pod = Client(shop, "small")

    def how_it_ends() -> str:
        (status,) = pod.document["status"].get("initContainerStatuses", [{}])
        if ended := status.get("lastState", {}).get("terminated"):
            return str(ended["reason"])
        try:
            return "logged" if "the proxy was killed by SIGKILL" in log_of(pod) else ""
        except RefusedError:  # there is none yet
            return ""

    how = until("an end for want of memory", how_it_ends, patience=60)
    print(how)
    assert how in ("logged", "OOMKilled")
    assert pod.status_of("app")["state"]["waiting"]["reason"] == "PodInitializing"
    shop("delete", "pod", "small", "--wait=false")


def test_after_a_restart_of_the_node_pods_come_back_with_their_limits(
    installed: KindCluster, victim: Client, server: Server
) -> None:
    restarts = victim.status_of("app")["restartCount"]
    installed.restart_node()
    until("the Pod to run again", lambda: victim.has_come_back(restarts, "podlane"), patience=180)
    server.until_ready()
    assert victim.is_held(server, SIZE, "video.example.com", "http")
