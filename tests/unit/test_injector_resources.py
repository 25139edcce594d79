"""The sidecar's requests and limits: never contradictory, of a Guaranteed Pod equal, and within Pod-level requests."""

from __future__ import annotations

from typing import Any

import pytest
from injected_pods import LIMITS, USUAL, container, injected, planned, pod

from injector.pod.defaults import InjectionDefaults
from traffic_policy.pod.effective import AnnotationsError

DEFAULT = {"requests": {"cpu": "20m", "memory": "80Mi"}, "limits": {"memory": "256Mi"}}
ONE = {"cpu": "1", "memory": "1Gi"}
EQUAL = {"limits": ONE, "requests": ONE}


def app(resources: dict[str, Any], name: str = "app", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "app:1", "resources": resources, **fields}


def resources_of(given: dict[str, Any], defaults: InjectionDefaults = USUAL) -> dict[str, Any]:
    found = container(injected(given, defaults)).get("resources")
    assert isinstance(found, dict)
    return found


def annotated(**own: str) -> dict[str, str]:
    """Limits, and annotations such as ``cpu_limit``."""
    return {**LIMITS, **{f"podlane.io/{name.replace('_', '-')}": value for name, value in own.items()}}


@pytest.mark.parametrize(
    ("own", "requests", "limits"),
    [
        ({}, {"cpu": "20m", "memory": "80Mi"}, {"memory": "256Mi"}),
        ({"cpu-request": "100m"}, {"cpu": "100m", "memory": "80Mi"}, {"memory": "256Mi"}),
        ({"cpu-limit": "10m"}, {"cpu": "10m", "memory": "80Mi"}, {"cpu": "10m", "memory": "256Mi"}),
        ({"memory-limit": "32Mi"}, {"cpu": "20m", "memory": "32Mi"}, {"memory": "32Mi"}),
        ({"memory-request": "1Gi"}, {"cpu": "20m", "memory": "1Gi"}, {"memory": "1Gi"}),
        ({"memory-request": "32Mi", "memory-limit": "1Gi"}, {"cpu": "20m", "memory": "32Mi"}, {"memory": "1Gi"}),
    ],
    ids=["defaults", "request", "limit below the usual request", "memory too", "request above the usual limit", "both"],
)
def test_resources_never_contradict_each_other(
    own: dict[str, str], requests: dict[str, str], limits: dict[str, str]
) -> None:
    annotations = {**LIMITS, **{f"podlane.io/{name}": value for name, value in own.items()}}
    assert resources_of(pod(annotations=annotations)) == {"requests": requests, "limits": limits}


def test_without_resources_there_are_none() -> None:
    bare = InjectionDefaults(cpu_request=None, memory_request=None, memory_limit=None)
    assert "resources" not in container(injected(pod(), bare))


# --- the QoS class Guaranteed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "cpu", "memory"),
    [
        ({}, "200m", "256Mi"),
        ({"cpu_limit": "1"}, "1", "256Mi"),
        ({"cpu_request": "50m"}, "50m", "256Mi"),
        ({"memory_request": "100Mi"}, "200m", "100Mi"),
        ({"cpu_limit": "500m", "memory_limit": "1Gi"}, "500m", "1Gi"),
        ({"cpu_request": "1", "cpu_limit": "1000m"}, ("1", "1000m"), "256Mi"),
    ],
    ids=["settings", "limit", "request", "memory", "both", "one value in two ways"],
)
def test_a_guaranteed_pod_stays_so(own: dict[str, str], cpu: Any, memory: str) -> None:
    request, limit = cpu if isinstance(cpu, tuple) else (cpu, cpu)
    found = resources_of(pod(containers=[app(EQUAL)], annotations=annotated(**own)))
    assert found == {"requests": {"cpu": request, "memory": memory}, "limits": {"cpu": limit, "memory": memory}}


def test_settings_decide_how_much_a_guaranteed_pods_sidecar_has() -> None:
    given = pod(containers=[app(EQUAL)])
    limited = InjectionDefaults(cpu_limit="500m", memory_limit=None)
    assert resources_of(given, limited)["requests"] == {"cpu": "500m", "memory": "256Mi"}
    assert planned(given, limited).warnings == ()
    greedy = InjectionDefaults(cpu_request="2", memory_request="1Gi")
    assert resources_of(given, greedy)["limits"] == {"cpu": "2", "memory": "1Gi"}


def test_whose_sidecar_requests_more_than_usual_reads_so() -> None:
    (warning,) = planned(pod(containers=[app(EQUAL)])).warnings
    assert warning.startswith("The sidecar requests 200m cpu and 256Mi memory, and may not use more, so that the Pod ")
    assert "podlane.io/cpu-limit" in warning
    assert len(f"podlane: {warning}") <= 256
    assert planned(pod(containers=[app(EQUAL)], annotations=annotated(cpu_limit="1"))).warnings == ()


def test_annotations_that_differ_cost_a_pod_its_class_and_it_is_warned() -> None:
    given = pod(containers=[app(EQUAL)], annotations=annotated(cpu_request="100m", cpu_limit="2"))
    (warning,) = planned(given).warnings
    assert "QoS class Guaranteed becomes Burstable" in warning
    assert len(f"podlane: {warning}") <= 256
    # Then there is no reason to keep more memory free than usual.
    assert resources_of(given)["requests"] == {"cpu": "100m", "memory": "80Mi"}


@pytest.mark.parametrize(
    "containers",
    [
        [app({"limits": ONE})],
        [app({"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": ONE})],
        [app({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 1.0, "memory": "1Gi"}})],
    ],
    ids=["limits alone", "one value in two ways", "numbers"],
)
def test_requests_may_be_left_out_and_written_in_several_ways(containers: list[dict[str, Any]]) -> None:
    assert resources_of(pod(containers=containers))["limits"] == {"cpu": "200m", "memory": "256Mi"}


@pytest.mark.parametrize(
    "changes",
    [
        {"containers": [app(EQUAL), app({}, "second")]},
        {"containers": [app({"limits": ONE, "requests": {**ONE, "cpu": "500m"}})]},
        {"containers": [app({"limits": {"cpu": "1"}})]},
        {"containers": [app({"limits": {"cpu": "0", "memory": "0"}})]},
        {"containers": [app({"limits": {"cpu": True, "memory": "much"}})]},
        {"containers": [app(EQUAL)], "initContainers": [app({}, "first")]},
    ],
    ids=["one without", "requests below", "no memory", "zero", "nonsense", "an init container"],
)
def test_other_pods_get_what_is_usual(changes: dict[str, Any]) -> None:
    assert resources_of(pod(**changes)) == DEFAULT
    assert planned(pod(**changes)).warnings == ()


# --- Pod-level requests ------------------------------------------------------------------------------------------------

HALF = {"requests": {"cpu": "500m", "memory": "512Mi"}}


def test_of_a_pod_with_resources_of_its_own_the_sidecar_takes_what_it_usually_does() -> None:
    given = pod(containers=[app({"requests": {"cpu": "400m", "memory": "256Mi"}})], resources=HALF)
    assert resources_of(given) == DEFAULT
    assert planned(given).warnings == ()


@pytest.mark.parametrize(
    ("spec", "cpu", "missing"),
    [
        ({"containers": [app({"requests": {"cpu": "500m"}})]}, "0", "20m"),
        ({"containers": [app({"requests": {"cpu": "495m"}})]}, "5m", "15m"),
        ({"containers": [app({"requests": {"cpu": "499.5m"}})]}, "0", "20m"),
        ({"containers": [app({"requests": {"cpu": "2"}})]}, "0", "20m"),
        ({"containers": [app({"limits": {"cpu": "490m"}})]}, "10m", "10m"),
        ({"containers": [app({})], "initContainers": [app({"requests": {"cpu": "490m"}}, "first")]}, "10m", "10m"),
        (
            {
                "containers": [app({"requests": {"cpu": "200m"}})],
                "initContainers": [
                    app({"requests": {"cpu": "290m"}}, "proxy", restartPolicy="Always"),
                    app({"requests": {"cpu": "100m"}}, "first"),
                    app({"requests": {"cpu": "100m"}}, "next"),
                ],
            },
            "10m",
            "10m",
        ),
    ],
    ids=["nothing left", "a part", "half a unit", "more than there is", "limits", "an init container", "all kinds"],
)
def test_the_sidecar_requests_what_the_pod_leaves(spec: dict[str, Any], cpu: str, missing: str) -> None:
    given = pod(**spec, resources=HALF)
    assert resources_of(given) == {**DEFAULT, "requests": {"cpu": cpu, "memory": "80Mi"}}
    (warning,) = planned(given).warnings
    assert f"spec.resources.requests.cpu leaves the sidecar {cpu}, less than its 20m" in warning
    assert f"Raise it by {missing}," in warning
    assert len(f"podlane: {warning}") <= 256


def test_a_limit_without_a_request_would_be_one() -> None:
    limited = InjectionDefaults(cpu_request=None, cpu_limit="1", memory_request=None)
    given = pod(containers=[app({})], resources={"requests": {"cpu": "500m", "memory": "128Mi"}})
    assert resources_of(given, limited) == {
        "requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"},
    }  # fmt: skip


def test_before_kubernetes_has_set_the_request_the_limit_counts() -> None:
    given = pod(containers=[app({"requests": {"memory": "1000Mi"}})], resources={"limits": ONE})
    assert resources_of(given)["requests"] == {"cpu": "20m", "memory": "24Mi"}


def test_pod_level_resources_decide_the_class_alone() -> None:
    """With limits that are its requests the Pod is Guaranteed, whatever its containers have."""
    given = pod(containers=[app({})], resources=EQUAL)
    assert resources_of(given) == DEFAULT
    given = pod(
        containers=[app({"limits": {"cpu": "1", "memory": "512Mi"}})], resources={"requests": {**ONE, "cpu": "2"}}
    )
    assert resources_of(given) == DEFAULT


def test_a_class_by_pod_level_cpu_and_the_containers_memory_is_kept() -> None:
    given = pod(
        containers=[app({"limits": {"memory": "1Gi"}})],
        resources={"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
    )
    assert resources_of(given) == {
        "requests": {"cpu": "20m", "memory": "256Mi"}, "limits": {"memory": "256Mi"},
    }  # fmt: skip
    assert planned(given).warnings == ()


def test_a_request_by_annotation_without_room_is_refused() -> None:
    annotations = annotated(cpu_request="600m", memory_request="1Gi")
    with pytest.raises(AnnotationsError) as refused:
        planned(pod(annotations=annotations, resources=HALF))
    assert (
        "podlane.io/cpu-request: 600m is more than the Pod's own spec.resources.requests.cpu leaves, 500m. Lower it, or "
        "raise that."
    ) in str(refused.value)
    assert "podlane.io/memory-request: 1Gi is more" in str(refused.value)


def test_injecting_again_changes_nothing() -> None:
    for given in (pod(containers=[app(EQUAL)]), pod(containers=[app({"requests": {"cpu": "495m"}})], resources=HALF)):
        once = injected(given)
        assert injected(once) == once
