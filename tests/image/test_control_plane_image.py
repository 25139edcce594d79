"""The control plane's image, built by Dockerfile.control-plane on the other one, and run as the chart does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from engine import ROOT, Container, Engine
from waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first test builds both images

OWN_MEGABYTES = 80
"""What the packages of the extra may add: 65 in November 2026."""
HEALTH = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:15180/healthz").read().decode())"""
WHO = """
import sys, urllib.request
wanted = urllib.request.Request("http://127.0.0.1:15180/v1/whoami", headers={"Authorization": "Bearer " + sys.argv[1]})
print(urllib.request.urlopen(wanted).read().decode())"""


@pytest.fixture(scope="module")
def plane_image(engine: Engine, image: str) -> str:
    return engine.build(
        "podlane-control-plane:test",
        "--file",
        str(ROOT / "Dockerfile.control-plane"),
        "--build-arg",
        f"PODLANE={image}",
    )


@pytest.fixture(scope="module")
def plane(engine: Engine, plane_image: str) -> Iterator[Container]:
    """A running control plane with an empty volume, that may do nothing."""
    made = engine.docker(
        "run", "--detach", "--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp",
        "--tmpfs", "/var/lib/podlane/control-plane:uid=65532,mode=0700", "--env", "PODLANE_CONTROL_PLANE_LOG_FORMAT=json",
        "--entrypoint", "sh", plane_image, "-c", "exec podlane control-plane >/dev/null",
    )  # fmt: skip
    container = Container(engine, made.stdout.strip())
    yield container
    engine.docker("rm", "--force", "--volumes", container.id)


def test_it_is_the_other_one_and_some_packages(engine: Engine, image: str, plane_image: str) -> None:
    layers, below = (
        json.loads(engine.inspect("image", name, "{{json .RootFS.Layers}}")) for name in (plane_image, image)
    )
    assert layers[: len(below)] == below
    size, without = (int(engine.inspect("image", name, "{{.Size}}")) / 1e6 for name in (plane_image, image))
    print(f"control plane: {size:.0f} MB, of which the other image has {without:.0f} MB")
    assert size - without < OWN_MEGABYTES
    assert engine.run(plane_image, "id", "-u").strip() == "65532"


def test_it_has_the_versions_that_are_tested_and_each_once(engine: Engine, plane_image: str) -> None:
    script = "import importlib.metadata as m; [print(f'{d.name}=={d.version}') for d in m.distributions()]"
    listed = [line.split("==") for line in engine.run(plane_image, "python3", "-c", script).lower().split()]
    installed = dict(listed)
    assert len(listed) == len(installed)
    pinned = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    del installed["podlane"]
    assert {"fastapi", "sqlalchemy", "trio"} <= installed.keys()
    assert {name: version for name, version in installed.items() if pinned.get(name) != version} == {}


def test_it_serves_and_an_administrator_gets_in_by_exec(plane: Container) -> None:
    """The first token is in no log."""

    def serving() -> bool:
        if not plane.running:
            raise AssertionError(f"the container ended; it said:\n{plane.log}")
        return plane.execute("python3", "-c", HEALTH).returncode == 0

    until("the control plane serves", serving)
    token = plane.execute("podlane", "control-plane", "--new-token").stdout.strip()
    assert "platform" in plane.execute("python3", "-c", WHO, token).stdout
    assert token.partition("_")[0] not in plane.log
    assert plane.stop() == 0
