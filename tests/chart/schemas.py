"""What a Kubernetes cluster accepts, from Kubernetes' own OpenAPI document and from others' CustomResourceDefinitions.

Stricter than an API server in one way: null stands for nothing there, and is a mistake of a template here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator, Draft202012Validator

from injector.manifests.yaml_tree import LOADER

MODULES = tuple(
    line
    for line in (Path(__file__).parent / "modules.txt").read_text().split("\n")
    if line and not line.startswith("#")
)
KUBERNETES = tuple(module.split("@")[1] for module in MODULES if module.startswith("k8s.io/kubernetes@"))
_CRDS = {
    "cert-manager.io": ("github.com/cert-manager/cert-manager", "deploy/crds/cert-manager.io_*.yaml"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_*.yaml",
    ),
    "networking.istio.io": ("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml"),
}
_LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
}
"""Types whose JSON is more than the one type that OpenAPI 2 could say."""


def why_not() -> str | None:
    """Why no module can be had; None when they can."""
    return (
        None if shutil.which("go") else "Go is not installed (package golang-go), which downloads Kubernetes' schemas"
    )


@cache
def module(name: str) -> Path:
    """The folder of a Go module of modules.txt, downloaded where it is missing. Needs no compiler."""
    wanted = next(m for m in MODULES if m == name or m.split("@")[0] == name)
    with tempfile.TemporaryDirectory() as elsewhere:  # a go.mod here would be looked at, and may ask for a newer Go
        done = subprocess.run(
            ["go", "mod", "download", "-json", wanted], cwd=elsewhere, capture_output=True, text=True, check=False,
            env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "on"}, timeout=300,
        )  # fmt: skip
    said = json.loads(done.stdout or "{}")
    assert done.returncode == 0, f"{wanted} cannot be downloaded: {said.get('Error') or done.stderr}"
    return Path(said["Dir"])


@cache
def _definitions(version: str) -> dict[str, Any]:
    path = module(f"k8s.io/kubernetes@{version}") / "api/openapi-spec/swagger.json"
    definitions: dict[str, Any] = json.loads(path.read_text())["definitions"]
    for name, definition in definitions.items():
        if name in _LOOSE:
            definition["type"] = _LOOSE[name]
        elif "properties" in definition:
            definition.setdefault("additionalProperties", False)
    return definitions


@cache
def _kinds(version: str) -> dict[tuple[str, str, str], str]:
    return {
        (kind["group"], kind["version"], kind["kind"]): name
        for name, definition in _definitions(version).items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }


class _Loader(LOADER):  # type: ignore[misc]
    """YAML 1.1 has a type for a lone equals sign, which PyYAML knows the name of but cannot read."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


@cache
def _custom(group: str, version: str, kind: str) -> dict[str, Any]:
    name, files = _CRDS[group]
    for definition in (
        d for path in sorted(module(name).glob(files)) for d in yaml.load_all(path.read_text(), _Loader)
    ):
        if definition and (definition["spec"]["group"], definition["spec"]["names"]["kind"]) == (group, kind):
            served = next(v for v in definition["spec"]["versions"] if v["name"] == version and v["served"])
            schema = served["schema"]["openAPIV3Schema"]
            # An API server adds these to every custom resource.
            schema["properties"].update(
                apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"}
            )
            closed: dict[str, Any] = _closed(schema)
            return closed
    raise AssertionError(f"{group} has no CustomResourceDefinition of {kind}")


def _closed(schema: Any) -> Any:
    """As an API server prunes: what is not named does not exist. Its int-or-string is two types."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


def problems(document: Mapping[str, Any], version: str) -> Iterator[str]:
    """What an API server of this version would refuse about a manifest: unknown fields, wrong types, missing ones."""
    group, _, api_version = str(document["apiVersion"]).rpartition("/")
    kind = str(document["kind"])
    name = f"{kind} {document['metadata']['name']}"
    if group in _CRDS:
        errors = Draft202012Validator(_custom(group, api_version, kind)).iter_errors(document)
    else:
        definition = _kinds(version).get((group, api_version, kind))
        if definition is None:
            yield f"{name}: Kubernetes {version} does not know {document['apiVersion']} {kind}"
            return
        schema = {"$ref": f"#/definitions/{definition}", "definitions": _definitions(version)}
        errors = Draft4Validator(schema).iter_errors(document)
    for error in errors:
        yield f"{name}: {error.json_path}: {error.message}"
