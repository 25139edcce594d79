"""Pods that are not as most are: tables of both kinds, protocols without ports and names, an ifb from before, a freeze."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from time import monotonic

import pytest
from lab import connect, serving
from sidecars import refused_sidecar, start_sidecar, state_of
from waiting import until

from datapath.netfilter.backend import BackendKind
from datapath.netfilter.restore import installed_programs
from podlane.netns.topology import PodNodeServer
from sidecar.supervisor.heartbeat import LOOP
from sidecar.supervisor.watchdog import HUNG_S

pytestmark = pytest.mark.root

NAMED = """
total: 100Mbit
classes:
  - {name: named, rate: 10Mbit, match: {host: web.example.com}}
  - {name: ported, rate: 10Mbit, match: {port: "1-65535"}}
  - {name: there, rate: 10Mbit, match: {cidr: %s/32}}
"""
SCTP = 132
"""https://www.iana.org/assignments/protocol-numbers"""
HEAD = b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"


JUMPING = """
import time
def jumping(real, unit, path=%r):
    return lambda: real() + int(open(path).read() or 0) * unit
time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
"""


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def tables(topology: PodNodeServer) -> dict[str, list[str]]:
    """The rules in the mangle tables of both kinds."""
    said = {kind: topology.pod.run([f"iptables-{kind}-save", "-t", "mangle"]).stdout for kind in ("nft", "legacy")}
    return {kind: [line for line in text.splitlines() if line.startswith("-A")] for kind, text in said.items()}


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_others_have_rules_in_nft_and_in_legacy_tables(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """The kernel walks both. Ours are in the legacy ones then, as a program that knows one kind only looks there."""
    if len([kind for kind in installed_programs() if kind is not BackendKind.PYTHON]) < 2:
        pytest.skip("needs both iptables-nft and iptables-legacy")
    for kind in ("nft", "legacy"):
        topology.pod.run(
            [f"iptables-{kind}", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "-m", "comment", "--comment", kind]
        )
    before = tables(topology)
    assert [len(rules) for rules in before.values()] == [1, 1]
    sidecar = start_sidecar(topology.pod, NAMED % topology.server_ipv4, tmp_path, "--datapath", datapath)
    assert any("PODLANE" in rule for rule in tables(topology)["legacy"])
    assert tables(topology)["nft"] == before["nft"]
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        client.sendall(HEAD)
        assert client.recv(999) == HEAD
    until("the connection in its class", lambda: sidecar.connections("named") == {"http1": 1})
    assert sidecar.stop() == 0
    assert tables(topology) == before


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_sctp_goes_by_network_and_else_in_the_default_class(
    topology: PodNodeServer, tmp_path: Path, datapath: str
) -> None:
    """Its ports are not looked at: `port` is of TCP and UDP."""
    elsewhere = str(topology.pod_link.b.ipv4)
    sidecar = start_sidecar(topology.pod, NAMED % topology.server_ipv4, tmp_path, "--datapath", datapath)
    packet = b"\x13\x88\x13\x88" + bytes(1000)  # from and to port 5000

    def sent() -> dict[str, int]:
        return {name: each["bytes"] for name, each in sidecar.classes().items()}

    for address, name in ((topology.server_ipv4, "there"), (elsewhere, "default")):
        before = sent()
        with topology.pod.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP) as sock:
            for _ in range(20):
                sock.sendto(packet, (address, 0))
        until(f"them in the class {name}", lambda name=name, before=before: sent()[name] - before[name] > 20_000)  # type: ignore[misc]
        assert sent()["ported"] == before["ported"]


DOWN = """
total: 100Mbit
ingress: {total: 100Mbit}
classes: [{name: ported, rate: 10Mbit, ingress: {rate: 10Mbit}, match: {port: 7000}}]
"""
UP = "total: 100Mbit\nclasses: [{name: ported, rate: 10Mbit, match: {port: 7000}}]"


def links(topology: PodNodeServer) -> str:
    return topology.pod.run(["ip", "-o", "link"]).stdout


def test_an_ifb_that_a_killed_sidecar_left_goes_when_it_is_of_no_use(topology: PodNodeServer, tmp_path: Path) -> None:
    before = state_of(topology.pod), topology.pod.run(["tc", "qdisc"]).stdout
    start_sidecar(topology.pod, DOWN, tmp_path).stop(9)
    assert "ifb-eth0" in links(topology)
    sidecar = start_sidecar(topology.pod, UP, tmp_path)
    assert "ifb-eth0" not in links(topology)
    assert "clsact" not in topology.pod.run(["tc", "qdisc"]).stdout
    assert sidecar.stop() == 0
    assert (state_of(topology.pod), topology.pod.run(["tc", "qdisc"]).stdout) == before


def test_an_ifb_of_somebody_else_is_left_alone(topology: PodNodeServer, tmp_path: Path) -> None:
    """Of the same name, which a sidecar needs: it says who is in the way."""
    topology.pod.run(["ip", "link", "add", "ifb-eth0", "type", "ifb"])
    before = state_of(topology.pod), links(topology)
    policy = tmp_path / "policy.yaml"
    policy.write_text(DOWN)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy))
    assert (code != 0, "ifb-eth0" in said) == (True, True), said
    print(said)
    assert (state_of(topology.pod), links(topology)) == before
    assert start_sidecar(topology.pod, UP, tmp_path).stop() == 0
    assert links(topology) == before[1]


def test_a_frozen_sidecar_goes_on_with_its_connections(topology: PodNodeServer, tmp_path: Path) -> None:
    """As a checkpoint or the freezer of its cgroup does it; its supervisor does not take the proxy for dead."""
    sidecar = start_sidecar(topology.pod, NAMED % topology.server_ipv4, tmp_path)
    proxy = sidecar.proxy
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        client.sendall(HEAD)
        assert client.recv(999) == HEAD
        for pid in (sidecar.process.pid, proxy):
            os.kill(pid, signal.SIGSTOP)
        frozen = monotonic()
        until("more silence than a proxy may have", lambda: monotonic() > frozen + HUNG_S[LOOP] + 1)
        for pid in (sidecar.process.pid, proxy):
            os.kill(pid, signal.SIGCONT)
        client.sendall(HEAD)
        assert client.recv(999) == HEAD
    until("the sidecar to answer", lambda: sidecar.connections("named") == {"http1": 1})
    assert sidecar.proxy == proxy
    assert "podlane_restarts_total{" not in sidecar.get("/metrics")
    assert sidecar.stop() == 0


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_a_clock_that_jumps_changes_nothing(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """Whatever the time of day is said to be, forth and back: connections go on, new ones are decided."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    # Only the programs of the sidecar may see it jump, and the kernel has no namespace for this clock.
    (tmp_path / "sitecustomize.py").write_text(JUMPING % str(clock))
    wrapped = ("env", f"PYTHONPATH={tmp_path}")
    policy = NAMED % topology.server_ipv4
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--datapath", datapath, wrapped=wrapped)
    proxy = sidecar.proxy
    with serving(topology.server, echo) as port, connect(topology.pod, topology.server_ipv4, port) as client:
        for jump in ("34560000", "-34560000", "0"):
            clock.write_text(jump)
            client.sendall(HEAD)
            assert client.recv(999) == HEAD
            with connect(topology.pod, topology.server_ipv4, port) as another:
                another.sendall(HEAD)
                assert another.recv(999) == HEAD
            ages = [each["age_seconds"] for each in json.loads(sidecar.get("/connections"))["connections"]]
            assert all(age is None or 0 <= age < 1000 for age in ages), "told by a clock that does not jump"
    until("all four to be counted", lambda: sidecar.connections("named") == {"http1": 4})
    assert sidecar.proxy == proxy
    assert "podlane_restarts_total{" not in sidecar.get("/metrics")
    assert sidecar.stop() == 0
    if datapath == "relay":  # which logs connections
        assert len({line[:4] for line in sidecar.log.read_text().splitlines()}) > 1, "the log has the clock that jumps"
