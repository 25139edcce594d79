"""Limits between two Pods of a kind cluster, on a Deployment's Pod as the webhook made it and the kubelet runs it."""

from __future__ import annotations

import json
import time
from typing import Final

import pytest
from kind_cluster import CEIL, SIZE, Client, Server, classes, held
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

NEW_CEIL: Final = 24
LANES: Final = [
    pytest.param("video", "video.example.com", "http", id="host"),
    pytest.param("secret", "secret.example.com", "tls", id="sni"),
    pytest.param("bulk", "other.example.com", "bulk", id="port"),
]

FAMILIES: Final = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


def change(client: Client, ceil: int) -> float:
    """Give the live Pod other limits; returns the seconds until they are in force."""
    began = time.monotonic()
    client.kubectl("annotate", "pod", client.pod, "--overwrite", f"podlane.io/classes={classes(ceil)}")
    until(
        "the new limit to be in force",
        lambda: client.lanes()["video"]["ceil_bits_per_second"] == ceil * 1_000_000,
        patience=150,  # the kubelet looks at volumes each minute (syncFrequency), and with a jitter
    )
    return time.monotonic() - began


def test_a_deployment_gets_a_ready_sidecar(client: Client) -> None:
    (sidecar,) = client.document["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("podlane", "Always")
    statuses = [client.status_of(name) for name in ("podlane", "app")]
    # As often as its node: other tests restart that.
    assert [(c["ready"], c["restartCount"]) for c in statuses] == [(True, statuses[1]["restartCount"])] * 2
    first, then = (c["state"]["running"]["startedAt"] for c in statuses)
    assert first <= then
    assert json.loads(client.document["metadata"]["annotations"]["podlane.io/status"])["version"]
    assert {"video", "secret", "bulk"} <= client.lanes().keys()


def sends_in_its_lane(client: Client, server: Server, family: int, lane: str, host: str, port: str) -> None:
    """Send something in a lane, on a connection that the sidecar sees."""
    before = client.lanes()[lane]
    rate = client.upload(server, SIZE, host, port, family)
    print(f"{lane}: {rate:.2f} Mbit/s of {CEIL}")
    assert held(rate)
    now = client.lanes()[lane]
    assert now["bytes"] - before["bytes"] >= SIZE
    assert now["connections"]["total"] - before["connections"]["total"] == 1


@FAMILIES
@pytest.mark.parametrize(("lane", "host", "port"), LANES)
def test_a_limit_between_two_pods_is_held(
    client: Client, server: Server, family: int, lane: str, host: str, port: str
) -> None:
    sends_in_its_lane(client, server, family, lane, host, port)


@FAMILIES
def test_so_it_is_when_the_proxy_steps_aside(aside: Client, server: Server, family: int) -> None:
    sends_in_its_lane(aside, server, family, "secret", "secret.example.com", "tls")


def test_other_traffic_is_not_held_to_a_lane(client: Client, server: Server) -> None:
    assert client.upload(server, SIZE, "other.example.com", "http") > 3 * CEIL


def test_an_annotation_changed_on_a_live_pod_comes_into_force(client: Client, server: Server) -> None:
    """No container restarts, and the new limit is that of the traffic."""
    restarts = client.status_of("podlane")["restartCount"]
    print(f"in force {change(client, NEW_CEIL):.1f} s after kubectl annotate was called")
    try:
        assert client.is_held(server, 3 * SIZE, "video.example.com", "http", ceil=NEW_CEIL)
        assert client.status_of("podlane")["restartCount"] == restarts
    finally:
        change(client, CEIL)
    assert client.is_held(server, SIZE, "video.example.com", "http")


def test_an_invalid_annotation_is_refused_where_the_developer_sees_it(shop: Kubectl) -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "wrong", "annotations": {"podlane.io/egress-bandwidth": "10m"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example.com/app:1"}]},
    }  # fmt: skip
    with pytest.raises(RefusedError) as refused:
        shop("apply", "--filename=-", stdin=json.dumps(pod))
    print(refused.value)
    assert "podlane.io/egress-bandwidth" in str(refused.value)
    assert "Write 10M" in str(refused.value)
    assert shop("get", "pod", "wrong", "--ignore-not-found") == ""
