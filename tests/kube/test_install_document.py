"""docs/how-to/install.md, line by line: what it says to type is typed, in a shell, against a real API server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cluster import Cluster
from manifests import INJECTED, deployment, pod
from release import Release
from service_address import ServiceAddress
from steady import PodCreator
from trust import KINDS
from waiting import until

ROOT: Final = Path(__file__).parents[2]
ELSEWHERE: Final = {
    "docker build": "tests/image builds it",
    "helm test": "needs nodes",
    "kubectl rollout status": "needs nodes",
}
"""Beginnings of lines that are not run here, and why."""
INSTALLED: Final = "installed/charts/podlane"
"""The chart of an earlier version, in the document; here there is one."""
NAMESPACE: Final = "podlane-system"


class Shell:
    """A user's, with helm and kubectl on PATH and the cluster's kubeconfig."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        for name, program in (("helm", cluster.tools.helm), ("kubectl", cluster.tools.kubectl)):
            (folder / name).symlink_to(program)
        homes = {f"HELM_{kind}_HOME": str(folder) for kind in ("CACHE", "CONFIG", "DATA")}
        config = str(cluster.kubectl.kubeconfig)
        self._env = {**os.environ, **homes, "KUBECONFIG": config, "PATH": f"{folder}:{os.environ['PATH']}"}

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=self._env, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout


def lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs/how-to/install.md").read_text(), re.DOTALL)
    found = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line.replace(INSTALLED, "charts/podlane") for line in found]


@pytest.fixture
def nothing(cluster: Cluster, vacant: Release) -> Iterator[Release]:
    """No chart, nor its namespace."""
    vacant.stop()
    vacant.helm("uninstall", vacant.name, "--ignore-not-found")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    yield vacant
    vacant.stop()


def of_podlane(cluster: Cluster) -> str:
    """The cluster-wide objects of a chart that is installed."""
    kinds = ",".join((*KINDS, "clusterroles", "clusterrolebindings"))
    return cluster.kubectl("get", kinds, "-l", "app.kubernetes.io/part-of=podlane", "-o", "name")


@pytest.fixture
def canary(cluster: Cluster) -> Iterator[Release]:
    """What the document installs beside the first; not yet there."""
    with ServiceAddress() as address:
        made = Release(cluster, NAMESPACE, address, cluster.daemons, "podlane-canary", "canary")
        yield made
        made.stop()


def revision(stored: dict[str, Any]) -> str:
    """Which revision has injected a Pod."""
    return str(json.loads(stored["metadata"]["annotations"]["podlane.io/status"]).get("revision", ""))


def test_every_line_does_what_it_says(cluster: Cluster, nothing: Release, canary: Release, tmp_path: Path) -> None:
    shell = Shell(cluster, tmp_path)
    shop = cluster.kubectl.within("shop")
    shop("create", "namespace", "shop")
    shop("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    shop.create(deployment())

    def after_label() -> None:
        nothing.follow_service()
        nothing.serve(nothing.start_together(2))
        assert "initContainers" in shop.create(pod(), "--dry-run=server")["spec"]

    def after_upgrade() -> None:
        assert "initContainers" in shop.create(pod(), "--dry-run=server")["spec"]

    def served_by() -> str:
        return revision(shop.create(pod(), "--dry-run=server"))

    def after_canary() -> None:
        canary.follow_service()
        canary.serve(canary.start_together(2))
        assert served_by() == "", "nothing is handed over yet"

    def after_label_of_canary() -> None:
        until("the canary", lambda: served_by() == "canary")

    def after_moving_all() -> None:
        assert served_by() == "canary"

    def after_removing_labels() -> None:
        until("the default installation", lambda: served_by() == "")

    def after_canary_is_gone() -> None:
        assert served_by() == ""
        canary.stop()

    def after_uninstall() -> None:
        assert of_podlane(cluster) == ""
        assert "initContainers" not in shop.create(pod(), "--dry-run=server")["spec"]

    def after_apply() -> None:
        for kind in KINDS:
            assert cluster.kubectl.get(kind, "00-podlane-injector")["webhooks"]

    def after_delete() -> None:
        assert "webhookconfigurations" not in of_podlane(cluster)

    checks = {
        "kubectl label namespace shop podlane.io/inject=enabled": after_label,
        "helm upgrade podlane charts/podlane --namespace podlane-system": after_upgrade,
        "helm install podlane-canary": after_canary,
        "kubectl label namespace shop podlane.io/rev=canary": after_label_of_canary,
        "helm upgrade podlane charts/podlane --namespace podlane-system --reset-then-reuse-values": after_moving_all,
        "kubectl label namespace --selector podlane.io/rev=canary podlane.io/rev-": after_removing_labels,
        "helm uninstall podlane-canary": after_canary_is_gone,
        "helm uninstall podlane --namespace": after_uninstall,
        "helm template podlane charts/podlane --namespace podlane-system --no-hooks | kubectl apply": after_apply,
        "kubectl delete validatingwebhookconfiguration,mutating": after_delete,
        "helm template podlane charts/podlane --namespace podlane-system --no-hooks | kubectl delete": after_uninstall,
    }
    for line in lines():
        if any(line.startswith(beginning) for beginning in ELSEWHERE):
            continue
        shell.run(line)
        for beginning in [beginning for beginning in checks if line.startswith(beginning)]:
            checks.pop(beginning)()
    assert not checks, "the document has no such lines any more"


def test_what_is_clusterwide_goes_with_the_namespace(cluster: Cluster, nothing: Release, tmp_path: Path) -> None:
    """As the document says of a namespace that was made first; and Pods can be created again by themselves."""
    shell = Shell(cluster, tmp_path)
    for line in lines():
        if line.startswith(("kubectl create namespace", "helm install podlane ")):
            shell.run(line)
    nothing.follow_service()
    nothing.serve(nothing.start_together(2))
    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        creator.more()
        assert creator.outcomes.keys() == {"injected"}
        cluster.kubectl("delete", "namespace", NAMESPACE)
        until("Pods without it", lambda: creator.outcomes["bare"], patience=30)
    until("nothing to be left", lambda: not of_podlane(cluster))
