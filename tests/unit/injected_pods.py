"""Pods for the tests of the injector, and what the injector makes of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import jsonpatch

from injector.defaults import InjectionDefaults
from injector.lists import removal
from injector.patch import operations, patch
from injector.plan import InjectionPlan, plan
from traffic_policy.pod.annotations import STATUS

LIMITS = {"podlane.io/egress-bandwidth": "10M"}
NAMES = {**LIMITS, "podlane.io/classes": '[{name: api, rate: 1Mbit, match: {sni: "*.example.com"}}]'}
SHARED = {"podlane.io/policy": "lanes"}
LANES = "total: 20Mbit\nclasses: [{name: db, rate: 1Mbit, match: {port: 5432}}]\n"
LANES_BY_NAME = 'total: 20Mbit\nclasses: [{name: api, rate: 1Mbit, match: {host: "api.example.com"}}]\n'

USUAL = InjectionDefaults(image="podlane:test")
WITH_SECRET = InjectionDefaults(image="podlane:other", image_pull_secrets=("registry",))


def pod(
    *containers: str,
    init: tuple[str, ...] | None = None,
    annotations: Mapping[str, str] = LIMITS,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Pod as a developer writes it; ``spec`` has further fields of its spec."""
    metadata: dict[str, Any] = {"generateName": "web-", "annotations": dict(annotations)}
    if labels is not None:
        metadata["labels"] = dict(labels)
    if init is not None:
        spec = {"initContainers": [{"name": name} for name in init], **spec}
    named = [{"name": name, "image": f"{name}:1"} for name in containers or ("app",)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": named, **spec}}


def no_shared(name: str) -> str | None:
    raise AssertionError(f"no shared policy is named, but {name} was asked for")


def planned(given: Mapping[str, Any], defaults: InjectionDefaults = USUAL) -> InjectionPlan:
    """The plan for a Pod that is to be injected."""
    result = plan(given, defaults, no_shared)
    assert isinstance(result, InjectionPlan), result
    return result


def injected(given: Mapping[str, Any], defaults: InjectionDefaults = USUAL) -> dict[str, Any]:
    """The Pod after its patch, applied by a library that knows nothing of ours."""
    return applied(given, patch(given, planned(given, defaults)))


def uninjected(given: Mapping[str, Any]) -> dict[str, Any]:
    return applied(given, list(operations(removal(given), given)))


def applied(given: Mapping[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    result = jsonpatch.apply_patch(copy.deepcopy(given), json.loads(json.dumps(operations)))
    assert isinstance(result, dict)
    return result


def names(given: Mapping[str, Any], key: str) -> list[str]:
    """The names in one list of the spec."""
    return [item["name"] for item in given["spec"].get(key, [])]


def container(given: Mapping[str, Any], name: str = "podlane") -> dict[str, Any]:
    """One container, wherever it is."""
    spec = given["spec"]
    (found,) = [c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == name]
    assert isinstance(found, dict)
    return found


def environment(given: Mapping[str, Any], name: str = "podlane") -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(given, name)["env"]}


def status(given: Mapping[str, Any]) -> dict[str, Any]:
    document = json.loads(given["metadata"]["annotations"][STATUS])
    assert isinstance(document, dict)
    return document
