"""The chart's life on a real API server: installed, upgraded, rolled back, uninstalled, while Pods are created all the time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from typing import Any, Final

import pytest
import yaml
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, pod
from release import ATTENTIVE, LINGERING, Release
from rest import WEBHOOKS, Rest
from steady import PodCreator
from trust import KINDS, Trust
from waiting import until

from injector.server.certificates import split_bundle

CORE: Final = "/api/v1/namespaces/podlane-system"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
LATER: Final = (
    f"{CORE}/services", f"{CORE}/secrets", f"{CORE}/serviceaccounts", "/apis/apps/v1/namespaces/podlane-system/deployments",
    f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings", f"{RBAC}/namespaces/podlane-system/roles",
)  # fmt: skip
"""Collections of what an injector needs to answer."""
IGNORE: Final = {"webhook": {"failurePolicy": "Ignore"}}


@pytest.fixture
def rest(cluster: Cluster) -> Iterator[Rest]:
    made = Rest(cluster)
    yield made
    made.close()


@pytest.fixture
def served(vacant: Release) -> Iterator[Release]:
    """The chart with its default values, installed anew where it is not, and two injectors."""
    vacant.install({})
    vacant.serve(vacant.start_together(2, LINGERING))
    yield vacant
    vacant.stop()


def image(stored: dict[str, Any]) -> str:
    (sidecar,) = (c for c in stored["spec"].get("initContainers", []) if c["name"] == "podlane")
    return str(sidecar["image"])


def test_upgrade_and_rollback_lose_no_pod(cluster: Cluster, served: Release, rest: Rest) -> None:
    kubectl, left_out = cluster.namespace(INJECTED), cluster.namespace(INJECTED)
    trust = Trust(served, rest)
    trusted = trust.bundle()
    values = {
        "injector": {"replicas": 3},
        "image": {"tag": "9.9.9"},
        "webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 7, "excludedNamespaces": ["kube-system", left_out.namespace]},
    }  # fmt: skip

    def state() -> tuple[Any, ...]:
        deployment = served.kubectl.get("deployment", served.service)["spec"]
        webhooks = [w for kind in KINDS for w in rest.get(f"{WEBHOOKS}/{kind}/{trust.name}")["webhooks"]]
        return (
            deployment["replicas"], deployment["template"]["spec"]["containers"][0]["image"],
            {(w["failurePolicy"], w["timeoutSeconds"]) for w in webhooks},
            image(kubectl.create(pod(), "--dry-run=server")),
            "podlane.io/status" in left_out.create(pod(), "--dry-run=server")["metadata"]["annotations"],
        )  # fmt: skip

    before = state()
    with PodCreator(cluster, kubectl.namespace) as creator:
        creator.more()
        served.install(values)
        creator.more()
        served.roll()
        creator.more()
        assert state() == (3, "podlane:9.9.9", {("Ignore", 7)}, "podlane:9.9.9", False)
        assert trust.bundle() == trusted, "an upgrade leaves it as it is"
        served.helm("rollback", served.name)
        creator.more()
        served.roll()
        creator.more()
    assert creator.outcomes.keys() == {"injected"}
    assert state() == before
    assert trust.bundle() == trusted


def objects(kubectl: Kubectl) -> set[str]:
    """All objects of the cluster, but for those that come and go by themselves."""
    kinds = set(kubectl("api-resources", "--verbs=list", "-o", "name").split())
    kinds -= {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"}
    said = kubectl("get", ",".join(sorted(kinds)), "--all-namespaces", "--no-headers",
                   "-o", "custom-columns=K:kind,S:metadata.namespace,N:metadata.name")  # fmt: skip
    return {" ".join(line.split()) for line in said.splitlines()}


def gone(rest: Rest, collection: str, since: str, times: int = 1) -> int:
    """When (by the cluster's count) the chart's object of a collection was deleted, or was so for the n-th time."""
    chosen = {"labelSelector": "app.kubernetes.io/instance%3Dpodlane", "timeoutSeconds": "10"}
    events = rest.history(collection, since, **chosen)
    with closing(events):
        deletions = (thing for kind, thing in events if kind == "DELETED")
        return [int(thing["metadata"]["resourceVersion"]) for thing in itertools.islice(deletions, times)][-1]


def test_nothing_remains_and_nobody_waits_for_it(cluster: Cluster, vacant: Release, rest: Rest) -> None:
    namespace = cluster.namespace(INJECTED).namespace
    vacant.helm("uninstall", vacant.name)
    until("its Pods to go", lambda: not vacant.kubectl("get", "pods", "-o", "name"))
    before = objects(vacant.kubectl)
    vacant.install({})
    injectors = vacant.start_together(2, ATTENTIVE)
    vacant.serve(injectors)
    with PodCreator(cluster, namespace) as creator:
        creator.more()
        assert creator.outcomes.keys() == {"injected"}
        version = rest.version(f"{CORE}/services")
        vacant.helm("uninstall", vacant.name)
        creator.more()
    assert creator.outcomes.keys() == {"injected", "bare"}
    assert [outcome for outcome, _ in itertools.groupby(creator.history)] == ["injected", "bare"]

    unhooked = max(gone(rest, f"{WEBHOOKS}/{kind}", version, times=2) for kind in KINDS)
    for collection in LATER:
        assert unhooked < gone(rest, collection, version), collection

    for injector in injectors:
        until("it to notice", lambda: "cannot be kept" in injector.daemon.output)  # noqa: B023
    until("nothing to remain", lambda: objects(vacant.kubectl) == before)
    vacant.stop()


def test_with_dead_injectors_an_uninstall_frees_everybody(cluster: Cluster, served: Release, rest: Rest) -> None:
    """And with failurePolicy Ignore a new one refuses nobody, although no injector is there yet."""
    kubectl = cluster.namespace(INJECTED)
    trusted = split_bundle(Trust(served, rest).bundle())
    served.stop()
    with pytest.raises(RefusedError, match="failed calling webhook"):
        kubectl.create(pod())
    with PodCreator(cluster, kubectl.namespace) as creator:
        served.helm("uninstall", served.name)
        until("a Pod", lambda: creator.outcomes["bare"])
        creator.more()
        served.install(IGNORE)
        creator.more()
    outcomes = [outcome for outcome, _ in itertools.groupby(creator.history)]
    assert outcomes[-1] == "bare"
    assert all("failed calling webhook" in reason for reason in outcomes[:-1]), outcomes
    served.serve(served.start_together(2))
    assert not trusted & split_bundle(Trust(served, rest).bundle()), "an authority does not outlive its chart"


def custom_resource(kind: str) -> dict[str, Any]:
    """The definition of one of cert-manager's kinds, as far as the chart needs it."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.cert-manager.io"},
        "spec": {
            "group": "cert-manager.io", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip


def test_cert_manager_that_comes_later_changes_nothing(served: Release, rest: Rest) -> None:
    """Until the chart is installed anew: then its issuers and certificates are made."""
    trust = Trust(served, rest)
    trusted = trust.bundle()
    kubectl = served.kubectl
    definitions = [custom_resource(kind)["metadata"]["name"] for kind in ("Certificate", "Issuer")]
    for kind in ("Certificate", "Issuer"):
        kubectl.create(custom_resource(kind))
    try:
        kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in definitions), "--timeout=30s")
        assert "Certificates: self-managed" in served.install({})
        assert trust.bundle() == trusted
        assert kubectl("get", "certificates.cert-manager.io", "-o", "name") == ""
        served.helm("uninstall", served.name)
        assert "Certificates: cert-manager" in served.install({})
        made = kubectl("get", "certificates.cert-manager.io,issuers.cert-manager.io", "-o", "name").split()
        assert len(made) == 4
        assert rest.ask("GET", trust.secret)[0] == HTTPStatus.NOT_FOUND, "that is cert-manager's to make"
        served.helm("uninstall", served.name)
    finally:
        kubectl("delete", "crd", *definitions)


def test_the_cluster_takes_what_removes_the_lanes_of_agents(vacant: Release) -> None:
    """There are no nodes here, on which it would be done (tests/kind)."""
    vacant.install({"agent": {"enabled": True}})
    try:
        hooks = [each for each in yaml.safe_load_all(vacant.helm("get", "hooks", vacant.name)) if each]
        before = [each for each in hooks if each["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"]
        kinds = {each["kind"]: each for each in before}
        assert kinds.keys() >= {"DaemonSet", "ServiceAccount", "Role", "RoleBinding", "Job"}
        assert kinds["DaemonSet"]["metadata"]["name"] == vacant.kubectl.list("daemonsets")[0]["metadata"]["name"]
        for each in before:
            trial = each | {"metadata": each["metadata"] | {"name": "trial"}}
            vacant.kubectl.create(trial, "--dry-run=server")
    finally:
        vacant.install({})
