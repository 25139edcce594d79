"""``podlane sidecar upgrade``: another proxy takes over while clients go on, and none of them notices."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fates import REQUEST
from lab import connect, listen
from sidecars import RunningSidecar, children, start_sidecar, state_of
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = "total: 1Gbit\nclasses: [{name: host, rate: 1Mbit, match: {host: web.example.com}}]"
NO_NAMES = "total: 1Gbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 9000}}]"
SHAPES = [
    pytest.param([], id="relay"),
    pytest.param(["--workers", "2"], id="workers"),
    pytest.param(["--datapath", "step-aside"], id="step-aside"),
]


@dataclass
class Clients:
    """What clients have met so far."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def clients(topology: PodNodeServer, count: int = 4) -> Iterator[Clients]:
    """So many clients that open one connection after the other."""
    met = Clients()
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            try:
                with connect(topology.pod, topology.server_ipv4, 80, timeout=20) as client:
                    client.sendall(REQUEST)
                    if b"web.example.com" not in client.makefile("rb").read():
                        met.failures.append("cut")
            except OSError as error:
                met.failures.append(repr(error))
            met.answered += 1

    threads = [threading.Thread(target=go_on) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield met
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def upgrade(sidecar: RunningSidecar) -> tuple[int, str]:
    done = sidecar.pod.run([sys.executable, "-m", "podlane", "sidecar", "upgrade"], check=False, timeout=100)
    return done.returncode, done.stderr


@pytest.mark.parametrize("options", SHAPES)
def test_no_client_notices_that_another_proxy_takes_over(
    topology: PodNodeServer, tmp_path: Path, options: list[str]
) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *options)
    before = state_of(topology.pod)
    proxies = [sidecar.proxy]
    with listen(topology.server, port=8000) as listener, clients(topology) as met:
        with connect(topology.pod, topology.server_ipv4, 8000) as lasting:
            lasting.sendall(REQUEST)
            served, _ = listener.accept()
            with served:
                assert served.recv(len(REQUEST)) == REQUEST
                until("some answers", lambda: met.answered > 50)
                assert upgrade(sidecar)[0] == 0, sidecar.log.read_text()
                after = met.answered
                until("some more answers", lambda: met.answered > after + 50)
                served.sendall(b"late")
                assert lasting.recv(4) == b"late"
        until("the end of the earlier proxy", lambda: proxies[0] not in children(sidecar.process.pid))
        proxies.append(sidecar.proxy)
        assert upgrade(sidecar)[0] == 0, sidecar.log.read_text()
        until("the end of the earlier proxy", lambda: proxies[1] not in children(sidecar.process.pid))
        after = met.answered
        until("some more answers", lambda: met.answered > after + 50)
    assert met.failures == []
    assert state_of(topology.pod) == before
    assert sum(sidecar.connections("host").values()) > 0
    assert 'podlane_restarts_total{reason="upgrade"} 1.0' in sidecar.get("/metrics")
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


@pytest.mark.parametrize("when", ["before", "after"])
def test_names_go_from_the_policy_while_an_earlier_proxy_has_connections(
    topology: PodNodeServer, tmp_path: Path, when: str
) -> None:
    """Their rules stay until it has gone, though the heir has no use for them."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    earlier = sidecar.proxy
    with listen(topology.server, port=8000) as listener:
        with connect(topology.pod, topology.server_ipv4, 8000) as lasting:
            lasting.sendall(REQUEST)
            served, _ = listener.accept()
            with served:
                assert served.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
                if when == "before":
                    sidecar.policy.write_text(NO_NAMES)
                assert upgrade(sidecar)[0] == 0, sidecar.log.read_text()
                if when == "after":
                    sidecar.reload(NO_NAMES)
                # Longer than the heir takes to look whether anything is left to do: it looks once per second.
                uptime = json.loads(sidecar.get("/classes"))["uptime_seconds"]
                until("a look", lambda: json.loads(sidecar.get("/classes"))["uptime_seconds"] > uptime + 2)
                for chunk in (b"late", b"later"):
                    served.sendall(chunk)
                    assert lasting.recv(len(chunk), socket.MSG_WAITALL) == chunk
        until("the end of the earlier proxy", lambda: earlier not in children(sidecar.process.pid))
    until("the end of its rules", lambda: "fwmark" not in topology.pod.run(["ip", "rule"]).stdout)
    assert ":15101 " not in topology.pod.run(["ss", "-ltn"]).stdout
    assert sidecar.stop() == 0


def test_an_heir_that_cannot_begin_changes_nothing(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    before, proxy = state_of(topology.pod), sidecar.proxy
    sidecar.policy.write_text("total: 5")
    with clients(topology) as met:
        code, said = upgrade(sidecar)
        after = met.answered
        until("some more answers", lambda: met.answered > after + 20)
    assert (code, "the old one goes on. It ended with exit code 2" in said) == (1, True)
    assert met.failures == []
    assert sidecar.proxy == proxy
    assert state_of(topology.pod) == before
    assert sidecar.stop() == 0


def test_a_sidecar_is_told_to_end_while_an_earlier_proxy_drains(topology: PodNodeServer, tmp_path: Path) -> None:
    """The earlier one's connections need the rules for as long as they live."""
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with listen(topology.server, port=8000) as listener:
        with connect(topology.pod, topology.server_ipv4, 8000) as lasting:
            lasting.sendall(REQUEST)
            served, _ = listener.accept()
            with served:
                assert upgrade(sidecar)[0] == 0
                assert upgrade(sidecar)[0] == 1, "one after the other"
                sidecar.process.send_signal(signal.SIGTERM)
                lasting.sendall(b"late")
                expected = len(REQUEST) + 4
                assert len(served.makefile("rb").read(expected)) == expected
        assert sidecar.process.wait(40) == 0
    assert state_of(topology.pod) == clean


def test_an_heir_is_killed_while_an_earlier_proxy_drains(topology: PodNodeServer, tmp_path: Path) -> None:
    """That one's connections are cut, and end at once: a third proxy needs the namespace for itself."""
    start_nginx(topology.server, tmp_path / "nginx")
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    before, earlier = state_of(topology.pod), sidecar.proxy
    with listen(topology.server, port=8000) as listener, connect(topology.pod, topology.server_ipv4, 8000) as lasting:
        lasting.sendall(REQUEST)
        served, _ = listener.accept()
        with served:
            assert served.recv(len(REQUEST)) == REQUEST
            assert upgrade(sidecar)[0] == 0
            [heir] = [each for each in children(sidecar.process.pid) if each != earlier]
            os.kill(heir, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert lasting.recv(1) == b""
    until("a third proxy", lambda: "the proxy is ready again" in sidecar.log.read_text())
    assert {earlier, heir}.isdisjoint(children(sidecar.process.pid))
    assert state_of(topology.pod) == before
    with clients(topology) as met:
        until("some answers", lambda: met.answered > 5)
    assert met.failures == []
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


def test_there_is_nobody_to_upgrade(topology: PodNodeServer) -> None:
    done = topology.pod.run([sys.executable, "-m", "podlane", "sidecar", "upgrade"], check=False)
    assert (done.returncode, "There is no supervisor" in done.stderr) == (1, True)
