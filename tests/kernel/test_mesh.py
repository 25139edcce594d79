"""Beside a real Envoy that is set up as Istio's sidecar: nothing breaks, and what leaves the Pod has its class."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from istio_rules import Mode
from lab import connect, serving
from mesh_world import OUTSIDE, SERVICE, SERVICE_PORT, VIRTUAL, MeshWorld, meshed
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from sidecars import RunningSidecar, start_sidecar
from uploads import http_upload, pushing, receiving, tls_hello

from podlane.lab.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = f"""
total: 200Mbit
classes:
  - {{name: api, rate: 1Mbit, match: {{host: {SERVICE}, port: {SERVICE_PORT}}}}}
  - {{name: files, rate: 1Mbit, match: {{sni: {OUTSIDE}}}}}
  - {{name: web, rate: 1Mbit, match: {{host: {OUTSIDE}, port: 80}}}}
"""
MANY = 100
IMPATIENT = ("--grace", "100ms")
"""Envoy keeps connections that have nothing to do; a drain would wait for them."""
BOTH_MODES = pytest.mark.parametrize("mode", [Mode.REDIRECT, Mode.TPROXY], ids=str)
BOTH_DATAPATHS = pytest.mark.parametrize("datapath", ["relay", "step-aside"])


def seen(sidecar: RunningSidecar) -> dict[str, dict[str, int]]:
    """How many connections each class has had, by protocol."""
    return {name: c["connections"]["by_protocol"] for name, c in sidecar.classes().items()}


def many(world: MeshWorld) -> None:
    """Requests on connections of their own, to a service and to a server outside; each is answered."""
    for url, address in (
        (f"https://{OUTSIDE}:443", world.topology.server_ipv4),
        (f"http://{SERVICE}:{SERVICE_PORT}", VIRTUAL),
    ):
        authority = url.partition("//")[2]
        answers = world.curl(
            *("--http1.1", "-H", "Connection: close", "--resolve", f"{authority}:{address}", f"{url}/who?[1-{MANY}]")
        )
        assert answers.count(f"|{authority.partition(':')[0]}|HTTP/1.1|") == MANY


@BOTH_DATAPATHS
@BOTH_MODES
def test_after_istio_every_request_succeeds_and_is_in_its_class(
    topology: PodNodeServer, tmp_path: Path, mode: Mode, datapath: str
) -> None:
    world = meshed(topology, tmp_path, mode)
    theirs = world.rules.saved()
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath, *IMPATIENT)
    world.works()
    assert seen(sidecar) == {"api": {"tls": 1}, "files": {"tls": 1}, "web": {"http1": 1}, "default": {}}
    many(world)
    # The service's requests share Envoy's connection, those that it passes through have their own. None is seen twice.
    assert seen(sidecar) == {"api": {"tls": 1}, "files": {"tls": 1 + MANY}, "web": {"http1": 1}, "default": {}}
    assert world.rules.saved() == theirs
    assert sidecar.stop() == 0
    assert world.rules.saved() == theirs
    world.works()


@BOTH_MODES
def test_before_istio_and_through_restarts_of_either(topology: PodNodeServer, tmp_path: Path, mode: Mode) -> None:
    world = meshed(topology, tmp_path, mode, rules=False)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--mesh", "istio", *IMPATIENT)
    world.rules.install()
    theirs = world.rules.saved()
    world.works()
    assert seen(sidecar) == {"api": {"tls": 1}, "files": {"tls": 1}, "web": {"http1": 1}, "default": {}}
    world.envoy.restart()
    world.works()
    assert seen(sidecar) == {"api": {"tls": 2}, "files": {"tls": 2}, "web": {"http1": 2}, "default": {}}
    sidecar.stop(signal.SIGKILL)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *IMPATIENT)
    world.works()
    many(world)
    assert world.rules.saved() == theirs
    assert sidecar.stop() == 0
    assert world.rules.saved() == theirs
    world.works()


LIMITS = {"api": 10, "files": 20, "web": 15}
LIMITED = f"""
total: 100Mbit
classes:
  - {{name: api, rate: 1Mbit, ceil: 10Mbit, match: {{sni: upload.{SERVICE}, port: {SERVICE_PORT}}}}}
  - {{name: files, rate: 1Mbit, ceil: 20Mbit, match: {{sni: {OUTSIDE}}}}}
  - {{name: web, rate: 1Mbit, ceil: 15Mbit, match: {{host: {OUTSIDE}}}}}
"""


@pytest.mark.measure
@BOTH_DATAPATHS
def test_classes_by_sni_and_host_hold_their_limits(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    world = meshed(topology, tmp_path, Mode.REDIRECT)
    start_sidecar(topology.pod, LIMITED, tmp_path, "--datapath", datapath)
    best = dict.fromkeys(LIMITS, 0.0)
    for _ in range(ATTEMPTS):
        meters = {name: Meter() for name in LIMITS}
        with ExitStack() as stack:
            stack.enter_context(serving(world.peer_envoy.host, receiving(meters["api"]), port=9000))
            tls = stack.enter_context(serving(topology.server, receiving(meters["files"])))
            http = stack.enter_context(serving(topology.server, receiving(meters["web"])))
            for address, port, beginning in (
                (VIRTUAL, SERVICE_PORT, http_upload(f"upload.{SERVICE}:{SERVICE_PORT}")),
                (topology.server_ipv4, tls, tls_hello(OUTSIDE)),
                (topology.server_ipv4, http, http_upload(OUTSIDE)),
            ):
                stack.enter_context(pushing(connect(topology.pod, address, port), beginning))
            shares = {name: meter.megabits / (LIMITS[name] * PAYLOAD_SHARE) for name, meter in meters.items()}
        print({name: f"{share:.3f} of what headers leave of {LIMITS[name]} Mbit/s" for name, share in shares.items()})
        assert max(shares.values()) <= 1.05
        best = {name: max(best[name], share) for name, share in shares.items()}
        if min(best.values()) >= 0.95:
            return
    pytest.fail(f"not within 5 % of the ceil in {ATTEMPTS} attempts: {best}")
