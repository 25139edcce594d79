"""Workloads that are applied: who writes a wrong template reads so at once, and nobody else is held up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, LIMITED, cron_job, daemon_set, deployment, job, stateful_set
from release import Injector, Release
from trust import metric

MISSPELT = LIMITED | {"podlane.io/egress-bandwith": "10M"}
SAYS_WHICH = "podlane.io/egress-bandwith: There is no such annotation. Did you mean podlane.io/egress-bandwidth?"
MISPLACED = (
    "podlane.io/egress-bandwidth: in metadata of Deployment/web this counts for nothing. "
    "Write it in spec.template.metadata."
)
NO_LIMITS = (
    "It has no limits: no TrafficPolicy is for it, and no annotation podlane.io/... says any. "
    "docs/reference/annotations.md has them."
)
WORKLOADS = pytest.mark.parametrize(
    ("make", "place"),
    [
        (deployment, "spec.template"),
        (stateful_set, "spec.template"),
        (daemon_set, "spec.template"),
        (job, "spec.template"),
        (cron_job, "spec.jobTemplate.spec.template"),
    ],
    ids=["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"],
)
Make = Callable[[Mapping[str, str]], dict[str, Any]]


@pytest.fixture
def kubectl(cluster: Cluster, both: list[Injector]) -> Kubectl:  # noqa: ARG001
    """In a namespace that opted in."""
    return cluster.namespace(INJECTED)


def asked(injectors: list[Injector]) -> float:
    """How many reviews of whatever result the webhook for workloads has had."""
    results = ("allowed", "refused", "patched", "error", "timeout", "bad_request", "busy", "abandoned")
    return sum(
        metric(i, "podlane_injector_admissions_total", missing=0, webhook="workloads", result=r)
        for i in injectors for r in results
    )  # fmt: skip


def labelled(document: dict[str, Any], label: str) -> dict[str, Any]:
    """A Deployment whose template has the label."""
    document["spec"]["template"]["metadata"]["labels"]["podlane.io/inject"] = label
    return document


def applied(kubectl: Kubectl, document: Mapping[str, Any]) -> str:
    """What kubectl says on standard error."""
    return kubectl.run("apply", "-f", "-", stdin=json.dumps(document)).stderr


@WORKLOADS
def test_who_applies_a_wrong_template_reads_what_is_wrong(kubectl: Kubectl, make: Make, place: str) -> None:
    document = make(MISSPELT)
    with pytest.raises(RefusedError) as refused:
        applied(kubectl, document)
    said = str(refused.value)
    assert said.startswith('The request is invalid: error when creating "STDIN": admission webhook ')
    assert f'admission webhook "namespace.workloads.podlane.io" denied the request: {place}: {SAYS_WHICH}' in said
    assert kubectl("get", "pods,deployments,statefulsets,daemonsets,jobs,cronjobs", "-o", "name") == ""


@WORKLOADS
def test_a_right_template_is_taken_without_a_word(kubectl: Kubectl, make: Make, place: str) -> None:  # noqa: ARG001
    assert applied(kubectl, make(LIMITED)) == ""


def test_a_dry_run_says_the_same(kubectl: Kubectl) -> None:
    with pytest.raises(RefusedError, match="There is no such annotation"):
        kubectl.create(deployment(MISSPELT), "--dry-run=server")


def test_warnings_reach_who_applies(kubectl: Kubectl) -> None:
    document = deployment({})
    document["metadata"]["annotations"] = LIMITED
    assert applied(kubectl, document).splitlines() == [
        f"Warning: podlane: {warning}"
        for warning in (
            MISPLACED,
            f"spec.template: Its Pods are not held to limits. {NO_LIMITS}",
        )
    ]


def test_a_config_map_may_come_later(kubectl: Kubectl) -> None:
    """In a folder that is applied the Deployment can be first; and a ConfigMap that does not fit yet, changed after it."""
    document = deployment(
        {"podlane.io/policy": "lanes", "podlane.io/classes": "[{name: a, rate: 8Mbit, match: {port: 1}}]"}
    )
    said = applied(kubectl, document)
    assert said.startswith(
        "Warning: podlane: spec.template: As its ConfigMap is now, Pods are refused. podlane.io/policy: "
    )
    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "small"},
            "data": {"policy.yaml": "total: 1Mbit"},
        }
    )
    document["metadata"]["name"] = "later"
    document["spec"]["template"]["metadata"]["annotations"]["podlane.io/policy"] = "small"
    assert "Pods are refused. podlane.io/classes: " in applied(kubectl, document)
    document["metadata"]["name"] = "wrong"
    document["spec"]["template"]["metadata"]["annotations"] |= MISSPELT
    with pytest.raises(RefusedError, match="There is no such annotation"):
        applied(kubectl, document)


@pytest.mark.parametrize(
    ("namespace", "label", "webhook"),
    [
        pytest.param(INJECTED, None, "namespace", id="the namespace opted in"),
        pytest.param(INJECTED, "true", "namespace", id="both"),
        pytest.param(INJECTED, "false", None, id="the template opted out"),
        pytest.param({}, None, None, id="nobody opted in"),
        pytest.param({}, "true", "pod", id="the template opted in"),
        pytest.param({"podlane.io/enforce": "true"}, None, "enforced", id="enforced"),
        pytest.param({"podlane.io/enforce": "true"}, "true", "enforced", id="enforced, and opted in"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("both")
def test_labels_decide_about_templates(
    cluster: Cluster, namespace: dict[str, str], label: str | None, webhook: str | None
) -> None:
    kubectl, document = cluster.namespace(namespace), deployment(MISSPELT)
    if label:
        labelled(document, label)
    if webhook is None:
        assert applied(kubectl, document) == ""
    else:
        with pytest.raises(RefusedError, match=rf'webhook "{webhook}\.workloads\.podlane\.io" denied the request'):
            applied(kubectl, document)


@pytest.mark.usefixtures("both")
def test_a_cron_jobs_template_can_opt_in(cluster: Cluster) -> None:
    document = cron_job(MISSPELT)
    document["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]["podlane.io/inject"] = "true"
    with pytest.raises(RefusedError, match=r'"pod\.workloads\.podlane\.io" denied the request: spec\.jobTemplate'):
        applied(cluster.namespace(), document)


@pytest.mark.usefixtures("both")
def test_where_limits_are_enforced_a_template_needs_them(cluster: Cluster) -> None:
    kubectl = cluster.namespace({"podlane.io/enforce": "true"})
    assert applied(kubectl, deployment(LIMITED)) == ""
    for document in (deployment({}), labelled(deployment(LIMITED), "false")):
        document["metadata"]["name"] = "other"
        with pytest.raises(RefusedError, match=r"spec\.template: Every Pod of this namespace has to be held to limits"):
            applied(kubectl, document)


@pytest.mark.usefixtures("both")
def test_a_namespace_s_defaults_and_maximum_count(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    cluster.kubectl(
        "annotate", "namespace", kubectl.namespace, "podlane.io/egress-bandwidth=20M",
        "podlane.io/max-egress-bandwidth=50M",
    )  # fmt: skip
    assert applied(kubectl, deployment({})) == ""
    with pytest.raises(RefusedError, match="51M is more than the namespace allows its Pods, 50M"):
        applied(kubectl, stateful_set({"podlane.io/egress-bandwidth": "51M"}))


@WORKLOADS
def test_what_is_wrong_already_stays_changeable(cluster: Cluster, both: list[Injector], make: Make, place: str) -> None:
    """All but its template. A namespace opts in when there are workloads in it."""
    kubectl, document = cluster.namespace(), make(MISSPELT)
    kubectl.create(document)
    cluster.kubectl("label", "namespace", kubectl.namespace, "podlane.io/inject=enabled")
    kind, name, before = document["kind"].lower(), document["metadata"]["name"], asked(both)

    def patch(change: Any, *options: str) -> None:
        kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(change), *options)

    kubectl("label", kind, name, "tier=web")
    kubectl("annotate", kind, name, "podlane.io/egress-bandwidth=fast")
    patch({"status": {"conditions": []}}, "--subresource=status")
    if kind in ("deployment", "statefulset"):
        kubectl("scale", f"{kind}/{name}", "--replicas=3")
        patch({"spec": {"replicas": 0}})
    patch({"metadata": {"finalizers": ["example.com/wait"]}})
    kubectl("delete", kind, name, "--wait=false")
    patch({"metadata": {"finalizers": None}})
    assert asked(both) == before

    kubectl.create({**make({}), "metadata": {"name": "other"}})
    if kind != "job":  # whose template cannot be changed
        inner = {"metadata": {"annotations": MISSPELT}}
        for step in reversed(place.split(".")):
            inner = {step: inner}
        with pytest.raises(RefusedError, match="There is no such annotation"):
            kubectl("patch", kind, "other", "--type=merge", "-p", json.dumps(inner))
    assert asked(both) > before


def test_a_template_that_is_changed_is_judged_as_a_whole(cluster: Cluster, both: list[Injector]) -> None:
    """Its rollout would be stuck halfway; so says whoever restarts it. What mends it is taken."""
    kubectl = cluster.namespace()
    kubectl.create(deployment(MISSPELT))
    cluster.kubectl("label", "namespace", kubectl.namespace, "podlane.io/inject=enabled")
    with pytest.raises(RefusedError, match="There is no such annotation"):
        kubectl("set", "image", "deployment/web", "app=registry.example.com/app:2")
    right = {"podlane.io/egress-bandwith": None}
    change = {"spec": {"template": {"metadata": {"annotations": right}}}}
    kubectl("patch", "deployment", "web", "--type=merge", "-p", json.dumps(change))
    kubectl("rollout", "restart", "deployment/web")
    assert asked(both)


def test_what_a_controller_makes_is_its_own_business(cluster: Cluster, both: list[Injector]) -> None:
    kubectl = cluster.namespace(INJECTED)
    parent = kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "operator"}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "operator", "uid": parent["metadata"]["uid"]}
    before = asked(both)
    document = deployment(MISSPELT)
    document["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    kubectl.create(document)
    assert asked(both) == before
    document["metadata"] = {"name": "garbage", "ownerReferences": [owner]}
    with pytest.raises(RefusedError, match="There is no such annotation"):
        kubectl.create(document)


def test_large_templates_are_not_too_large(kubectl: Kubectl) -> None:
    """API servers give their conditions a budget; when it is used up, the webhook is not asked (Ignore)."""
    many = {f"example.com/{'n' * 50}-{number}": "v" * 60 for number in range(2000)}
    environment = [{"name": f"VARIABLE_{number}", "value": "v" * 100} for number in range(3000)]
    document = deployment(many | LIMITED, 0)
    document["spec"]["template"]["spec"]["containers"][0]["env"] = environment
    kubectl.create(document)
    change = {"spec": {"template": {"metadata": {"annotations": {"podlane.io/egress-bandwidth": "fast"}}}}}
    with pytest.raises(RefusedError, match="is not a Kubernetes quantity"):
        kubectl("patch", "deployment", "web", "--type=merge", "-p", json.dumps(change))


@pytest.mark.parametrize("namespace", [INJECTED, {"podlane.io/enforce": "true"}], ids=["opted in", "enforced"])
def test_dead_injectors_hold_no_workload_up(
    cluster: Cluster, vacant: Release, both: list[Injector], namespace: dict[str, str]
) -> None:
    """Its Pods wait for them, as without this webhook."""
    endpoints, kubectl = vacant.address.endpoints, cluster.namespace(namespace)
    assert both
    vacant.address.endpoints = ()
    vacant.address.cut()
    try:
        kubectl.create(deployment(MISSPELT))
        kubectl("set", "image", "deployment/web", "app=registry.example.com/app:2")
    finally:
        vacant.address.endpoints = endpoints
