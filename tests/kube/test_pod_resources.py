"""What the API server makes of a sidecar's requests and limits: QoS classes, Pod-level resources, LimitRanges, quotas.

The messages are those that docs/how-to/injection.md explains, each with its remedy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import IMAGE, INJECTED, LIMITED, pod
from waiting import until

pytestmark = pytest.mark.usefixtures("release")

ONE = {"cpu": "1", "memory": "1Gi"}
EQUAL = {"limits": ONE, "requests": ONE}
SMALL = {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "200m", "memory": "400Mi"}}
"""Of the class Burstable, and with all that a LimitRange or a quota may ask for."""
DEFAULT = {"limits": {"memory": "256Mi"}, "requests": {"cpu": "20m", "memory": "80Mi"}}
KEPT = {"limits": {"cpu": "200m", "memory": "256Mi"}, "requests": {"cpu": "200m", "memory": "256Mi"}}


def app(own: Mapping[str, Any], /, annotations: Mapping[str, str] = LIMITED, **spec: Any) -> dict[str, Any]:
    """A Pod whose one container has these resources."""
    return pod(annotations, containers=[{"name": "app", "image": IMAGE, "resources": own}], **spec)


def named(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "name": name}}


def sidecar_resources(stored: Mapping[str, Any]) -> Any:
    (sidecar,) = (each for each in stored["spec"]["initContainers"] if each["name"] == "podlane")
    return sidecar["resources"]


def annotated(**own: str) -> dict[str, str]:
    return {**LIMITED, **{f"podlane.io/{name.replace('_', '-')}": value for name, value in own.items()}}


def warnings(kubectl: Kubectl, document: Mapping[str, Any]) -> str:
    return kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(named("other", document))).stderr


def limited(cluster: Cluster, kind: str = "Container", **limits: Mapping[str, str]) -> Kubectl:
    """A namespace with a LimitRange."""
    kubectl = cluster.namespace(INJECTED)
    item = {"type": kind, **limits}
    kubectl.create(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [item]}}
    )
    return kubectl


# --- QoS classes -------------------------------------------------------------------------------------------------------


def test_a_guaranteed_pod_stays_guaranteed(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    stored = kubectl.create(app({"limits": ONE}))
    assert (stored["status"]["qosClass"], sidecar_resources(stored)) == ("Guaranteed", KEPT)
    assert "keeps its QoS class Guaranteed" in warnings(kubectl, app(EQUAL))


def test_so_does_one_that_is_by_the_defaults_of_its_namespace(cluster: Cluster) -> None:
    """The plugin LimitRanger runs before the webhooks, and once more after they have changed the Pod."""
    kubectl = limited(cluster, default={"cpu": "500m", "memory": "512Mi"})
    stored = kubectl.create(app({}))
    assert (stored["status"]["qosClass"], sidecar_resources(stored)) == ("Guaranteed", KEPT)
    # Where the Pod is none, its defaults reach the sidecar in the second round.
    stored = kubectl.create(named("burstable", app({"requests": {"cpu": "100m"}})))
    assert stored["status"]["qosClass"] == "Burstable"
    assert sidecar_resources(stored) == {**DEFAULT, "limits": {"cpu": "500m", "memory": "256Mi"}}


def test_a_burstable_pod_gets_what_is_usual(cluster: Cluster) -> None:
    stored = cluster.namespace(INJECTED).create(app(SMALL))
    assert (stored["status"]["qosClass"], sidecar_resources(stored)) == ("Burstable", DEFAULT)


# --- Pod-level resources -----------------------------------------------------------------------------------------------


def test_a_pod_whose_containers_take_all_that_it_requests_is_let_in(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    full = app({"requests": ONE}, resources={"requests": ONE})
    stored = kubectl.create(full)
    assert sidecar_resources(stored) == {**DEFAULT, "requests": {"cpu": "0", "memory": "0"}}
    assert stored["spec"]["resources"] == {"requests": ONE}, "it is the Pod's owner who says how much"
    said = warnings(kubectl, full)
    assert "spec.resources.requests.cpu leaves the sidecar 0, less than its 20m" in said
    assert "spec.resources.requests.memory leaves the sidecar 0, less than its 80Mi" in said


def test_so_is_one_with_pod_level_limits_alone(cluster: Cluster) -> None:
    """The API server sets its requests to what the containers request: since 1.37 when the sidecar is one of them."""
    stored = cluster.namespace(INJECTED).create(app({"requests": {"cpu": "500m"}}, resources={"limits": ONE}))
    assert stored["spec"]["resources"] == {"limits": ONE, "requests": {"cpu": "520m", "memory": "80Mi"}}
    assert sidecar_resources(stored) == DEFAULT


def test_a_part_is_taken_where_a_part_is_left(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    first = {"name": "first", "image": IMAGE, "resources": {"requests": {"cpu": "990m"}}}
    tight = app({"requests": {"cpu": "100m"}}, resources={"requests": ONE}, initContainers=[first])
    stored = kubectl.create(tight)
    assert sidecar_resources(stored)["requests"] == {"cpu": "10m", "memory": "80Mi"}
    with pytest.raises(RefusedError, match=r"podlane\.io/cpu-request: 20m is more than .* leaves, 10m\. Lower it"):
        kubectl.create(tight | {"metadata": {"name": "asks", "annotations": annotated(cpu_request="20m")}})


def test_pod_level_resources_that_are_equal_are_guaranteed(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED)
    stored = kubectl.create(app({}, resources=EQUAL))
    assert (stored["status"]["qosClass"], sidecar_resources(stored)) == ("Guaranteed", DEFAULT)
    one = {"cpu": "1"}
    stored = kubectl.create(
        named("half", app({"limits": {"memory": "1Gi"}}, resources={"limits": one, "requests": one}))
    )
    assert stored["status"]["qosClass"] == "Guaranteed"
    assert sidecar_resources(stored) == {"requests": {"cpu": "20m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}}


# --- LimitRanges and quotas --------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, dict[str, str]], str, dict[str, str]]] = {
    "min": (
        "Container", {"min": {"memory": "128Mi"}},
        "minimum memory usage per Container is 128Mi, but request is 80Mi", {"memory_request": "128Mi"},
    ),
    "max": (
        "Container", {"max": {"memory": "200Mi"}, "default": {"memory": "200Mi"}},
        "maximum memory usage per Container is 200Mi, but limit is 256Mi", {"memory_limit": "200Mi"},
    ),
    "ratio": (
        "Container", {"maxLimitRequestRatio": {"memory": "2"}},
        "memory max limit to request ratio per Container is 2, but provided ratio is 3.200000",
        {"memory_request": "128Mi"},
    ),
    "ratio without a limit": (
        "Container", {"maxLimitRequestRatio": {"cpu": "4"}},
        "cpu max limit to request ratio per Container is 4, but no limit is specified or limit is 0", {"cpu_limit": "80m"},
    ),
    "default below the request": (
        "Container", {"default": {"cpu": "10m"}},
        'spec.initContainers[0].resources.requests: Invalid value: "20m": must be less than or equal to cpu limit of 10m',
        {"cpu_limit": "100m"},
    ),
    "max of the Pod": (
        "Pod", {"max": {"memory": "500Mi"}}, "maximum memory usage per Pod is 500Mi, but limit is 656Mi",
        {"memory_limit": "100Mi"},
    ),
}  # fmt: skip
"""By what a LimitRange has: what the API server says, which names the sidecar only by its place, and what helps."""


@pytest.mark.parametrize(("kind", "limits", "message", "remedy"), REFUSED.values(), ids=REFUSED)
def test_a_limit_range_that_the_sidecar_does_not_fit_into_refuses_the_pod(
    cluster: Cluster, kind: str, limits: dict[str, dict[str, str]], message: str, remedy: dict[str, str]
) -> None:
    kubectl = limited(cluster, kind, **limits)
    resources = {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "200m", "memory": "400Mi"}}
    if "max" in limits and kind == "Container":
        resources["limits"] = {"cpu": "200m", "memory": "200Mi"}
    with pytest.raises(RefusedError) as refused:
        kubectl.create(app(resources))
    assert message in str(refused.value)
    kubectl.create(app(resources, annotated(**remedy)))


@pytest.mark.parametrize(
    ("hard", "message", "remedy"),
    [
        ({"limits.cpu": "1"}, "must specify limits.cpu for: podlane", {"cpu_limit": "200m"}),
        (
            {"requests.memory": "250Mi"},
            "exceeded quota: team, requested: requests.memory=280Mi, used: requests.memory=0, limited: requests.memory=250Mi",
            {"memory_request": "50Mi"},
        ),
    ],
    ids=["limits of CPU", "memory"],
)
def test_a_quota_counts_the_sidecar(
    cluster: Cluster, hard: dict[str, str], message: str, remedy: dict[str, str]
) -> None:
    kubectl = cluster.namespace(INJECTED)
    kubectl.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}})
    until("the quota to be in force", lambda: kubectl.get("resourcequota", "team")["status"].get("hard") == hard)
    with pytest.raises(RefusedError) as refused:
        kubectl.create(app(SMALL))
    assert message in str(refused.value)
    kubectl.create(app(SMALL, annotated(**remedy)))
    until("the quota to be charged", lambda: _used(kubectl, *hard) != "0")


def _used(kubectl: Kubectl, name: str) -> Any:
    return kubectl.get("resourcequota", "team")["status"]["used"][name]


def test_annotations_of_the_namespace_fit_all_its_sidecars_in(cluster: Cluster) -> None:
    kubectl = limited(cluster, maxLimitRequestRatio={"cpu": "2", "memory": "2"})
    cluster.kubectl(
        "annotate", "namespace", kubectl.namespace, "podlane.io/cpu-request=100m", "podlane.io/cpu-limit=200m",
        "podlane.io/memory-request=128Mi",
    )  # fmt: skip
    stored = kubectl.create(app(SMALL))
    assert sidecar_resources(stored) == {
        "limits": {"cpu": "200m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"},
    }  # fmt: skip
