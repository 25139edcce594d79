"""Patches: applied by a library of somebody else, they put in what is planned, once, and leave all else alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from injected_pods import (
    LIMITS,
    NAMES,
    USUAL,
    WITH_SECRET,
    container,
    injected,
    names,
    planned,
    pod,
    status,
    uninjected,
)

from injector.pod import pods
from injector.pod.defaults import InjectionDefaults
from injector.pod.list_diff import changed, injection, position, without_ours
from injector.pod.patch import patch

FORMS = pytest.mark.parametrize("defaults", [USUAL, WITH_SECRET], ids=["usual", "other"])

PODS = {
    "one container": pod(),
    "no containers": {"metadata": {"annotations": LIMITS}, "spec": {"containers": []}},
    "no list of containers": {"metadata": {"annotations": LIMITS}, "spec": {}},
    "many containers": pod("a", "b", "c", init=("x", "y")),
    "empty lists": pod(init=(), volumes=[], imagePullSecrets=[]),
    "volumes and secrets": pod(volumes=[{"name": "data", "emptyDir": {}}], imagePullSecrets=[{"name": "theirs"}]),
    "shared processes": pod(shareProcessNamespace=True),
    "security context": pod(securityContext={"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 2000}),
    "istio": pod("app", "istio-proxy", init=("istio-init",)),
    "owner": {
        "metadata": {
            "annotations": {**LIMITS, "b/c~d": "e"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "1"}],
        },
        "spec": {"containers": [{"name": "app", "env": [{"name": "A", "value": ""}]}], "nodeName": "n"},
    },
}
POD = pytest.mark.parametrize("original", PODS.values(), ids=PODS)


@POD
@FORMS
def test_what_is_not_ours_stays_as_it_is(original: dict[str, Any], defaults: InjectionDefaults) -> None:
    before = copy.deepcopy(original)
    after = injected(original, defaults)
    assert original == before
    assert without_ours(after) == original
    assert uninjected(after) == original
    everything = planned(original, defaults)
    assert changed(original, injection(original, everything.items, everything.status)) == after
    assert names(after, "containers") == names(original, "containers")
    for key in (pods.INIT_CONTAINERS, pods.VOLUMES, pods.PULL_SECRETS):
        assert set(status(after)["injected"][key]) == set(names(after, key)) - set(names(original, key))


@POD
@FORMS
def test_injecting_twice_is_injecting_once(original: dict[str, Any], defaults: InjectionDefaults) -> None:
    once = injected(original, defaults)
    assert patch(once, planned(once, defaults)) == []


def test_lists_that_are_there_are_added_to_and_never_replaced() -> None:
    original = pod(init=("x",), volumes=[{"name": "data"}], imagePullSecrets=[{"name": "theirs"}])
    defaults = InjectionDefaults(image_pull_secrets=("ours", "theirs"))
    steps = patch(original, planned(original, defaults))
    assert [(step["op"], step["path"]) for step in steps] == [
        ("add", "/spec/initContainers/0"),
        ("add", "/spec/volumes/1"),
        ("add", "/spec/volumes/2"),
        ("add", "/spec/imagePullSecrets/1"),
        ("add", "/metadata/annotations/podlane.io~1status"),
    ]
    after = injected(original, defaults)
    assert names(after, "imagePullSecrets") == ["theirs", "ours"]
    assert names(uninjected(after), "imagePullSecrets") == ["theirs"]


POSITIONS = {
    "alone": ([], [], 0),
    "after nothing of the application's": (["migrate"], ["app"], 0),
    "istio-init": (["istio-init", "migrate"], ["app", "istio-proxy"], 1),
    "istio-validation": (["other", "istio-validation"], ["istio-proxy", "app"], 2),
    "istio-proxy as a native sidecar": (["istio-init", "istio-proxy", "migrate"], ["app"], 2),
    "istio-proxy alone, with its CNI plugin": (["migrate"], ["istio-proxy", "app"], 0),
}


@pytest.mark.parametrize(("init", "containers", "index"), POSITIONS.values(), ids=POSITIONS)
def test_positions(init: list[str], containers: list[str], index: int) -> None:
    assert position([{"name": name} for name in init]) == index
    whole = pod(*containers or ("app",), init=tuple(init))
    assert names(injected(whole), "initContainers").index("podlane") == index


def test_called_again_after_istio_it_moves_behind_it_and_keeps_what_others_changed() -> None:
    once = injected(pod(init=("migrate",)))
    container(once)["startupProbe"]["timeoutSeconds"] = 9
    container(once)["volumeMounts"].append({"name": "aws-iam-token", "mountPath": "/var/run/secrets/eks.amazonaws.com"})
    mine = copy.deepcopy(container(once))
    once["spec"]["initContainers"].insert(0, {"name": "istio-proxy", "restartPolicy": "Always"})
    once["spec"]["initContainers"].insert(0, {"name": "istio-init"})
    once["spec"]["volumes"].append({"name": "istio-token"})

    again = injected(once)
    assert names(again, "initContainers") == ["istio-init", "istio-proxy", "podlane", "migrate"]
    # Beside Istio it runs in another group and is told so, which makes it anew; after that it stays as others leave it.
    assert container(again)["securityContext"]["runAsGroup"] == 1337
    container(again)["startupProbe"] = mine["startupProbe"]
    assert container(injected(again)) == container(again)
    assert {v["name"] for v in again["spec"]["volumes"]} == {v["name"] for v in once["spec"]["volumes"]}
    assert patch(again, planned(again)) == []


@FORMS
def test_called_again_it_takes_its_places_among_containers_that_came_later(defaults: InjectionDefaults) -> None:
    once = injected(pod(init=("migrate",)), defaults)
    for key in ("initContainers", "containers"):
        once["spec"][key].insert(0, {"name": f"before-{key}"})
        once["spec"][key].append({"name": f"after-{key}"})
    again = injected(once, defaults)
    inits, containers = names(again, "initContainers"), names(again, "containers")
    assert inits == ["podlane", "before-initContainers", "migrate", "after-initContainers"]
    assert containers == ["before-containers", "app", "after-containers"]
    assert patch(again, planned(again, defaults)) == []


@FORMS
def test_what_somebody_took_out_comes_back(defaults: InjectionDefaults) -> None:
    whole = injected(pod(volumes=[{"name": "data"}]), defaults)
    for key in ("initContainers", "volumes"):
        for name in status(whole)["injected"][key]:
            broken = copy.deepcopy(whole)
            broken["spec"][key] = [item for item in broken["spec"][key] if item["name"] != name]
            mended = injected(broken, defaults)
            assert {n for k in ("initContainers", "volumes") for n in names(mended, k)} == {
                n for k in ("initContainers", "volumes") for n in names(whole, k)
            }


CHANGES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "other limits": (LIMITS, {"podlane.io/egress-bandwidth": "20M"}),
    "other resources": (LIMITS, {**LIMITS, "podlane.io/cpu-limit": "1"}),
    "classes": (LIMITS, NAMES),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
@FORMS
def test_changed_annotations_give_the_new_result(
    before: dict[str, str], after: dict[str, str], defaults: InjectionDefaults
) -> None:
    old = injected(pod(annotations=before, init=("migrate",)), defaults)
    carried = old["metadata"]["annotations"]["podlane.io/status"]
    old["metadata"]["annotations"] = {**after, "podlane.io/status": carried}
    assert injected(old, defaults) == injected(pod(annotations=after, init=("migrate",)), defaults)


@pytest.mark.parametrize(
    ("first", "then"),
    [(USUAL, WITH_SECRET), (WITH_SECRET, USUAL), (USUAL, InjectionDefaults(image="podlane:next"))],
    ids=["a secret comes", "a secret goes", "another image"],
)
def test_changed_defaults_give_the_new_result(first: InjectionDefaults, then: InjectionDefaults) -> None:
    original = pod("a", "b", volumes=[])
    assert injected(injected(original, first), then) == injected(original, then)


def test_a_forged_status_cannot_take_out_what_is_not_ours() -> None:
    forged = '{"injected": {"containers": ["app"], "volumes": ["data"]}, "created": ["containers"]}'
    victim = pod(annotations={**LIMITS, "podlane.io/status": forged}, volumes=[{"name": "data"}])
    assert names(uninjected(victim), "containers") == ["app"]
    assert names(uninjected(victim), "volumes") == ["data"]
    assert names(injected(victim), "containers") == ["app"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"injected": 3, "created": {"a": 1}}', "[" * 100_000])
def test_a_status_that_cannot_be_read_is_replaced(text: str) -> None:
    assert injected(pod(annotations={**LIMITS, "podlane.io/status": text})) == injected(pod())


_NAME = st.sampled_from(["app", "web", "migrate", "istio-init", "istio-validation", "istio-proxy", "log"])
_LIST = st.none() | st.lists(_NAME, max_size=5, unique=True).map(lambda found: [{"name": n} for n in found])
_DEFAULTS = st.builds(
    InjectionDefaults, bpf=st.booleans(), image_pull_secrets=st.lists(_NAME, max_size=2, unique=True).map(tuple)
)


@given(
    lists=st.fixed_dictionaries(dict.fromkeys(("initContainers", "containers", "volumes", "imagePullSecrets"), _LIST)),
    defaults=_DEFAULTS,
    other=_DEFAULTS,
)
@settings(max_examples=60)
def test_any_lists(lists: dict[str, Any], defaults: InjectionDefaults, other: InjectionDefaults) -> None:
    spec = {key: items for key, items in lists.items() if items is not None}
    original = {"metadata": {"annotations": LIMITS}, "spec": spec}
    once = injected(original, defaults)
    assert patch(once, planned(once, defaults)) == []
    assert uninjected(once) == original
    assert injected(once, other) == injected(original, other)
