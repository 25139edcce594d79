"""The CustomResourceDefinitions of ``podlane.io/v1alpha1``, made of the models that read policies. Pure.

``podlane crds`` prints them, and the chart has what it prints (``make crds``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml
from pydantic import BaseModel

from traffic_policy.cluster import rules
from traffic_policy.cluster.kinds import (
    CLUSTER_TRAFFIC_POLICY,
    GROUP,
    TRAFFIC_POLICY,
    TRAFFIC_REPORT,
    VERSION,
    plural,
)
from traffic_policy.cluster.status_schema import REPORT, STATUS
from traffic_policy.cluster.structural import structural
from traffic_policy.cluster.target import ClusterPolicyTarget, PolicyTarget
from traffic_policy.fields import RATE_PATTERN
from traffic_policy.marks import MAX_CLASSES
from traffic_policy.policy import Shaper, TrafficPolicy

_LENGTHS: Final = {
    "classes": MAX_CLASSES, "match": rules.MOST_MATCHES_OF_CLASS, "protocol": 3, "port": 100, "alpn": 100,
    "application": 100, "matchLabels": 64, "matchExpressions": 32, "values": 100,
}  # fmt: skip
_POLICY_COLUMNS: Final = (
    ("Total", "string", ".spec.total"),
    ("Classes", "string", ".status.classes"),
    ("Pods", "integer", ".status.pods.matched"),
    ("Programmed", "integer", ".status.pods.programmed"),
)
_AGE: Final = ("Age", "date", ".metadata.creationTimestamp")
_CLASS_NAME: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_HEADING: Final = """\
# Made by `make crds` from the models of policies; a test compares. `podlane crds` prints the same.
# Helm puts these in force when the chart is installed, and leaves them when it is upgraded or removed:
# `podlane crds | kubectl apply --server-side --force-conflicts -f -` brings them up to date (docs/reference/crds.md).
"""


def definitions() -> tuple[dict[str, Any], ...]:
    """All of them, as plain data."""
    namespaced = _schema(PolicyTarget, (*rules.SPEC, *rules.MESH))
    namespaced["required"] = ["total"]
    cluster = _schema(ClusterPolicyTarget, (*rules.CLUSTER_SPEC, *rules.SPEC, *rules.MESH))
    cluster["properties"]["caps"]["x-kubernetes-validations"] = [*rules.CAPS]
    return (
        _definition(
            TRAFFIC_POLICY,
            "tpol",
            "Namespaced",
            "Limits for Pods of a namespace: a total, and classes of traffic that share it.",
            {"spec": namespaced, "status": STATUS},
            _POLICY_COLUMNS,
        ),
        _definition(
            CLUSTER_TRAFFIC_POLICY,
            "ctpol",
            "Cluster",
            "Limits for Pods of any namespace that have no TrafficPolicy, and caps for all that have one.",
            {"spec": cluster, "status": STATUS},
            _POLICY_COLUMNS,
        ),
        _definition(
            TRAFFIC_REPORT,
            "treport",
            "Cluster",
            "What the agent of a node says of the Pods that have a TrafficPolicy or ClusterTrafficPolicy. Agents write "
            "it, and the operator makes the status of policies of it.",
            REPORT,
            (),
        ),
    )


def definitions_text() -> str:
    """The same as YAML text, as it is published."""
    return _HEADING + yaml.dump_all(definitions(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes out what occurs more than once."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _schema(target: type[BaseModel], validations: Iterable[rules.Rule]) -> dict[str, Any]:
    """The schema of ``spec``: who has the policy, then the policy grammar."""
    policy = structural(TrafficPolicy.model_json_schema(), _LENGTHS)
    about = structural(target.model_json_schema(), _LENGTHS)
    properties = {**about["properties"], **policy["properties"]}
    made = {
        "type": "object",
        "description": "For which Pods the policy is, and the policy, in the grammar of policy files: lists are "
        "written as lists.",
        "properties": properties,
        "x-kubernetes-validations": [*validations],
    }
    # Classes of Pods' traffic are selected by marks, and shared by guarantees (traffic_policy.scope, beyond_sidecar).
    properties["shaper"]["enum"] = [Shaper.HTB.value]
    classes = properties["classes"]
    classes |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    each = classes["items"]
    each["required"] = ["name", "rate", "match"]
    each["properties"]["name"] |= {"pattern": _CLASS_NAME, "maxLength": 63}
    each["x-kubernetes-validations"] = [*rules.CLASS]
    match = each["properties"]["match"]
    match["minItems"] = 1
    del match["items"]["properties"]["mark"]
    match["items"]["x-kubernetes-validations"] = [*rules.MATCH]
    properties["default"]["x-kubernetes-validations"] = [*rules.DEFAULT]
    _attach(made)
    return made


def _attach(schema: dict[str, Any]) -> None:
    """Give rules to what occurs in several places."""
    for name, each in schema.get("properties", {}).items():
        if each.get("pattern") == RATE_PATTERN:
            del each["pattern"]  # what the API server says of one has no remedy
            each["x-kubernetes-validations"] = [*rules.RATE]
        elif name == "rehearsal":
            each["x-kubernetes-validations"] = [*rules.REHEARSAL]
        elif name == "ingress" and "rate" in each.get("properties", {}):
            each["x-kubernetes-validations"] = [*rules.CLASS_INGRESS]
        elif name == "matchExpressions":
            each["items"]["x-kubernetes-validations"] = [*rules.REQUIREMENT]
        elif name in ("podSelector", "namespaceSelector"):
            each["x-kubernetes-map-type"] = "atomic"
        _attach(each)
    if "items" in schema:
        _attach(schema["items"])


def _definition(
    kind: str,
    short: str,
    scope: str,
    about: str,
    properties: Mapping[str, Any],
    columns: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    is_policy = "spec" in properties
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural(kind)}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "podlane"}},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural(kind),
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["podlane"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": name, "type": of, "jsonPath": path} for name, of, path in (*columns, _AGE)
                    ],
                    **({"subresources": {"status": {}}} if is_policy else {}),
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": about,
                            **({"required": ["spec"]} if is_policy else {}),
                            "properties": dict(properties),
                        }
                    },
                }
            ],
        },
    }
