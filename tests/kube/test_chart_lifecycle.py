"""The chart's life on a real API server: installed, upgraded, rolled back, uninstalled, while Pods are created all the time."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, pod
from node_pods import nodes
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


def pods_of(release: Release, component: str) -> dict[str, dict[str, Any]]:
    """By the kind of who made them, those that are not ending."""
    return {
        p["metadata"]["ownerReferences"][0]["kind"]: p
        for p in release.kubectl.list("pods")
        if p["metadata"]["labels"]["app.kubernetes.io/component"] == component
        and "deletionTimestamp" not in p["metadata"]
    }


def test_an_uninstall_waits_until_the_lanes_of_agents_are_removed_on_each_node(
    cluster: Cluster, vacant: Release, tmp_path: Path
) -> None:
    """The node is one by name only: what its kubelet would do is done here, by the words of the Pods' specs."""
    vacant.install({"agent": {"enabled": True}})

    def becomes(pod: dict[str, Any], **status: Any) -> None:
        change = json.dumps({"status": status})
        vacant.kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", change)

    with nodes(cluster.kubectl, {"node-1": "v1.37.2"}):
        until("an agent", lambda: pods_of(vacant, "agent"))
        with ThreadPoolExecutor(1) as pool:
            uninstalling = pool.submit(vacant.helm, "uninstall", vacant.name)
            waiting = until("who waits", lambda: pods_of(vacant, "agent-removed").get("Job"))
            cleaning = until("who cleans", lambda: pods_of(vacant, "agent").get("DaemonSet"))
            assert cleaning["spec"]["initContainers"][0]["args"] == ["agent", "--cleanup"]
            (container,) = waiting["spec"]["containers"]
            script, *arguments = container["args"]
            account = waiting["spec"]["serviceAccountName"]
            (tmp_path / "token").write_text(vacant.kubectl("create", "token", account).strip())
            (tmp_path / "ca.crt").write_bytes(cluster.pki.bundle.read_bytes())
            script = script.replace("https://kubernetes.default.svc", cluster.url)
            script = script.replace("/var/run/secrets/kubernetes.io/serviceaccount", str(tmp_path))
            argv = [sys.executable, "-c", script, *arguments]
            asking = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert asking.stdout is not None
            said = asking.stdout.readline()
            while said and "lanes are removed on 0 of 1 nodes" not in said:
                said = asking.stdout.readline()
            assert said, "it ended, or said something else"
            assert not uninstalling.done()
            becomes(cleaning, phase="Running", conditions=[{"type": "Ready", "status": "True"}])
            assert asking.stdout.read() == "lanes are removed on 1 of 1 nodes\n"
            assert asking.wait(10) == 0
            becomes(waiting, phase="Succeeded")
            uninstalling.result(90)
        kinds = "daemonset,job,serviceaccount,role,rolebinding,deployment"
        assert "podlane" not in vacant.kubectl("get", kinds, "--output=name")


def test_an_uninstall_ends_where_no_node_can_run_who_waits(vacant: Release) -> None:
    """Its time is made short here. Without hooks the rest goes, too."""
    vacant.install({"agent": {"enabled": True}})
    with ThreadPoolExecutor(1) as pool:
        uninstalling = pool.submit(vacant.helm, "uninstall", vacant.name)
        job = until("who waits", lambda: pods_of(vacant, "agent-removed").get("Job"))["metadata"]["labels"]["job-name"]
        found = vacant.kubectl.get("job", job)["spec"]
        assert found["activeDeadlineSeconds"] < 300, "helm would end first, and say less"
        vacant.kubectl("patch", "job", job, "--patch", json.dumps({"spec": {"activeDeadlineSeconds": 1}}))
        with pytest.raises(RefusedError, match=f"{job} not ready. status: Failed"):
            uninstalling.result(90)
    (ended,) = (each for each in vacant.kubectl.get("job", job)["status"]["conditions"] if each["type"] == "Failed")
    assert ended["reason"] == "DeadlineExceeded"
    vacant.helm("uninstall", vacant.name, "--no-hooks")
    vacant.kubectl("delete", "job", job)
    kinds = "daemonset,job,serviceaccount,role,rolebinding,deployment"
    assert "podlane" not in vacant.kubectl("get", kinds, "--output=name")
