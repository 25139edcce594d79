"""Annotations of Pods that are there already: what is wrong is refused where it is written, and nobody else has to wait."""

from __future__ import annotations

import shlex
from typing import Any, Final

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED, LIMITED, pod
from release import Injector, Release
from trust import metric

FINALIZER: Final = '{"metadata":{"finalizers":["example.com/wait"]}}'


@pytest.fixture
def kubectl(cluster: Cluster, both: list[Injector]) -> Kubectl:  # noqa: ARG001
    """In a namespace with the Pod ``app``, which has a sidecar."""
    made = cluster.namespace(INJECTED)
    made.create(pod())
    return made


def asked(injectors: list[Injector]) -> float:
    """How many reviews of whatever result the validating webhook has had."""
    results = ("allowed", "refused", "patched", "error", "timeout", "bad_request", "busy", "abandoned")
    return sum(
        metric(i, "podlane_injector_admissions_total", missing=0, webhook="validate", result=r)
        for i in injectors for r in results
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param("podlane.io/egress-bandwidth=fast", "podlane.io/egress-bandwidth: 'fast' is not a Kubernetes quantity", id="no quantity"),
        pytest.param("kubernetes.io/egress-bandwidth=slow podlane.io/egress-bandwidth-", "'slow' is not a Kubernetes quantity", id="Kubernetes' own"),
        pytest.param("podlane.io/egress-bandwith=5M", "Did you mean podlane.io/egress-bandwidth?", id="misspelt"),
        pytest.param("podlane.io/policy=nobody-made-it", "nobody-made-it", id="no ConfigMap"),
        pytest.param("podlane.io/egress-bandwidth-", "no annotation would say which", id="the last limit is taken away"),
        pytest.param("podlane.io/status-", "podlane.io/status", id="the status is taken away"),
        pytest.param("'podlane.io/classes=[{name: a, rate: 20Mbit, match: {port: 1}}]'", "Cannot guarantee 20", id="does not fit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_where_it_is_written(kubectl: Kubectl, written: str, message: str) -> None:
    before = kubectl.get("pod", "app")["metadata"]["annotations"]
    with pytest.raises(RefusedError) as refused:
        kubectl("annotate", "--overwrite", "pod", "app", *shlex.split(written))
    said = str(refused.value)
    assert 'admission webhook "update.validate.podlane.io" denied the request: ' in said
    assert message in said
    assert kubectl.get("pod", "app")["metadata"]["annotations"] == before


def test_the_pods_label_makes_no_difference_once_it_has_a_sidecar(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.kubectl("label", "namespace", kubectl.namespace, "podlane.io/inject-")
    with pytest.raises(RefusedError, match="is not a Kubernetes quantity"):
        kubectl("annotate", "--overwrite", "pod", "app", "podlane.io/egress-bandwidth=fast")


def test_the_image_of_a_sidecar_is_not_changed_for_another(kubectl: Kubectl) -> None:
    with pytest.raises(RefusedError, match="The image of container podlane can only be one of podlane, not evil:1"):
        kubectl("set", "image", "pod/app", "podlane=evil:1")
    kubectl("set", "image", "pod/app", "podlane=podlane:0.2.1")


@pytest.mark.parametrize(
    ("written", "warning"),
    [
        pytest.param("podlane.io/egress-bandwidth=20M", "", id="at once"),
        pytest.param("podlane.io/log-level=debug", "Not in force before the Pod is created again: podlane.io/log-level.", id="in a new Pod"),
    ],
)  # fmt: skip
def test_what_is_right_is_taken(kubectl: Kubectl, written: str, warning: str) -> None:
    said = kubectl.run("annotate", "--overwrite", "pod", "app", written).stderr
    assert said == (f"Warning: podlane: {warning}\n" if warning else "")
    name, _, value = written.partition("=")
    assert kubectl.get("pod", "app")["metadata"]["annotations"][name] == value


def test_nobody_is_asked_about_anything_else(both: list[Injector], kubectl: Kubectl) -> None:
    before = asked(both)
    assert before >= 1, "the Pod was validated when it was created"
    kubectl("label", "pod", "app", "tier=web", "podlane.io/inject=false")
    kubectl("annotate", "pod", "app", "example.com/note=hello", "kubernetes.io/description=hello")
    kubectl("patch", "pod", "app", "--type=merge", "-p", FINALIZER)
    kubectl("patch", "pod", "app", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Running"}}')
    kubectl("delete", "pod", "app", "--wait=false")
    kubectl("patch", "pod", "app", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kubectl("delete", "pod", "app", "--force", "--grace-period=0", "--ignore-not-found")
    assert asked(both) == before


def test_pods_without_a_sidecar_are_nobodys_business(cluster: Cluster, both: list[Injector]) -> None:
    kubectl = cluster.namespace()
    kubectl.create(pod())
    before = asked(both)
    kubectl("annotate", "--overwrite", "pod", "app", "podlane.io/egress-bandwidth=fast")
    assert asked(both) == before


def test_many_annotations_are_not_too_many(kubectl: Kubectl) -> None:
    """API servers give their conditions a budget; when it is used up, the webhook is not asked."""
    many = {f"example.com/{'n' * 50}-{number}": "v" * 40 for number in range(2000)}
    document: dict[str, Any] = pod(many | LIMITED)
    document["metadata"]["name"] = "laden"
    kubectl.create(document)
    with pytest.raises(RefusedError, match="is not a Kubernetes quantity"):
        kubectl("annotate", "--overwrite", "pod", "laden", "podlane.io/egress-bandwidth=fast")


def test_dead_injectors_hold_nobody_up(kubectl: Kubectl, vacant: Release) -> None:
    """The sidecar refuses it then, and keeps what it has."""
    endpoints = vacant.address.endpoints
    vacant.address.endpoints = ()
    vacant.address.cut()
    try:
        kubectl("annotate", "--overwrite", "pod", "app", "podlane.io/egress-bandwidth=fast")
        kubectl("annotate", "--overwrite", "pod", "app", "podlane.io/egress-bandwidth=10M")
        kubectl("delete", "pod", "app", "--force", "--grace-period=0")
    finally:
        vacant.address.endpoints = endpoints
