"""An API server that shows certificates to webhooks, configured as docs/reference/injector.md says, and one that does not.

The API server is a real one with ``--admission-control-config-file``: the files are those of the document, its openssl
commands are run, and so is its line for helm.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cluster import Cluster, Tools, ToolsMissingError
from kubectl import RefusedError
from manifests import INJECTED, pod
from release import Release
from service_address import ServiceAddress
from trust import metric

ROOT: Final = Path(__file__).parents[2]
PLACE: Final = "/etc/kubernetes/podlane"
"""Where the document has an API server's files."""
MOUNT: Final = "/etc/podlane/clients/ca.crt"


def section() -> str:
    text = (ROOT / "docs/reference/injector.md").read_text()
    found = re.search(r"^## Who may ask\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", section(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def files() -> dict[str, str]:
    """Those of an API server, by name."""
    return dict(re.findall(rf"`{PLACE}/([\w.]+)`[^`]*```yaml\n(.*?)```", section(), re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An API server's folder: certificates that the document's commands make, and the document's files."""
    made = tmp_path_factory.mktemp("podlane")
    for line in commands():
        if line.startswith("openssl "):
            subprocess.run(["bash", "-c", line], cwd=made, check=True, capture_output=True, timeout=30)
    for name, text in files().items():
        (made / name).write_text(text.replace(PLACE, str(made)))
    return made


@pytest.fixture(scope="module")
def configured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose API server shows a certificate to the Service of the chart, and to no other."""
    if os.geteuid():
        pytest.skip("run as root: the injectors' Service has a port below 1024")
    try:
        tools = Tools.find()
    except ToolsMissingError as error:
        pytest.skip(str(error))
    options = [f"--admission-control-config-file={folder / 'admission.yaml'}", "--service-cluster-ip-range=127.97.0.0/16"]  # fmt: skip
    made = Cluster.start(tmp_path_factory.mktemp("configured"), tools, *options)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def known(configured: Cluster, folder: Path) -> Iterator[Release]:
    """The chart as the document installs it, whose injectors demand certificates; not yet served."""
    with ServiceAddress() as address:
        made = Release(configured, "podlane-system", address, configured.daemons)
        made.install({})
        for line in commands():
            if line.startswith("kubectl create configmap"):
                made.kubectl("delete", "configmap", "podlane-clients", "--ignore-not-found")
                made.kubectl(*line.replace("ca.crt", str(folder / "ca.crt")).split()[1:])
            elif line.startswith("helm upgrade"):
                made.helm(*line.replace("'", "").replace("charts/", f"{ROOT}/charts/").split()[1:])
        yield made
        made.remove()


def mounted(release: Release, tmp_path: Path) -> str:
    """The option that stands for the Deployment's volume: what its ConfigMap holds, in a file."""
    assert release.environment()["PODLANE_INJECTOR_CLIENT_CA"] == MOUNT
    spec = release.kubectl.get("deployment", release.service)["spec"]["template"]["spec"]
    (volume,) = (v["configMap"] for v in spec["volumes"] if v["name"] == "clients")
    (item,) = volume["items"]
    path = tmp_path / item["path"]
    path.write_text(release.kubectl.get("configmap", volume["name"])["data"][item["key"]])
    return f"--client-ca={path}"


def test_an_api_server_with_the_certificate_gets_its_pods_injected(
    configured: Cluster, known: Release, tmp_path: Path
) -> None:
    injectors = known.start_together(2, mounted(known, tmp_path))
    known.serve(injectors)
    kubectl = configured.namespace(INJECTED)
    stored = kubectl.create(pod())
    assert [c["name"] for c in stored["spec"]["initContainers"]] == ["podlane"]
    kubectl("annotate", "pod", "app", "--overwrite", "podlane.io/egress-bandwidth=11M")
    names = {"result": "forbidden", "webhook": "mutate"}
    assert sum(metric(i, "podlane_injector_admissions_total", missing=0, **names) for i in injectors) == 0


def test_a_certificate_with_another_name_will_not_do(configured: Cluster, known: Release, tmp_path: Path) -> None:
    known.serve(known.start_together(1, mounted(known, tmp_path)))
    known.address.endpoints = ()
    known.address.cut()
    (other,) = known.start_together(1, mounted(known, tmp_path), "--client-names=somebody-else")
    known.address.endpoints = (other.port,)
    with pytest.raises(RefusedError, match="The client's certificate has the name kube-apiserver, and the injector"):
        configured.namespace(INJECTED).create(pod())


def test_an_api_server_that_was_not_given_one_is_told_what_to_do(
    configured: Cluster, known: Release, tmp_path: Path
) -> None:
    """Its kubeconfig names the Service of the default installation alone, so this one is asked without a certificate."""
    option = mounted(known, tmp_path)
    known.install({"otherRevisions": ["canary"]})
    known.serve(known.start_together(1))
    with ServiceAddress() as address:
        unknown = Release(configured, known.namespace, address, configured.daemons, "podlane-canary", "canary")
        unknown.install({"revision": "canary"})
        unknown.serve(unknown.start_together(1))
        address.endpoints = ()
        address.cut()
        (strict,) = unknown.start_together(1, option)
        address.endpoints = (strict.port,)
        kubectl = configured.namespace(INJECTED | {"podlane.io/rev": "canary"})
        with pytest.raises(RefusedError) as refused:
            kubectl.create(pod())
        said = str(refused.value)
        assert 'failed calling webhook "namespace.inject.canary.podlane.io"' in said
        assert "this one has shown none. Give the API server one (--admission-control-config-file)" in said
        assert metric(strict, "podlane_injector_admissions_total", result="forbidden", webhook="mutate") >= 1
        unknown.remove()
