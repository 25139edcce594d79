"""Agents that join a control plane by the token of their ServiceAccount, about which the real API server is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "control_plane"))  # fleet_bench.py

from cluster import Cluster
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_bench import Agent, Bench, new_request, running_bench
from kubectl import Kubectl
from manifests import pod

from control_plane.certificates.identity import agent_of
from control_plane.domain.commands import RevokeAgent, TrustCluster
from control_plane.gateway.rpc import GrpcStatus, RpcError
from fleet_api.agent_pb2 import Credentials, EnrolRequest

NODE, OTHER = "node-a", "node-b"
ACCOUNT = "podlane-agent"


def a_pod(name: str, account: str, node: str) -> dict[str, object]:
    made = pod({}, serviceAccountName=account, nodeName=node)
    made["metadata"]["name"] = name
    return made


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """A namespace with the agents' ServiceAccount, a Pod of it on each node, and one of another ServiceAccount."""
    kubectl = cluster.namespace()
    for account in (ACCOUNT, "other", "reviewer"):
        kubectl("create", "serviceaccount", account)
    for name, account, node in (("a", ACCOUNT, NODE), ("b", ACCOUNT, OTHER), ("c", "other", NODE)):
        kubectl.create(a_pod(name, account, node))
    name = f"reviews-{kubectl.namespace}"
    kubectl(
        "create",
        "clusterrolebinding",
        name,
        "--clusterrole=system:auth-delegator",
        f"--serviceaccount={kubectl.namespace}:reviewer",
    )
    yield kubectl
    kubectl("delete", "clusterrolebinding", name)


@pytest.fixture
def bench(tmp_path: Path, cluster: Cluster, kubectl: Kubectl) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        bench.reviewers.mkdir()
        (bench.reviewers / "default.east").write_text(kubectl("create", "token", "reviewer"))
        bench.do(TrustCluster("east", cluster.url, cluster.pki.bundle.read_text(), f"{kubectl.namespace}/{ACCOUNT}"))
        yield bench


def token(kubectl: Kubectl, name: str = "a", account: str = ACCOUNT, audience: str = "podlane") -> str:
    """As the kubelet mounts it into the Pod."""
    pod_options = ["--bound-object-kind=Pod", f"--bound-object-name={name}"] if name else []
    return kubectl("create", "token", account, f"--audience={audience}", *pod_options).strip()


def enrol(bench: Bench, text: str, node: str = "", cluster: str = "default/east") -> Credentials:
    csr = new_request(ec.generate_private_key(ec.SECP256R1()))
    request = EnrolRequest(cluster=cluster, node=node, csr=csr, service_account_token=text)
    return bench.desk.credentials(request.SerializeToString(), "10.0.0.1")


def refused(bench: Bench, text: str, node: str = "", cluster: str = "default/east") -> RpcError:
    with pytest.raises(RpcError) as error:
        enrol(bench, text, node, cluster)
    return error.value


def test_an_agent_gets_the_name_of_the_node_that_its_pod_is_on(bench: Bench, kubectl: Kubectl) -> None:
    credentials = enrol(bench, token(kubectl))
    certificate = x509.load_pem_x509_certificate(credentials.certificate_chain.encode())
    identity = agent_of(certificate, "podlane")
    assert (identity.tenant, identity.cluster, identity.node) == ("default", "east", NODE)
    agent = Agent(bench, credentials).hello()
    bench.until("it is let in", lambda: bench.state(NODE) != "away")
    # The Pod of another node, whoever has its token, stays that one; it may join again at any time.
    assert enrol(bench, token(kubectl, "b"), OTHER, "east")
    again = Agent(bench, enrol(bench, token(kubectl), NODE)).hello()
    bench.until("the new enrolment ends the old", lambda: agent.call.ended)
    bench.until("it is let in", lambda: bench.state(NODE) != "away")
    assert again.call.ended is None
    bench.do(RevokeAgent("east", NODE))
    bench.until("the end", lambda: again.call.ended)


def test_nobody_takes_the_name_of_another_node(bench: Bench, kubectl: Kubectl) -> None:
    for text, node, words in (
        (token(kubectl), OTHER, f"is of a Pod on {NODE}, not on '{OTHER}'"),
        (token(kubectl, ""), NODE, "does not say on which node"),
        (token(kubectl, "c", "other"), NODE, "have the ServiceAccount"),
        (token(kubectl, audience="https://kubernetes.default.svc"), NODE, "does not know"),
        (token(kubectl)[:-4] + "AAAA", NODE, "does not know"),
        ("no token!", NODE, "no token of a ServiceAccount"),
        ("", NODE, "no token of a ServiceAccount"),
    ):
        error = refused(bench, text, node)
        assert (error.status, words in str(error)) == (GrpcStatus.PERMISSION_DENIED, True), str(error)
    for cluster in ("default/west", "other/east", "../east", "platform/east"):
        assert refused(bench, token(kubectl), "", cluster).status == GrpcStatus.PERMISSION_DENIED
    with bench.plane.reading("default") as tenant:
        assert tenant.clusters["east"].agents == {}


def test_the_token_of_a_pod_that_is_gone_is_worth_nothing(bench: Bench, kubectl: Kubectl) -> None:
    kubectl.create(a_pod("short", ACCOUNT, NODE))
    text = token(kubectl, "short")
    kubectl("delete", "pod", "short", "--force", "--grace-period=0")
    assert "does not know" in str(refused(bench, text))


def test_what_keeps_us_from_asking_is_said_and_may_pass(bench: Bench, kubectl: Kubectl, cluster: Cluster) -> None:
    file = bench.reviewers / "default.east"
    good = file.read_text()
    file.write_text(kubectl("create", "token", "other"))
    assert "answers 403 to a TokenReview" in str(refused(bench, token(kubectl)))
    file.unlink()
    error = refused(bench, token(kubectl))
    assert (error.status, "default.east" in str(error)) == (GrpcStatus.UNAVAILABLE, True)
    file.write_text(good)
    port = cluster.url.rpartition(":")[2]
    account = f"{kubectl.namespace}/{ACCOUNT}"
    other_ca = bench.issuer.authority.current.roots[0].pem.decode()
    for url, ca, words in (
        (f"https://127.0.0.1:{port}", other_ca, "cannot be asked"),
        ("https://127.0.0.1:1", cluster.pki.bundle.read_text(), "Connection refused"),
    ):
        bench.do(TrustCluster("east", url, ca, account))
        error = refused(bench, token(kubectl))
        assert (error.status, words in str(error)) == (GrpcStatus.UNAVAILABLE, True), str(error)
