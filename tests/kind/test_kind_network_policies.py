"""Network policies in a kind cluster: what they refuse is refused, and what they allow is held to its lane, sidecar or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from kind_cluster import INJECTORS, OPEN, ROOT, SHOP, SIZE, SYSTEM, Client, KindCluster, Server, rolled_out
from kubectl import Kubectl, RefusedError
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

ENFORCER: Final = ROOT / "tests/kind/network-policies/enforcer.yaml"
IMPATIENCE: Final = 2
"""Seconds after which a connection counts as refused: what policies refuse gets no answer."""
FAMILIES: Final = (4, 6)
HTTP_ONLY: Final = [{"port": 80, "protocol": "TCP"}]
CONNECT: Final = (
    "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))"
)


@pytest.fixture(scope="module", autouse=True)
def _enforced(cluster: KindCluster) -> Iterator[None]:
    """Something that enforces them, for a while: who does not need it is spared the time that it takes."""
    system = cluster.kubectl.within("kube-system")
    if system("get", "daemonset", "kindnet", "--ignore-not-found"):  # kind's own network does it
        yield
        return
    system.apply(ENFORCER.read_text())
    rolled_out(system, "daemonset/network-policies")
    yield
    system("delete", "--filename=-", "--wait", stdin=ENFORCER.read_text())
    until(
        "its rules to be gone", lambda: "NFQUEUE" not in cluster.in_node("iptables-save", "-t", "mangle"), patience=60
    )


@contextmanager
def policy(kubectl: Kubectl, **spec: Any) -> Iterator[None]:
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "tried"},
        "spec": spec,
    }
    kubectl.create(document)
    try:
        yield
    finally:
        kubectl("delete", "networkpolicy", "tried")


def reaches(client: Client, server: Server, port: str, family: int) -> bool:
    """Whether the server answers a request to this port, a key of PORTS."""
    scheme, number = {"http": ("http", 80), "tls": ("https", 443)}[port]
    ask = (
        f"curl --silent --insecure --max-time {IMPATIENCE} --output /dev/null --write-out '%{{http_code}}' "
        f"'{scheme}://{server.address(family)}:{number}/' || true"
    )
    return client.run("sh", "-c", ask) == "200"


@pytest.fixture(params=["relay", "step-aside"])
def sender(request: pytest.FixtureRequest) -> Client:
    """A Pod with a sidecar, by its datapath."""
    found: Client = request.getfixturevalue({"relay": "client", "step-aside": "aside"}[request.param])
    return found


def label_of(client: Client) -> dict[str, str]:
    return {"app": client.document["metadata"]["labels"]["app"]}


def test_what_a_pod_may_not_open_is_refused(shop: Kubectl, sender: Client, server: Server) -> None:
    """Of two ports one is allowed."""
    asked = [(port, family) for port in ("http", "tls") for family in FAMILIES]
    assert all(reaches(sender, server, *each) for each in asked)
    to = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPEN}}}]
    with policy(
        shop, podSelector={"matchLabels": label_of(sender)}, policyTypes=["Egress"],
        egress=[{"to": to, "ports": HTTP_ONLY}],
    ):  # fmt: skip
        until("the policy to be enforced", lambda: not reaches(sender, server, "tls", 4), patience=60)
        assert {each: reaches(sender, server, *each) for each in asked} == {each: each[0] == "http" for each in asked}
        assert sender.is_held(server, SIZE, "video.example.com", "http")
    until("the policy to be gone", lambda: reaches(sender, server, "tls", 4), patience=60)


def test_whom_a_pod_does_not_let_in_is_refused(
    elsewhere: Kubectl, client: Client, aside: Client, sender: Client, server: Server
) -> None:
    """Of two Pods one is allowed; it is the Pod's own address that is judged, with either datapath."""
    (other,) = [pod for pod in (client, aside) if pod != sender]
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SHOP}},
        "podSelector": {"matchLabels": label_of(sender)},
    }
    with policy(elsewhere, podSelector={}, policyTypes=["Ingress"], ingress=[{"from": [peer], "ports": HTTP_ONLY}]):
        until("the policy to be enforced", lambda: not reaches(other, server, "http", 4), patience=60)
        assert not reaches(other, server, "http", 6)
        assert [reaches(sender, server, "http", family) for family in FAMILIES] == [True, True]
        assert not reaches(sender, server, "tls", 4)


def test_the_charts_own_policy_lets_injectors_work_and_no_more(installed: KindCluster, server: Server) -> None:
    """Injectors that start while it is enforced reach the API server, are reached by it, and reach nobody else."""
    system = installed.kubectl.within(SYSTEM)
    first, second = sorted(pod["metadata"]["name"] for pod in system.list("pods"))
    system("delete", "pod", first, "--wait")
    rolled_out(system, f"deployment/{INJECTORS}")
    (fresh,) = [pod["metadata"]["name"] for pod in system.list("pods") if pod["metadata"]["name"] != second]
    system("delete", "pod", second, "--wait")
    # A node's kube-proxy may lead to the one that is gone until it has heard of its end.
    until("the API server to reach the injector that started", installed.injects, patience=60)
    rolled_out(system, f"deployment/{INJECTORS}")
    with pytest.raises(RefusedError, match="timed out"):
        system("exec", fresh, "--", "python3", "-c", CONNECT, server.address(), "80", str(IMPATIENCE))
