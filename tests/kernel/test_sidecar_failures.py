"""The sidecar when something fails, or ends it, at every step: no trace, and the old policy goes on."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from sidecars import ADMIN, RunningSidecar, children, refused_sidecar, start_sidecar, state_of, stopped
from waiting import until
from webserver import WebServer, start_nginx

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

BY_PORT = "total: 100Mbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 80}}]"
BY_HOST = "total: 100Mbit\nclasses: [{name: host, rate: 1Mbit, ceil: 8Mbit, match: {host: web.example.com}}]"
BY_SNI = "total: 100Mbit\nclasses: [{name: sni, rate: 1Mbit, match: {sni: web.example.com}}]"


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def command(policy: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "podlane", "sidecar", "--policy", str(policy), *options]


def begin_upload(topology: PodNodeServer, body: Path, size: int) -> subprocess.Popen[bytes]:
    body.write_bytes(random.Random(3).randbytes(size))
    url = f"http://{topology.server_ipv4}/f"
    return topology.pod.popen(["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", url])


def listens(pod: Host) -> bool:
    return ":15101 " in pod.run(["ss", "-ltn"]).stdout


def read_until(log: IO[str] | None, text: str) -> None:
    """Read a sidecar's log until a line of it has ``text``; fails when the log ends first."""
    assert log is not None
    assert any(text in line for line in log), f"it ended without {text!r}"


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_no_trace(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    pod.ip("link", "set", "lo", "down")  # the rules are the step that fails: their route needs lo
    policy = tmp_path / "p.yaml"
    policy.write_text(BY_HOST)
    before = state_of(pod)
    code, said = refused_sidecar(pod, "--policy", str(policy), "--admin-port", "0")
    assert (code, "loopback interface is down" in said) == (1, True), said
    assert "Traceback" not in said
    assert state_of(pod) == before


def test_nobody_who_waits_for_ready(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(BY_HOST)
    before = state_of(topology.pod)
    read, write = os.pipe()
    os.close(read)
    starting = topology.pod.popen(
        command(policy, "--ready-fd", str(write)), pass_fds=[write], stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, said = starting.communicate(timeout=30)
    assert starting.returncode == 1
    assert (
        "podlane: The sidecar ends, since nobody waits at the other end of --ready-fd any more (Broken pipe)." in said
    )
    assert "Traceback" not in said
    assert state_of(topology.pod) == before


@pytest.mark.parametrize("moment", ["policy being read", "policy read", "rules in place"])
def test_sigterm_while_starting_ends_it_well(topology: PodNodeServer, tmp_path: Path, moment: str) -> None:
    pod = topology.pod
    before = state_of(pod)
    policy = tmp_path / "policy.fifo"
    os.mkfifo(policy)
    starting = pod.popen(command(policy), stderr=subprocess.PIPE, text=True)
    # Opening returns when the sidecar has opened the other end.
    with policy.open("w") as stream:
        if moment == "policy being read":
            starting.send_signal(signal.SIGTERM)
            assert starting.wait(30) == 0
            return
        stream.write(BY_HOST)
    if moment == "rules in place":
        read_until(starting.stderr, "mangle rules in place")
    starting.send_signal(signal.SIGTERM)
    starting.communicate(timeout=30)
    assert starting.returncode == 0
    assert state_of(pod) == before


def test_the_successor_of_one_that_was_killed_before_it_was_ready_tells_nobody_in_its_name(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    """``--ready-fd`` is the first proxy's alone: in the next one the number may be another file's."""
    pod = topology.pod
    before = state_of(pod)
    policy = tmp_path / "policy.fifo"
    os.mkfifo(policy)
    ready, theirs = os.pipe()
    starting = pod.popen([*command(policy), "--no-watch", "--ready-fd", str(theirs)], pass_fds=[theirs])
    os.close(theirs)
    with os.fdopen(ready) as waiting:
        with policy.open("w"):
            starting.send_signal(signal.SIGSTOP)  # the successor is to find nobody who writes
            until("a stopped supervisor", lambda: stopped(starting.pid))
            [proxy] = children(starting.pid)
            os.kill(proxy, signal.SIGKILL)
            assert waiting.read() == ""
            # Until then it may still have the policy open, and would take what is written there along.
            until("its end", lambda: Path(f"/proc/{proxy}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        starting.send_signal(signal.SIGCONT)
        with policy.open("w") as stream:
            stream.write(BY_HOST)
    until("its successor", lambda: pod.run(["curl", "-sf", f"{ADMIN}/readyz"], check=False).returncode == 0)
    assert children(starting.pid) != [proxy]
    starting.terminate()
    assert starting.wait(30) == 0
    assert state_of(pod) == before


def test_a_killed_predecessors_rules_go_when_the_next_start_fails(topology: PodNodeServer, tmp_path: Path) -> None:
    """They would lead new connections to a listener that is not there."""
    pod = topology.pod
    before = state_of(pod)
    killed = start_sidecar(pod, BY_HOST, tmp_path)
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    killed.policy.write_text("total: 5")
    assert refused_sidecar(pod, "--policy", str(killed.policy))[0] == 2
    assert state_of(pod) == before


# --- ending -----------------------------------------------------------------------------------------------------------


def test_an_impatient_user_does_not_keep_it_from_cleaning_up(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    before = state_of(pod)
    sidecar = start_sidecar(pod, BY_HOST, tmp_path)

    def ended() -> bool:
        if sidecar.process.poll() is None:
            sidecar.process.send_signal(signal.SIGTERM)
            sidecar.process.send_signal(signal.SIGINT)
        return sidecar.process.returncode is not None

    until("its end", ended)
    assert sidecar.process.returncode == 0
    assert state_of(pod) == before


def test_an_interface_that_is_gone_takes_nothing_else_along(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, BY_HOST, tmp_path)
    pod.ip("link", "del", "eth0")
    until("the loss to be noticed", lambda: "cannot be read" in sidecar.log.read_text())
    assert sidecar.stop() == 0
    assert "PODLANE" not in pod.run(["iptables-save"]).stdout
    assert "15101" not in pod.ip("rule")


def test_nobody_who_waits_for_the_summary(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    before = state_of(pod)
    read, write = os.pipe()
    policy = tmp_path / "p.yaml"
    policy.write_text(BY_HOST)
    sidecar = pod.popen(
        command(policy, "--summary-fd", str(write)), pass_fds=[write], stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.close(read)
    read_until(sidecar.stderr, "ready")
    sidecar.send_signal(signal.SIGTERM)
    sidecar.communicate(timeout=30)
    assert state_of(pod) == before


# --- reloading --------------------------------------------------------------------------------------------------------


def test_a_reload_without_a_listener_keeps_the_old_policy(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, BY_PORT, tmp_path)
    before, classes = state_of(pod), set(sidecar.classes())
    with pod.namespace.entered():
        taken = socket.create_server(("127.0.0.1", 15101))
    with taken:
        sidecar.reload(BY_HOST)
        assert "not used" in sidecar.log.read_text()
        assert "15101" in sidecar.log.read_text()
        assert set(sidecar.classes()) == classes
        assert state_of(pod) == before
    sidecar.reload(BY_HOST)
    assert set(sidecar.classes()) == {"host", "default"}
    assert listens(pod)
    assert sidecar.stop() == 0


def test_a_reload_whose_rules_are_refused_keeps_the_old_policy(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, BY_PORT, tmp_path)
    pod.ip("link", "set", "lo", "down")
    before = state_of(pod)
    sidecar.reload(BY_HOST)
    assert "loopback interface is down" in sidecar.log.read_text()
    assert "not used" in sidecar.log.read_text()
    until("the listener that is not needed to go", lambda: not listens(pod))
    assert state_of(pod) == before
    pod.ip("link", "set", "lo", "up")
    assert set(sidecar.classes()) == {"port", "default"}
    upload = begin_upload(topology, tmp_path / "body", 100_000)
    assert upload.wait(20) == 0
    until("the sample to show it", lambda: sidecar.classes()["port"]["bytes"] > 100_000)
    assert (web.root / "f").stat().st_size == 100_000


@pytest.mark.parametrize(
    "text",
    ["total: 2020-13-45\nclasses: []", "total: " + 5000 * "9", "\0", "", "total: 1Gbit\nshaper: tbf"],
    ids=["no date", "huge number", "zero byte", "empty", "beyond the sidecar"],
)
def test_no_file_whatever_ends_a_running_sidecar(topology: PodNodeServer, tmp_path: Path, text: str) -> None:
    sidecar = start_sidecar(topology.pod, BY_PORT, tmp_path)
    sidecar.reload(text)
    assert "not used" in sidecar.log.read_text()
    assert set(sidecar.classes()) == {"port", "default"}
    assert sidecar.stop() == 0


@pytest.mark.parametrize("policy", [BY_SNI, BY_PORT], ids=["other names", "no capture any more"])
def test_connections_outlive_the_class_and_the_capture_they_had(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, policy: str
) -> None:
    """Longer than the grace period, which is for the end; a reload cuts nothing."""
    pod = topology.pod
    sidecar = start_sidecar(pod, BY_HOST, tmp_path, "--grace", "10ms")
    body = tmp_path / "body"
    upload = begin_upload(topology, body, 20_000_000)
    until("a running upload", lambda: sidecar.connections("host"))
    sidecar.reload(policy)
    assert upload.wait(30) == 0
    assert (web.root / "f").read_bytes() == body.read_bytes()
    if policy is BY_PORT:
        until("the listener to go", lambda: not listens(pod))
        until("the rules to go", lambda: "TPROXY" not in pod.run(["iptables-save", "-t", "mangle"]).stdout)
    sidecar.reload(BY_PORT)
    assert 'class="host"' not in sidecar.get("/metrics")
    assert sidecar.stop() == 0


def test_sigterm_lets_connections_of_an_earlier_policy_finish(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    sidecar = start_sidecar(topology.pod, BY_HOST, tmp_path)
    body = tmp_path / "body"
    upload = begin_upload(topology, body, 4_000_000)
    until("a running upload", lambda: sidecar.connections("host"))
    sidecar.reload("total: 8Mbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 80}}]")
    assert sidecar.stop() == 0
    assert upload.wait(10) == 0
    assert (web.root / "f").read_bytes() == body.read_bytes()


def test_a_reload_asked_for_while_starting_is_not_lost(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(BY_PORT)
    starting = topology.pod.popen(command(policy), stderr=subprocess.PIPE, text=True)
    read_until(starting.stderr, "mangle rules in place")
    policy.write_text(BY_HOST)
    starting.send_signal(signal.SIGHUP)
    read_until(starting.stderr, "policy in force")
    starting.send_signal(signal.SIGTERM)
    starting.communicate(timeout=30)
    assert starting.returncode == 0


def test_a_storm_of_signals_ends_with_the_last_policy(topology: PodNodeServer, tmp_path: Path) -> None:
    pod = topology.pod
    before = state_of(pod)
    sidecar = start_sidecar(pod, BY_PORT, tmp_path)

    def storm(sidecar: RunningSidecar) -> None:
        for number in range(40):
            # As a whole, as editors and ConfigMaps replace files.
            fresh = tmp_path / "fresh"
            fresh.write_text((BY_HOST, BY_PORT, BY_SNI)[number % 3])
            fresh.replace(sidecar.policy)
            sidecar.process.send_signal(signal.SIGHUP)

    storm(sidecar)
    sidecar.reload(BY_SNI)
    until("the last one", lambda: set(sidecar.classes()) == {"sni", "default"})
    storm(sidecar)
    assert sidecar.stop() == 0
    assert state_of(pod) == before
