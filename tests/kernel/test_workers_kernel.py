"""The relay on several cores: connections spread, sums are sums, and what dies is replaced or takes nothing along."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lab import connect
from runs import RunHost
from sidecars import RunningSidecar, children, command_of, refused_sidecar, start_sidecar, state_of
from waiting import until
from webserver import WebServer, start_nginx

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

WORKERS = 3
POLICY = """
total: 1Gbit
classes:
  - {name: host, rate: 10Mbit, ceil: 1Gbit, match: [{host: web.example.com}]}
  - {name: sni, rate: 10Mbit, ceil: 1Gbit, match: [{sni: web.example.com}]}
"""
OTHERWISE = POLICY.replace("name: host", "name: moved")
BY_PORT = "total: 1Gbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 80}}]"
REQUEST = b"GET /who HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
PATIENCE = 20.0


def start(topology: PodNodeServer, folder: Path, *options: str, policy: str = POLICY) -> RunningSidecar:
    return start_sidecar(topology.pod, policy, folder, "--log-format", "json", "--workers", str(WORKERS), *options)


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def lines(sidecar: RunningSidecar, event: str) -> list[dict[str, Any]]:
    """Log lines of one kind. Each is whole, whoever wrote it; only the command line's own last words are no JSON."""
    found = [json.loads(line) for line in sidecar.log.read_text().splitlines() if not line.startswith("podlane: ")]
    return [line for line in found if line["event"].startswith(event)]


def family(pid: int) -> dict[int, str]:
    """A process's descendants, with the names that ps shows; those that end meanwhile have none."""
    found: dict[int, str] = {}
    for child in children(pid):
        found |= {child: command_of(child)} | family(child)
    return found


def workers(sidecar: RunningSidecar) -> list[int]:
    return sorted(pid for pid, name in family(sidecar.proxy).items() if name == "podlane-worker")


def metric(sidecar: RunningSidecar, name: str) -> float:
    """The sum over all labels."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", sidecar.get("/metrics"), re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def ask(topology: PodNodeServer, *options: str) -> subprocess.CompletedProcess[str]:
    return topology.pod.run(
        ["curl", "-sS", "-m", "20", "-H", "Host: web.example.com", *options, f"http://{topology.server_ipv4}/who"],
        check=False,
    )


def open_connection(topology: PodNodeServer, port: int = 80) -> socket.socket:
    """A kept-alive connection through the relay, whose first request has been answered."""
    client = connect(topology.pod, topology.server_ipv4, port, timeout=PATIENCE)
    answered(client)
    return client


def answered(client: socket.socket) -> None:
    client.sendall(REQUEST)
    assert client.recv(4096).startswith(b"HTTP/1.1 200")


def owner(topology: PodNodeServer, client: socket.socket) -> int:
    """The pid of the worker that has accepted a connection."""
    port = client.getsockname()[1]
    rows = topology.pod.run(["ss", "-Htnp", f"dport = :{port}"]).stdout
    return int(re.findall(r"pid=(\d+)", rows)[0])


def dead(client: socket.socket) -> bool:
    """Whether the relay has reset it, or closed it."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def gone(pids: list[int]) -> bool:
    """Whether they have ended. Who is to take note of an orphan's end (a zombie until then) is not the sidecar's business."""
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listeners(pod: Host) -> int:
    return pod.run(["ss", "-Hltn", "sport = :15101"]).stdout.count("127.0.0.1:15101")


@pytest.mark.usefixtures("web")
def test_connections_are_spread_and_sums_are_sums(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    assert len(workers(sidecar)) == WORKERS
    assert listeners(topology.pod) == WORKERS
    clients = [open_connection(topology) for _ in range(200)]
    # At once, without waiting for anything: the answer is exact.
    assert sidecar.classes()["host"]["connections"] == {"active": 200, "total": 200, "by_protocol": {"http1": 200}}
    by_worker = Counter(owner(topology, client) for client in clients)
    assert sorted(by_worker) == workers(sidecar)
    assert min(by_worker.values()) >= 200 / WORKERS / 2, by_worker
    assert metric(sidecar, "podlane_connections_active") == 200
    assert metric(sidecar, "podlane_detections_total") == 200
    assert metric(sidecar, "podlane_detection_seconds_count") == 200
    assert metric(sidecar, "podlane_workers") == WORKERS
    for client in clients:
        client.close()
    until("all to end", lambda: sidecar.classes()["host"]["connections"]["active"] == 0)
    assert metric(sidecar, "podlane_connections_total") == 200
    assert metric(sidecar, "podlane_relayed_bytes_total") > 200 * len(REQUEST)
    assert {line["worker"] for line in lines(sidecar, "connection")} == {1, 2, 3}
    assert sidecar.get("/healthz") == "ok\n"
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_both_families_reach_workers(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    pod = topology.pod
    for address in (topology.server_ipv4, f"[{topology.server_ipv6}]"):
        for options, url in (
            ([], f"http://{address}/who"),
            (["-k", "--connect-to", f"web.example.com:443:{address}:443"], "https://web.example.com/who"),
        ):
            said = pod.run(["curl", "-sS", "-m", "20", "-H", "Host: web.example.com", *options, url]).stdout
            assert "web.example.com" in said
    assert sidecar.connections("host") == {"http1": 2}
    assert sidecar.connections("sni") == {"tls": 2}


def test_bodies_arrive_as_they_were_sent(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    """Twelve at once, both ways, of sizes that are copied and that are spliced."""
    sidecar = start(topology, tmp_path)
    url = f"http://{topology.server_ipv4}"
    sizes = [0, 1, 65_535, 65_536, 1_000_003, 8_000_000] * 2
    bodies = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]

    def both_ways(number: int) -> None:
        up, down = tmp_path / f"up{number}", tmp_path / f"down{number}"
        up.write_bytes(bodies[number])
        send = ["curl", "-sS", "-f", "-H", "Host: web.example.com", "-H", "Expect:", "-T", str(up), f"{url}/f{number}"]
        fetch = ["curl", "-sS", "-f", "-H", "Host: web.example.com", "-o", str(down), f"{url}/f{number}"]
        topology.pod.run(send)
        topology.pod.run(fetch)
        for copy in (web.root / f"f{number}", down):
            assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(bodies[number]).digest()

    with ThreadPoolExecutor(len(sizes)) as pool:
        list(pool.map(both_ways, range(len(sizes))))
    until("all to end", lambda: sidecar.classes()["host"]["connections"]["active"] == 0)
    assert sidecar.connections("host") == {"http1": 2 * len(sizes)}
    assert metric(sidecar, "podlane_relayed_bytes_total") > 2 * sum(sizes)


@pytest.mark.usefixtures("web")
def test_every_worker_follows_a_new_policy_at_once(topology: PodNodeServer, tmp_path: Path) -> None:
    """Under load, ten times; no request fails, and what is connected after the reload is in the new class."""
    sidecar = start(topology, tmp_path)
    stop = False

    def keep_asking() -> list[str]:
        failures = []
        while not stop:
            done = ask(topology)
            if done.returncode or "web.example.com" not in done.stdout:
                failures.append(f"{done.returncode} {done.stdout} {done.stderr}")
        return failures

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        try:
            for number in range(10):
                name, policy = ("moved", OTHERWISE) if number % 2 == 0 else ("host", POLICY)
                sidecar.reload(policy)
                assert "not used" not in sidecar.log.read_text()
                clients = [open_connection(topology) for _ in range(12)]
                assert sidecar.classes()[name]["connections"]["active"] >= 12
                for client in clients:
                    client.close()
        finally:
            stop = True
        assert [failure for each in asking for failure in each.result()] == []


@pytest.mark.usefixtures("web")
def test_a_killed_worker_is_replaced_and_takes_only_its_own_along(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    before = workers(sidecar)
    clients = [open_connection(topology) for _ in range(30)]
    owners = {client: owner(topology, client) for client in clients}
    counted = sidecar.connections("host")["http1"]
    [victim, *_] = before
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    lost = [client for client in clients if owners[client] == victim]
    assert lost
    assert all(dead(client) for client in lost)
    # Whatever meets the gap waits in the listener, which stays open: nothing is refused, nothing reset.
    fresh = [open_connection(topology) for _ in range(30)]
    assert time.monotonic() - began < 5
    until("another in its place", lambda: len(workers(sidecar)) == WORKERS)
    [line] = lines(sidecar, "a worker was killed by SIGKILL")
    assert (line["pid"], line["connections_lost"], line["replaced"]) == (victim, len(lost), True)
    assert line["level"] == "error"
    assert victim not in workers(sidecar)
    for client in clients:
        if client not in lost:
            answered(client)
    successor = ({*workers(sidecar)} - {*before}).pop()
    assert successor in {owner(topology, client) for client in fresh}
    connections = sidecar.classes()["host"]["connections"]
    assert connections["total"] == counted + len(fresh)
    assert connections["active"] == len(clients) - len(lost) + len(fresh)
    assert metric(sidecar, "podlane_workers_replaced_total") == 1
    assert sidecar.get("/healthz") == "ok\n"
    for client in [*clients, *fresh]:
        client.close()
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_counters_never_go_back_while_workers_die(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    seen: list[float] = []
    for _ in range(8):
        assert ask(topology).returncode == 0
        seen.append(metric(sidecar, "podlane_connections_total"))
        until("all workers", lambda: len(workers(sidecar)) == WORKERS)
        oldest = workers(sidecar)[0]  # each place in its turn
        os.kill(oldest, signal.SIGKILL)
        until("its end", lambda pid=oldest: gone([pid]))
        seen.append(metric(sidecar, "podlane_connections_total"))
    assert seen == sorted(seen)
    assert seen[-1] == 8
    assert sidecar.stop() == 0


def test_a_worker_that_dies_again_and_again_ends_all_of_it(topology: PodNodeServer, tmp_path: Path) -> None:
    """Without a supervisor, which would begin again."""
    before = state_of(topology.pod)
    sidecar = start(topology, tmp_path, "--alone")
    processes = list(family(sidecar.process.pid))

    def kill_all() -> bool:
        for pid in (pid for pid, name in family(sidecar.process.pid).items() if name == "podlane-worker"):
            with suppress(ProcessLookupError):  # the pool's end was quicker
                os.kill(pid, signal.SIGKILL)
        return sidecar.process.poll() is not None

    until("its end", kill_all)
    assert sidecar.process.returncode == 1
    said = sidecar.log.read_text()
    assert "Workers die again and again: 5 within a minute" in said
    assert "killed by SIGKILL" in said
    assert "Traceback" not in said
    assert len(lines(sidecar, "a worker was killed")) <= 5 * WORKERS
    assert gone(processes)
    assert state_of(topology.pod) == before


def test_workers_that_cannot_begin_end_the_pool() -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(tests / "worker_pool.py"), "dies"],
        env={**os.environ, "PYTHONPATH": str(tests.parent)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["fork server"]
    assert "5 within a minute in one place, and the last one ended with exit code 1" in told["error"]
    assert "a mistake, made on purpose" in done.stdout + done.stderr


@pytest.mark.usefixtures("web")
def test_workers_do_not_outlive_a_killed_main_process(topology: PodNodeServer, tmp_path: Path) -> None:
    """Nor keep the next one from starting at once."""
    pod = topology.pod
    before = state_of(pod)
    sidecar = start(topology, tmp_path)
    clients = [open_connection(topology) for _ in range(9)]
    processes = family(sidecar.proxy)
    assert Counter(processes.values()) == {"podlane-forks": 1, "podlane-worker": WORKERS}
    assert sidecar.stop(signal.SIGKILL) == -signal.SIGKILL
    until("their end", lambda: gone(list(processes)), patience=1.0)
    again = start(topology, tmp_path)
    assert all(dead(client) for client in clients)
    assert listeners(pod) == WORKERS
    assert ask(topology).returncode == 0
    assert again.connections("host") == {"http1": 1}
    assert again.stop(signal.SIGKILL) == -signal.SIGKILL
    assert refused_sidecar(pod, "--cleanup") == (0, "")
    assert listeners(pod) == 0
    assert state_of(pod) == before


@pytest.mark.usefixtures("web")
def test_a_killed_fork_server_ends_all_of_it(topology: PodNodeServer, tmp_path: Path) -> None:
    """Without a supervisor, which would begin again."""
    before = state_of(topology.pod)
    sidecar = start(topology, tmp_path, "--alone")
    processes = family(sidecar.process.pid)
    [server] = [pid for pid, name in processes.items() if name == "podlane-forks"]
    os.kill(server, signal.SIGKILL)
    assert sidecar.process.wait(20) == 1
    assert "The process that starts workers" in sidecar.log.read_text()
    until("their end", lambda: gone(list(processes)))  # the kernel kills the workers, and nobody waits for that
    assert state_of(topology.pod) == before


def begin_uploads(topology: PodNodeServer, folder: Path, number: int, size: int) -> list[subprocess.Popen[bytes]]:
    body = folder / "body"
    body.write_bytes(random.Random(5).randbytes(size))
    send = ["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", "-H", "Expect:"]
    return [
        topology.pod.popen([*send, f"http://{topology.server_ipv4}/u{each}"], stderr=subprocess.DEVNULL)
        for each in range(number)
    ]


@pytest.mark.parametrize("moment", ["workers are there", "mangle rules in place"])
def test_sigterm_while_starting_ends_it_well(topology: PodNodeServer, tmp_path: Path, moment: str) -> None:
    before = state_of(topology.pod)
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    command = [sys.executable, "-m", "podlane", "sidecar", "--policy", str(policy), "--workers", "2"]
    starting = topology.pod.popen(command, stderr=subprocess.PIPE, text=True)
    assert starting.stderr is not None
    assert any(moment in line for line in starting.stderr)
    processes = list(family(starting.pid))
    starting.send_signal(signal.SIGTERM)
    starting.communicate(timeout=30)
    assert starting.returncode == 0
    assert gone(processes)
    assert state_of(topology.pod) == before


def test_a_run_has_workers_and_does_not_take_them_for_what_command_left(runs: RunHost) -> None:
    process = runs.start("echo up; read _; sleep 300 & exit 3", options=["--workers", "2"])
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in runs.namespace.pids()]
    assert names.count("podlane-worker") == 2
    _, said = process.communicate("\n", timeout=60)
    assert process.returncode == 3
    assert "sleep" in said
    assert "podlane" not in said.split("background:")[1].splitlines()[0]
    assert "class" in said  # the summary, which a proxy that was ended otherwise does not write


SLOW = "total: 40Mbit\nclasses: [{name: host, rate: 1Mbit, ceil: %s, match: {host: web.example.com}}]"


def test_sigterm_lets_transfers_finish_and_leaves_no_trace(
    topology: PodNodeServer, web: WebServer, tmp_path: Path
) -> None:
    pod = topology.pod
    before = state_of(pod)
    sidecar = start(topology, tmp_path, policy=SLOW % "40Mbit")
    processes = list(family(sidecar.proxy))
    uploads = begin_uploads(topology, tmp_path, 8, 1_000_000)
    until("all uploads", lambda: sidecar.classes()["host"]["connections"]["active"] == 8)
    sidecar.process.send_signal(signal.SIGTERM)
    until("the drain", lambda: lines(sidecar, "draining"))
    # New connections go direct at once.
    assert ask(topology).stdout.startswith("|web.example.com")
    assert [upload.wait(30) for upload in uploads] == [0] * 8
    assert sidecar.process.wait(30) == 0
    for number in range(8):
        assert (web.root / f"u{number}").read_bytes() == (tmp_path / "body").read_bytes()
    assert not lines(sidecar, "connections cut")
    assert gone(processes)
    assert listeners(pod) == 0
    assert state_of(pod) == before


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize("signals", [1, 2], ids=["the grace period ends", "a second SIGTERM ends it"])
def test_what_does_not_end_is_cut(topology: PodNodeServer, tmp_path: Path, signals: int) -> None:
    before = state_of(topology.pod)
    grace = "300ms" if signals == 1 else "60s"
    sidecar = start(topology, tmp_path, "--grace", grace, policy=SLOW % "1Mbit")
    processes = list(family(sidecar.proxy))
    uploads = begin_uploads(topology, tmp_path, 6, 2_000_000)
    until("all uploads", lambda: sidecar.classes()["host"]["connections"]["active"] == 6)
    sidecar.process.send_signal(signal.SIGTERM)
    if signals == 2:
        until("the drain", lambda: lines(sidecar, "draining"))
        sidecar.process.send_signal(signal.SIGTERM)
    assert sidecar.process.wait(20) == 0
    assert all(upload.wait(10) != 0 for upload in uploads)
    if signals == 1:
        assert lines(sidecar, "connections cut")[0]["count"] == 6
    assert gone(processes)
    assert state_of(topology.pod) == before


def test_a_reload_can_end_and_begin_the_capture(topology: PodNodeServer, web: WebServer, tmp_path: Path) -> None:
    """Connections outlive the capture that brought them; when they have ended the workers go, and come again."""
    sidecar = start(topology, tmp_path, policy=SLOW % "8Mbit")
    uploads = begin_uploads(topology, tmp_path, 4, 500_000)
    until("all uploads", lambda: sidecar.classes()["host"]["connections"]["active"] == 4)
    sidecar.reload(BY_PORT)
    assert len(workers(sidecar)) == WORKERS
    assert [upload.wait(30) for upload in uploads] == [0] * 4
    for number in range(4):
        assert (web.root / f"u{number}").read_bytes() == (tmp_path / "body").read_bytes()
    until("the workers to go", lambda: not workers(sidecar) and not listeners(topology.pod))
    assert sidecar.get("/healthz") == "ok\n"
    assert ask(topology).returncode == 0
    sidecar.reload(POLICY)
    assert len(workers(sidecar)) == WORKERS
    assert ask(topology).returncode == 0
    # The uploads had left this class when the other policy came.
    assert sidecar.connections("host") == {"http1": 1}
    assert sidecar.stop() == 0


def test_a_reload_without_a_listener_keeps_the_old_policy(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path, policy=BY_PORT)
    with topology.pod.namespace.entered():
        taken = socket.create_server(("127.0.0.1", 15101))
    with taken:
        sidecar.reload(POLICY)
        assert "not used" in sidecar.log.read_text()
        assert set(sidecar.classes()) == {"port", "default"}
    sidecar.reload(POLICY)
    assert listeners(topology.pod) == WORKERS
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_a_worker_that_hangs_is_named_and_does_not_hold_up_a_reload(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    [victim, *others] = workers(sidecar)
    os.kill(victim, signal.SIGSTOP)
    said = topology.pod.run(["curl", "-sS", "-w", "%{http_code}", "http://127.0.0.1:15109/healthz"]).stdout
    assert re.fullmatch(r"no answer from worker [123]\n503", said)
    assert sidecar.connections("host") == {}
    sidecar.reload(OTHERWISE)
    assert lines(sidecar, "a worker does not take the new policy")[0]["pid"] == victim
    until("another in its place", lambda: len(workers(sidecar)) == WORKERS)
    assert set(others) < set(workers(sidecar))
    clients = [open_connection(topology) for _ in range(24)]
    assert sidecar.connections("moved") == {"http1": 24}
    for client in clients:
        client.close()
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_max_connections_is_the_sum(topology: PodNodeServer, tmp_path: Path) -> None:
    """Two for each worker; what is too much waits in the kernel and is served when others have ended."""
    sidecar = start(topology, tmp_path, "--max-connections", str(2 * WORKERS))
    waiting = [connect(topology.pod, topology.server_ipv4, 80, timeout=PATIENCE) for _ in range(40)]
    for client in waiting:
        client.sendall(REQUEST)
    until("all that may be", lambda: sidecar.classes()["host"]["connections"]["active"] == 2 * WORKERS)
    for client in waiting:
        client.shutdown(socket.SHUT_WR)
    for client in waiting:
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    until("all to end", lambda: sidecar.classes()["host"]["connections"]["active"] == 0)
    assert sidecar.connections("host") == {"http1": 40}
    assert sidecar.stop() == 0


@pytest.mark.usefixtures("web")
def test_no_descriptor_is_left_open(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)

    def opened() -> list[int]:
        counts = [len(os.listdir(f"/proc/{pid}/fd")) for pid in family(sidecar.proxy)]
        # Not by pid: the replacement's may be lower than the fork server's.
        return [len(os.listdir(f"/proc/{sidecar.proxy}/fd")), *sorted(counts)]

    assert ask(topology).returncode == 0
    # A connection that is about to close has two of them.
    until("the connection to end", lambda: metric(sidecar, "podlane_connections_active") == 0)
    before = opened()
    for client in [open_connection(topology) for _ in range(60)]:
        client.close()
    for policy in (OTHERWISE, POLICY, BY_PORT):
        sidecar.reload(policy)
    until("the workers to go", lambda: not workers(sidecar))
    sidecar.reload(POLICY)
    os.kill(workers(sidecar)[0], signal.SIGKILL)
    until("another in its place", lambda: metric(sidecar, "podlane_workers_replaced_total") == 1)
    until("all workers", lambda: len(workers(sidecar)) == WORKERS)
    assert ask(topology).returncode == 0
    # No more than before: the question for the metric may have had a descriptor then, which is closed by now.
    until("what is closed to be closed", lambda: all(map(operator.le, opened(), before)))
    assert sidecar.stop() == 0
