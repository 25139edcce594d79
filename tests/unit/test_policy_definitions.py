"""The definitions of policies as Kubernetes objects: as published, described, structural. The API server's own word on
them is in tests/kube/test_policy_objects.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from traffic_policy.cluster.definitions import definitions, definitions_text
from traffic_policy.cluster.structural import described
from traffic_policy.policy import Match, TrafficPolicy

ROOT = Path(__file__).parents[2]
DEFINITIONS = {each["spec"]["names"]["kind"]: each for each in definitions()}
TPOL, CTPOL = "TrafficPolicy", "ClusterTrafficPolicy"


def schema(kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = DEFINITIONS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield found
    for each in found.get("properties", {}).values():
        yield from nodes(each)
    for key in ("items", "additionalProperties"):
        if key in found:
            yield from nodes(found[key])


def test_the_chart_has_them_as_they_are() -> None:
    assert (ROOT / "charts/podlane/crds/podlane.io.yaml").read_text() == definitions_text(), "make crds"


def test_the_reference_is_made_of_them() -> None:
    made = subprocess.run([sys.executable, ROOT / "tools/crd_reference.py"], capture_output=True, text=True, check=True)
    assert (ROOT / "docs/reference/crds.md").read_text() == made.stdout, (
        "tools/crd_reference.py > docs/reference/crds.md"
    )


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_field_says_what_it_is(kind: str) -> None:
    fields = dict(described(schema(kind)))
    assert [path for path, each in fields.items() if len(each.get("description", "")) < 8] == []
    assert all(each["description"].endswith((".", ":")) for each in fields.values())


@pytest.mark.parametrize("kind", [TPOL, CTPOL])
def test_the_whole_grammar_of_pods_policies_is_there(kind: str) -> None:
    spec = schema(kind)["properties"]["spec"]["properties"]
    assert spec.keys() >= TrafficPolicy.model_fields.keys()
    match = spec["classes"]["items"]["properties"]["match"]["items"]["properties"]
    assert match.keys() == Match.model_fields.keys() - {"mark"}, "the sidecar and the agent write marks themselves"


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_they_are_structural_and_bounded(kind: str) -> None:
    for each in nodes(schema(kind)):
        assert "type" in each or each.get("x-kubernetes-int-or-string"), each
        assert "$ref" not in each
        if each.get("type") == "array":
            assert each["maxItems"]
        if each.get("type") == "string":
            assert each.keys() & {"enum", "maxLength", "format"}


def test_every_rule_says_what_to_do() -> None:
    verbs = ("Add", "Lower", "Raise", "Remove", "Write", "Keep", "Merge", "Say", "Set")
    for kind in DEFINITIONS:
        for each in nodes(schema(kind)):
            for rule in each.get("x-kubernetes-validations", ()):
                assert any(f". {verb} " in rule["message"] for verb in verbs), rule["message"]
