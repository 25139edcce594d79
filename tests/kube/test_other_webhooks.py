"""Podlane's webhooks beside others: whatever comes before or after, a Pod gets one sidecar, where it belongs, or is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
from cluster import Cluster
from daemons import free_ports
from kubectl import RefusedError
from manifests import IMAGE, INJECTED, pod
from other_webhook import Change, other_webhook
from release import Release
from waiting import until

pytestmark = pytest.mark.usefixtures("release")

DOCS: Final = Path(__file__).parents[2] / "docs"
FIRST: Final = "00-other"
LAST: Final = "zz-other"
"""API servers call webhooks in the order of their configurations' names; Podlane's is 00-podlane-injector."""


def names(stored: dict[str, Any], key: str) -> list[str]:
    return [item["name"] for item in stored["spec"].get(key, [])]


def status(stored: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(stored["metadata"]["annotations"]["podlane.io/status"])
    return read


def adding(key: str, *containers: dict[str, Any]) -> Change:
    """Puts containers in front of a list of the Pod's, once."""

    def change(shown: dict[str, Any]) -> list[dict[str, Any]]:
        there = shown["spec"].get(key, [])
        if containers[0]["name"] in [c["name"] for c in there]:
            return []
        return [{"op": "add", "path": f"/spec/{key}", "value": [*containers, *there]}]

    return change


def without_our_volume(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes out a volume and what mounts it, as a tool does that knows better."""
    spec = shown["spec"]
    volumes = [v for v in spec["volumes"] if v["name"] != "podlane-pod"]
    if len(volumes) == len(spec["volumes"]):
        return []
    init = [
        {**c, "volumeMounts": [m for m in c.get("volumeMounts", []) if m["name"] != "podlane-pod"]}
        for c in spec["initContainers"]
    ]
    return [
        {"op": "replace", "path": "/spec/volumes", "value": volumes},
        {"op": "replace", "path": "/spec/initContainers", "value": init},
    ]


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, **more}


NATIVE: Final = {"restartPolicy": "Always"}
ISTIO: Final = (container("istio-validation"), container("istio-proxy", **NATIVE))


@pytest.fixture
def plain(cluster: Cluster) -> dict[str, Any]:
    """The status of a Pod that no other webhook has seen."""
    return status(cluster.namespace(INJECTED).create(pod()))


@pytest.mark.parametrize(
    ("name", "change", "init", "containers"),
    [
        pytest.param(LAST, adding("initContainers", container("vault-init")), ["podlane", "vault-init"], ["app"], id="an init container"),
        pytest.param(LAST, adding("initContainers", *ISTIO), ["istio-validation", "istio-proxy", "podlane"], ["app"], id="Istio"),
        pytest.param(LAST, adding("containers", container("agent")), ["podlane"], ["agent", "app"], id="a container"),
        pytest.param(FIRST, adding("initContainers", *ISTIO), ["istio-validation", "istio-proxy", "podlane"], ["app"], id="Istio, first"),
        pytest.param(FIRST, adding("initContainers", container("vault-init")), ["podlane", "vault-init"], ["app"], id="an init container, first"),
    ],
)  # fmt: skip
def test_one_sidecar_where_it_belongs(
    cluster: Cluster, plain: dict[str, Any], name: str, change: Change, init: list[str], containers: list[str]
) -> None:
    with other_webhook(cluster, name, change) as seen:
        stored = cluster.namespace(INJECTED | {"other": name}).create(pod())
    assert names(stored, "initContainers") == init
    assert names(stored, "containers") == containers
    assert [v for v in names(stored, "volumes") if v.startswith("podlane")] == ["podlane-pod", "podlane-run"]
    assert ["podlane" in shown for shown in seen] == [name == LAST], "it was called once, in its turn"
    assert status(stored)["injected"] == plain["injected"]
    assert status(stored)["policy"] == plain["policy"]


def test_a_sidecar_that_another_webhook_changes_stays_changed(cluster: Cluster) -> None:
    """As one does that adds a variable to every container of a cluster."""

    def change(shown: dict[str, Any]) -> list[dict[str, Any]]:
        spec = shown["spec"]
        return [
            {"op": "add", "path": f"/spec/{key}/{n}/env", "value": [*c.get("env", []), {"name": "SITE", "value": "west"}]}
            for key in ("initContainers", "containers") for n, c in enumerate(spec.get(key, []))
        ]  # fmt: skip

    with other_webhook(cluster, LAST, change):
        stored = cluster.namespace(INJECTED | {"other": LAST}).create(pod())
    (sidecar,) = stored["spec"]["initContainers"]
    assert [v["value"] for v in sidecar["env"] if v["name"] == "SITE"] == ["west"]


def test_a_volume_that_another_webhook_takes_out_once_is_put_back(cluster: Cluster) -> None:
    def change(shown: dict[str, Any]) -> list[dict[str, Any]]:
        where = names(shown, "volumes").index("podlane-run")
        return [{"op": "remove", "path": f"/spec/volumes/{where}"}]

    with other_webhook(cluster, LAST, change) as seen:
        stored = cluster.namespace(INJECTED | {"other": LAST}).create(pod())
    assert len(seen) == 1
    assert "podlane-run" in names(stored, "volumes")


def test_what_another_webhook_takes_out_once_with_its_mount_is_put_back(cluster: Cluster) -> None:
    with other_webhook(cluster, LAST, without_our_volume, "Never"):
        stored = cluster.namespace(INJECTED | {"other": LAST}).create(pod())
    (sidecar,) = stored["spec"]["initContainers"]
    assert "podlane-pod" in names(stored, "volumes")
    assert "podlane-pod" in [mount["name"] for mount in sidecar["volumeMounts"]]


def test_what_another_webhook_takes_out_again_and_again_is_refused(cluster: Cluster) -> None:
    kubectl = cluster.namespace(INJECTED | {"other": LAST})
    with (
        other_webhook(cluster, LAST, without_our_volume, "IfNeeded"),
        pytest.raises(RefusedError, match=r'"namespace\.validate\.podlane\.io" denied the request') as refused,
    ):
        kubectl.create(pod())
    said = str(refused.value)
    assert "came out of admission without volume podlane-pod: " in said
    assert "another one took them out" in said
    assert kubectl("get", "pods", "-o", "name") == ""
    kubectl.create(pod(labels={"podlane.io/inject": "false"}))


def test_podlanes_own_webhook_by_url(cluster: Cluster, release: Release) -> None:
    """As docs/reference/injector.md has it: no Service leads to this injector. It keeps caBundle right all the same."""
    (port,) = free_ports(1)
    text = (DOCS / "reference/injector.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"\$ podlane injector (.*)", text)
    command = command.replace("injector.example.com", "127.0.0.1").replace("admin.kube", f"{cluster.folder}/admin.kube")
    (manifest,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "clientConfig" in block)
    manifest = manifest.replace("injector.example.com:8443", f"127.0.0.1:{port}").replace(
        "podlane.io/inject: enabled", "by: url"
    )
    cluster.kubectl.apply(manifest)
    try:
        injector = release.start(*shlex.split(command), f"--port={port}")
        kubectl = cluster.namespace({"by": "url"})

        def stored() -> dict[str, Any] | None:
            try:
                return kubectl.create(pod())
            except RefusedError as refused:
                if "x509" in str(refused):
                    return None
                raise

        assert names(until("the API server to trust it", stored), "initContainers") == ["podlane"]
        assert '"event": "patched"' in injector.daemon.output
        with pytest.raises(RefusedError, match=r'"validate\.podlane\.io" denied|"inject\.podlane\.io" denied'):
            kubectl.create(pod({"podlane.io/egress-bandwidth": "fast"}))
        injector.daemon.end()
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=manifest)
        release.kubectl("delete", "secret", "podlane-injector", "--ignore-not-found")
