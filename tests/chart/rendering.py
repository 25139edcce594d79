"""The chart as Helm renders it."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from injector.manifests.yaml_tree import LOADER

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/podlane"
MISSING = 77
"""Exit code of tools/kube-tools --find for what is not built."""
RELEASE, NAMESPACE = "podlane", "podlane-system"
KUBERNETES = "v1.30.0"


class HelmError(Exception):
    """Helm refused; the text is what it said."""


@cache
def helm_path() -> str | None:
    """Where helm is, which `tools/kube-tools` builds; None when it is nowhere."""
    done = subprocess.run([ROOT / "tools/kube-tools", "--find", "helm"], capture_output=True, text=True, check=False)
    if done.returncode == MISSING:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def helm(*arguments: str, stdin: str | None = None) -> str:
    """Run helm; raises :class:`HelmError` with its words."""
    path = helm_path()
    assert path is not None
    done = subprocess.run([path, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Values:
    """A set of values, and what the cluster has beside Kubernetes' own APIs."""

    values: Mapping[str, Any]
    apis: tuple[str, ...] = ()
    kubernetes: str = KUBERNETES


def render(case: Values) -> list[dict[str, Any]]:
    """All manifests, in Helm's order; the caller's own to change. Raises :class:`HelmError`."""
    manifests: list[dict[str, Any]] = pickle.loads(
        _rendered(yaml.safe_dump(dict(case.values)), case.apis, case.kubernetes)
    )
    return manifests


@cache
def _rendered(values: str, apis: tuple[str, ...], kubernetes: str) -> bytes:
    """Pickled, and kept: each set of values is what a dozen tests look at, and Helm takes half a second."""
    return pickle.dumps(manifests_of(template(values, apis, kubernetes)))


def template(values: str, apis: tuple[str, ...] = (), kubernetes: str = KUBERNETES) -> str:
    """What ``helm template`` prints. Raises :class:`HelmError`."""
    return helm(
        "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", kubernetes, "--values", "-",
        *(part for api in apis for part in ("--api-versions", api)), stdin=values,
    )  # fmt: skip


def manifests_of(text: str) -> list[dict[str, Any]]:
    """The documents of a stream in YAML that are not empty."""
    return [document for document in yaml.load_all(text, LOADER) if document]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (m for m in manifests if m["kind"] == kind)


def the(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only manifest of a kind."""
    (found,) = of_kind(manifests, kind)
    return found
