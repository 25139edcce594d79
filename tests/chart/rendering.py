"""The chart as Helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/podlane"
MISSING = 77
"""Exit code of tools/kube-tools --find for what is not built."""
RELEASE, NAMESPACE = "podlane", "podlane-system"


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
    kubernetes: str = "v1.30.0"


def render(case: Values) -> list[dict[str, Any]]:
    """All manifests, in Helm's order. Raises :class:`HelmError`."""
    text = helm(
        "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", case.kubernetes, "--values", "-",
        *(part for api in case.apis for part in ("--api-versions", api)), stdin=yaml.safe_dump(dict(case.values)),
    )  # fmt: skip
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (m for m in manifests if m["kind"] == kind)


def the(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only manifest of a kind."""
    (found,) = of_kind(manifests, kind)
    return found
