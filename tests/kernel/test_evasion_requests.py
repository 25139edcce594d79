"""Hostile programs that play with the requests of one connection: a slow host's bytes must not go out in a fast class."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evasion_page import rows
from sidecars import start_sidecar
from waiting import until_listening
from webserver import H2C, HTTP, start_nginx

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.measure]

PROGRAMS = Path(__file__).parents[1] / "evasion"
SLOW, FAST = "slow.example.com", "fast.example.com"
CEIL = 2.0
"""Mbit/s of the slow class."""
POLICY = f"""
total: 1Gbit
requests: follow
classes:
  - {{name: slow, rate: 1Mbit, ceil: {CEIL:g}Mbit, match: {{host: {SLOW}, direction: both}}}}
  - {{name: fast, rate: 50Mbit, match: {{host: {FAST}, direction: both}}}}
"""
SECONDS = "6"


def rate(host: Host, program: str, *arguments: str) -> float:
    """The Mbit/s that a program got, as it says."""
    return float(host.run([sys.executable, str(PROGRAMS / program), *arguments, SECONDS], timeout=60).stdout)


def held(trick: str, megabits: float) -> None:
    """The page says whether the slow class holds the trick, and that is what was measured."""
    print(f"{trick}: {megabits:.2f} of {CEIL:g} Mbit/s")
    assert rows("From inside the Pod")[trick] == ("held" if megabits < 1.5 * CEIL else "not held")


BODY = bytes(400_000)
GO_PORT = 8090


class World:
    """A Pod with a sidecar, and a web server: in the Pod for clients outside, else outside for the Pod."""

    def __init__(self, topology: PodNodeServer, folder: Path, *, inbound: bool) -> None:
        self.folder = folder
        self.inside, outside = topology.pod, topology.server
        self.attacker, self.server = (outside, self.inside) if inbound else (self.inside, outside)
        self.address = str(topology.pod_link.a.ipv4) if inbound else topology.server_ipv4

    def nginx(self) -> None:
        web = start_nginx(self.server, self.folder / "nginx")
        (web.root / "big").write_bytes(BODY)

    def go(self) -> None:
        """A server that answers CONNECT with 200, and is no proxy."""
        page, program = self.folder / "page", self.folder / "any_method"
        page.write_bytes(BODY)
        subprocess.run(
            ["go", "build", "-o", str(program), str(Path(__file__).parent / "programs/any_method.go")],
            check=True, capture_output=True, env={**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local"},
        )  # fmt: skip
        self.server.popen([str(program), str(GO_PORT), str(page)])
        until_listening(self.server, GO_PORT)

    def sidecar(self) -> None:
        start_sidecar(self.inside, POLICY, self.folder)


@pytest.mark.parametrize("version", ["1", pytest.param("2", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("way", ["up", "down"])
def test_pipelined_requests(topology: PodNodeServer, tmp_path: Path, version: str, way: str) -> None:
    world = World(topology, tmp_path, inbound=way == "down")
    world.nginx()
    world.sidecar()
    port = str(HTTP if version == "1" else H2C)
    got = rate(world.attacker, "pipelined_requests.py", version, way, world.address, port, SLOW, FAST)
    where = "requests to a slow and a fast host" if way == "up" else "requests of a client for a slow and a fast host"
    held(f"{where}, pipelined" if version == "1" else f"{where}, in streams", got)


NEEDS_GO = (pytest.mark.nightly, pytest.mark.skipif(not shutil.which("go"), reason="there is no go"))


@pytest.mark.parametrize("asking", ["upgrade", pytest.param("connect", marks=NEEDS_GO)])
@pytest.mark.parametrize("way", ["up", "down"])
def test_requests_behind_one_that_asks_for_a_switch(
    topology: PodNodeServer, tmp_path: Path, asking: str, way: str
) -> None:
    world = World(topology, tmp_path, inbound=way == "down")
    if asking == "upgrade":
        world.nginx()
    else:
        world.go()
    world.sidecar()
    port = str(HTTP if asking == "upgrade" else GO_PORT)
    got = rate(world.attacker, "switched.py", asking, way, world.address, port, SLOW, FAST)
    whose = "requests" if way == "up" else "requests of a client"
    held(f"{whose} behind {'Upgrade' if asking == 'upgrade' else 'CONNECT'}", got)
