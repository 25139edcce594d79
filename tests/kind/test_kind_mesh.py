"""A Pod with a real Envoy in Istio's arrangement in a kind cluster, which the webhook finds by itself (mesh: auto)."""

from __future__ import annotations

import json
from typing import Final

import pytest
from istio_proxy import Service
from istio_rules import ISTIO_ID
from kind_cluster import CEIL, SIZE, Client, Server, held, rate_of, upload_to
from kind_mesh import istio_init, istio_proxy, meshed_deployment
from kubectl import Kubectl
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

SERVICE: Final = "api.default.svc.cluster.local"
PORT: Final = 8000
"""Of the service; its Pod listens on another one."""
VIRTUAL: Final = "192.0.2.10"
"""The service's address, which nobody has: Envoy knows the Pod behind it."""
OUTSIDE: Final = "video.example.com"
PROBES: Final = 8
LIMITS: Final = {
    "podlane.io/egress-bandwidth": "100M",
    "podlane.io/classes": json.dumps([
        {"name": "api", "rate": "1Mbit", "ceil": f"{CEIL}Mbit", "match": {"host": SERVICE, "port": PORT}},
        {"name": "outside", "rate": "1Mbit", "ceil": f"{CEIL}Mbit", "match": {"host": OUTSIDE}},
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def peer(elsewhere: Kubectl) -> Server:
    """The Pod behind the service: in the mesh, without limits."""
    return Server.start(elsewhere, "peer", istio_proxy(), initContainers=[istio_init()])


@pytest.fixture(scope="module")
def meshed(shop: Kubectl, peer: Server) -> Client:
    """A Pod that the mesh and Podlane have been put into."""
    return Client.of_owner(shop, meshed_deployment("meshed", LIMITS, Service(SERVICE, PORT, peer.address(), 80)))


def seen(pod: Client) -> dict[str, dict[str, int]]:
    return {name: lane["connections"]["by_protocol"] for name, lane in pod.lanes().items()}


def test_the_sidecar_comes_after_istios_rules_and_into_its_group(meshed: Client) -> None:
    _, sidecar = containers = meshed.document["spec"]["initContainers"]
    assert [c["name"] for c in containers] == ["istio-init", "podlane"]
    assert sidecar["securityContext"]["runAsGroup"] == ISTIO_ID
    assert {"name": "PODLANE_MESH", "value": "istio"} in sidecar["env"]


def test_what_envoy_sends_is_held_to_its_lanes(meshed: Client, server: Server) -> None:
    """Mutual TLS to a Pod of the mesh, known by Istio's name of its service, and HTTP that it passes on, by its Host."""
    before = seen(meshed)
    for lane, protocol, address, url in (
        ("api", "tls", VIRTUAL, f"http://{SERVICE}:{PORT}/"),
        ("outside", "http1", server.address(), f"http://{OUTSIDE}:80/"),
    ):
        sent = meshed.lanes()[lane]["bytes"]
        rate = rate_of(meshed.run("sh", "-c", upload_to(address, url, SIZE)), SIZE)
        print(f"{lane}: {rate:.2f} Mbit/s of {CEIL}")
        assert held(rate)
        lanes = meshed.lanes()
        assert lanes[lane]["bytes"] - sent >= SIZE
        assert lanes[lane]["connections"]["by_protocol"].get(protocol, 0) == before[lane].get(protocol, 0) + 1
    assert seen(meshed)["default"] == before["default"], "and nothing else went out"


def test_the_kubelets_probes_come_through_both(shop: Kubectl, meshed: Client) -> None:
    before = meshed.failed_probes()

    def asked() -> int:
        return shop("logs", meshed.pod, "--container=app").count("kube-probe/")

    already = asked()
    until(f"{PROBES} probes", lambda: asked() >= already + PROBES, patience=60)
    assert meshed.failed_probes() == before
    assert [meshed.status_of(name)["restartCount"] for name in ("app", "istio-proxy", "podlane")] == [0, 0, 0]
    assert "127.0.0.6 - - " in shop("logs", meshed.pod, "--container=app"), "Envoy has asked in the kubelet's place"
    shop("delete", "deployment", "meshed", "--wait=false")
