"""Programs without any capability, of root and of another user, do not take the sidecar down: docs/explanation/evasion.md."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from evasion_page import rows
from lab import connect, listen
from sidecars import ADMIN_PORT, RunningSidecar, command_of, refused_sidecar, start_sidecar
from waiting import until

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

PROGRAMS = Path(__file__).parents[1] / "evasion"
ROWS = rows("From inside the Pod")
POLICY = "total: 100Mbit\nclasses: [{name: host, rate: 1Mbit, ceil: 8Mbit, match: {host: web.example.com}}]"
BOTH_WAYS = POLICY.replace("host: web.example.com", "host: web.example.com, direction: both")
USERS = {
    "root": ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    "nobody": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"),
}
"""In front of a command: without capabilities, as in a container that may do nothing."""
AS_IN_A_CONTAINER = (
    "setpriv",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+net_bind_service,+net_raw,+setgid,+setuid",
    "--inh-caps=-all",
)
"""The capabilities that containerd gives by default, of those that matter here (pkg/oci/spec.go)."""
AS_INJECTED = ("setpriv", "--bounding-set=-all,+net_admin,+setgid", "--inh-caps=-all", "--no-new-privs", "--")


@contextmanager
def hostile(pod: Host, user: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program of tests/evasion that has begun; it is ended at the end of the block."""
    # Its text by standard input: another user may not be allowed to enter the folder.
    argv = [*USERS[user], "/usr/bin/python3", "-", *arguments]
    with (PROGRAMS / program).open() as text:
        process = pod.popen(argv, stdin=text, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            said = process.stdout.readline()
            assert said == "begun\n", said
            yield process
        finally:
            process.kill()


def podlane(pod: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return pod.run([sys.executable, "-m", "podlane", *arguments], check=False)


def results(outcomes: Sequence[bool]) -> str:
    return "held" if all(outcomes) else "not held"


@pytest.mark.parametrize("user", USERS)
def test_clients_that_say_nothing(topology: PodNodeServer, tmp_path: Path, user: str) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    try:
        with hostile(topology.pod, user, "silent_clients.py", "60", str(ADMIN_PORT)):
            outcomes = [
                *(podlane(topology.pod, "ready", *more).returncode == 0 for more in ([], ["--alive"])),
                sidecar.get("/healthz") == "ok\n",
            ]
        assert results(outcomes) == ROWS["silent clients of the sidecar's sockets"], outcomes
    finally:
        assert sidecar.stop() == 0


def transparent(sidecar: RunningSidecar) -> set[int]:
    """The relay's ports."""
    rules = sidecar.pod.run(["iptables-save", "-t", "mangle"]).stdout
    return {int(each) for each in re.findall(r"TPROXY --on-port (\d+)", rules)}


@pytest.mark.parametrize("user", USERS)
def test_a_program_that_takes_names_and_ports_before_the_first_start(
    topology: PodNodeServer, tmp_path: Path, user: str
) -> None:
    pod = topology.pod
    with hostile(pod, user, "bind_names.py", "60", "15101", "15106", str(ADMIN_PORT)) as program:
        sidecar = start_sidecar(pod, BOTH_WAYS, tmp_path)
        try:
            outcomes = [podlane(pod, "ready").returncode == 0, not transparent(sidecar) & {15101, 15106}]
            outcomes.append(served(topology) == "ok")
            log = sidecar.log.read_text()
            assert "a port is taken, and another is used by=" in log
            assert f"process {program.pid}" in log
            second, said = refused_sidecar(pod, "--policy", str(sidecar.policy))
            assert (second, "Another Podlane already works" in said) == (1, True), said
            program.kill()
            until("the admin server", lambda: "the admin server listens" in sidecar.log.read_text())
            outcomes.append(sidecar.get("/healthz") == "ok\n")
        finally:
            assert sidecar.stop() == 0
    assert results(outcomes) == ROWS["names and ports taken before the sidecar starts"], outcomes


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("user", USERS)
def test_a_program_that_takes_names_and_ports_when_the_proxy_dies(
    topology: PodNodeServer, tmp_path: Path, user: str, workers: str
) -> None:
    pod = topology.pod
    sidecar = start_sidecar(pod, BOTH_WAYS, tmp_path, "--workers", workers)
    outcomes = []
    try:
        with hostile(pod, user, "bind_names.py", "60", "15101", "15106", str(ADMIN_PORT)):
            for death in range(1, 3):
                os.kill(sidecar.proxy, signal.SIGKILL)
                until("the next", partial(ready_again, sidecar, death))
                outcomes += [served(topology) == "ok", sidecar.get("/healthz") == "ok\n"]
        assert results(outcomes) == ROWS["names and ports taken when the proxy dies"], outcomes
    except AssertionError as error:
        raise AssertionError(f"{error}\n{sidecar.log.read_text()}") from None
    finally:
        assert sidecar.stop() == 0


@pytest.mark.parametrize(("user", "workers"), [("root", "1"), ("nobody", "2")])
def test_a_port_that_cannot_be_joined(topology: PodNodeServer, tmp_path: Path, user: str, workers: str) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--workers", workers)
    try:
        program = hostile(topology.pod, user, "join_port.py", "60", "15101")
        with pytest.raises(AssertionError, match="Address already in use"), program:
            pass
    finally:
        assert sidecar.stop() == 0


def test_a_listener_that_joins_the_workers(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--workers", "2", "--grace", "0s")
    try:
        with hostile(topology.pod, "root", "join_port.py", "60", "15101"), ExitStack() as opened:
            with topology.pod.namespace.entered():
                clients = [opened.enter_context(socket.socket()) for _ in range(40)]
            poll = select.poll()
            for client in clients:
                client.setblocking(False)
                client.connect_ex((topology.server_ipv4, 80))
                poll.register(client, select.POLLOUT)
            connected: set[int] = set()
            end = time.monotonic() + 3
            while len(connected) < len(clients) and (left := end - time.monotonic()) > 0:
                for descriptor, _ in poll.poll(left * 1000):
                    connected.add(descriptor)
                    poll.unregister(descriptor)
        outcome = results([len(connected) == len(clients)])
        assert outcome == ROWS["a listener that joins the workers' port"], len(connected)
    finally:
        assert sidecar.stop() == 0


def test_a_program_that_shares_the_process_namespace(topology: PodNodeServer, tmp_path: Path) -> None:
    """As root with what containers may do by default; the sidecar has what it is injected with."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, wrapped=AS_INJECTED)
    try:
        proxy = sidecar.proxy
        held = [worked_on(topology.pod, each) == "" for each in (sidecar.process.pid, proxy)]
        assert results(held) == ROWS["reading and tracing the sidecar"], held
        # It can do all of that to a process with no more capabilities than its own.
        with topology.pod.popen([*AS_IN_A_CONTAINER, "cat"], stdin=subprocess.PIPE) as other:
            until("another program", lambda: command_of(other.pid) == "cat")
            ways = ["write", "environment", "files", "sockets", "namespaces", "trace"]
            worked = worked_on(topology.pod, other.pid).split()
        assert worked == ways

        topology.pod.run([*AS_IN_A_CONTAINER, "kill", "-KILL", str(sidecar.process.pid)])
        sidecar.process.wait(10)
        assert ROWS["signals to the sidecar"] == "not held"
        classes = topology.pod.run(["tc", "class", "show", "dev", "eth0"]).stdout
        assert "class htb 1:1 root" in classes, "the total holds"
    finally:
        sidecar.process.kill()


def worked_on(pod: Host, pid: int) -> str:
    """What a container's program can do to a process."""
    program = (PROGRAMS / "same_pids.py").read_text()
    return pod.run([*AS_IN_A_CONTAINER, "/usr/bin/python3", "-c", program, str(pid)]).stdout


def ready_again(sidecar: RunningSidecar, times: int) -> bool:
    return sidecar.log.read_text().count("the proxy is ready again") == times


def served(topology: PodNodeServer) -> str:
    """What a server says to a client in the Pod, by a connection that is relayed."""
    server = listen(topology.server, topology.server_ipv4, 80)
    server.settimeout(20)
    with server, connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(b"ok")
            return client.recv(2).decode()
