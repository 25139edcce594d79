"""About whom the webhooks of the chart are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rendering import the


def webhook_configurations(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [the(manifests, kind) for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")]


def webhooks_for(configuration: dict[str, Any], operation: str) -> list[dict[str, Any]]:
    """Those that are called when Pods are created, or changed."""
    return [w for w in about_pods(configuration) if w["rules"][0]["operations"] == [operation]]


def about_pods(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    return [w for w in configuration["webhooks"] if w["rules"][0]["resources"] == ["pods"]]


def about_workloads(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    return [w for w in configuration["webhooks"] if w["rules"][0]["resources"] != ["pods"]]


ANY: Final = {"matchExpressions": []}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """LabelSelector of meta/v1 with the operators that are used: NotIn is also true where the key is missing."""
    tests = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
    }
    assert selector.keys() == {"matchExpressions"}
    return all(tests[e["operator"]](e["key"], e["values"]) for e in selector["matchExpressions"])
