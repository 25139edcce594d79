"""The table of faults in docs/reference/operations.md, row by row: real processes, real signals, real traffic."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from downward import Volume, format_map
from fates import REQUEST, ask
from lab import connect, listen
from sidecars import RunningSidecar, children, command_of, refused_sidecar, start_annotated, start_sidecar, state_of
from waiting import until
from webserver import start_nginx

from podlane.netns.lab import Host
from podlane.netns.topology import PodNodeServer
from sidecar.supervisor.heartbeat import CLASSIFIER, EVERY_S
from sidecar.supervisor.watchdog import SILENT_S

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: port, rate: 1Mbit, ceil: 80Mbit, match: {port: 9000}}
  - {name: host, rate: 1Mbit, ceil: 80Mbit, match: {host: web.example.com}}
"""
QUIC_CLASS = """  - {name: video, rate: 1Mbit, match: {sni: video.example.com}}
"""
PORTS_ONLY = """
total: 100Mbit
classes:
  - {name: port, rate: 1Mbit, ceil: 80Mbit, match: {port: 9000}}
"""
NAMES = "[{name: host, rate: 1Mbit, match: {host: web.example.com}}, {name: video, rate: 1Mbit, match: {sni: video.example.com}}]"
"""The second one also asks for QUIC to be read."""
NONSENSE = "total: 5"
WITHIN_S = 1.0
"""From the fault to new connections that do without the proxy."""
SHAPES = [
    pytest.param([], id="relay"),
    pytest.param(["--workers", "2"], id="workers"),
    pytest.param(["--datapath", "step-aside"], id="step-aside"),
]

BEGINS_QUIC = b"\xc0\0\0\0\1\x08" + bytes(1300)


@pytest.fixture(autouse=True)
def web(topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")


def ready(sidecar: RunningSidecar) -> bool:
    return sidecar.pod.run(["curl", "-s", "-f", "http://127.0.0.1:15109/readyz"], check=False).returncode == 0


def counted(sidecar: RunningSidecar) -> int:
    """Connections that the proxy, which may be a new one, has told apart by name."""
    return sum(sidecar.connections("host").values())


def kill_for_good(sidecar: RunningSidecar) -> None:
    """Kill the proxy; its successors cannot start until the policy is mended."""
    sidecar.policy.write_text(NONSENSE)
    os.kill(sidecar.proxy, signal.SIGKILL)


def apart_from_ports(pod: Host) -> str:
    """All state; a proxy that starts after failed ones takes other ports than theirs."""
    return re.sub(r"(--on-port |ip_local_reserved_ports = )[0-9,]*", r"\1PORTS", state_of(pod))


def mend(sidecar: RunningSidecar) -> None:
    sidecar.policy.write_text(POLICY)
    until("a proxy that is ready", lambda: ready(sidecar))


def soon(topology: PodNodeServer, wanted: str) -> float:
    """Ask until the answer is this one; seconds from now to the beginning of that try."""
    began = time.monotonic()
    while True:
        at = time.monotonic()
        found = ask(topology, patience=0.3)
        if found == wanted:
            return at - began
        assert at - began < 5, f"new connections are {found}"


@contextmanager
def kernel_only_traffic(topology: PodNodeServer) -> Iterator[None]:
    """A connection that the proxy never sees talks all the while, and misses nothing."""
    with listen(topology.server, port=9000) as listener, connect(topology.pod, topology.server_ipv4, 9000) as ours:
        theirs, _ = listener.accept()
        with theirs:
            ours.sendall(b"before")
            assert theirs.recv(6, socket.MSG_WAITALL) == b"before"
            yield
            ours.settimeout(1.0)
            ours.sendall(b"after")
            assert theirs.recv(5, socket.MSG_WAITALL) == b"after"
        assert ours.recv(1) == b""


def classes_in_force(pod: Host) -> set[str]:
    return set(pod.run(["tc", "class", "show", "dev", "eth0"]).stdout.splitlines())


# --- the proxy is killed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SHAPES)
def test_without_a_proxy_new_connections_go_direct_until_there_is_another(
    topology: PodNodeServer, tmp_path: Path, options: list[str]
) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *options)
    before = apart_from_ports(topology.pod)
    assert ask(topology) == "answered"
    with kernel_only_traffic(topology):
        kill_for_good(sidecar)
        assert soon(topology, "answered") < WITHIN_S
        assert not ready(sidecar)
        assert "1:101" in str(classes_in_force(topology.pod)), "what the kernel decides stays in force"
        mend(sidecar)
        assert apart_from_ports(topology.pod) == before
        assert ask(topology) == "answered"
        assert counted(sidecar) == 1
    assert 'podlane_restarts_total{reason="kill"} 1.0' in sidecar.get("/metrics")
    assert sidecar.stop() == 0


def test_another_proxy_takes_the_place_of_one_that_is_killed(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    before = state_of(topology.pod)
    for number in range(1, 4):
        victim = sidecar.proxy
        assert children(victim) == []
        os.kill(victim, signal.SIGKILL)
        until("its burial", lambda gone=victim: gone not in children(sidecar.process.pid))
        until("a proxy that is ready", lambda: ready(sidecar))
        assert state_of(topology.pod) == before
        assert ask(topology) == "answered"
        assert counted(sidecar) == 1
        assert f'podlane_restarts_total{{reason="kill"}} {number}.0' in sidecar.get("/metrics")
    assert sidecar.stop() == 0


def test_a_proxy_killed_while_it_says_that_it_is_ready_has_a_successor(topology: PodNodeServer, tmp_path: Path) -> None:
    """Whoever hears of it may kill it at once: its supervisor knows by then that there was a first start."""
    reader, writer = os.pipe()
    os.write(writer, b"." * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))  # whoever writes to it waits
    policy, log = tmp_path / "policy.yaml", tmp_path / "sidecar.log"
    policy.write_text(POLICY)
    with log.open("wb") as stream, os.fdopen(reader, "rb"):
        command = [sys.executable, "-m", "podlane", "sidecar", "--policy", str(policy), "--ready-fd", str(writer)]
        process = topology.pod.popen(command, stdout=stream, stderr=stream, pass_fds=[writer])
        os.close(writer)
        sidecar = RunningSidecar(topology.pod, process, policy, log)
        until("a proxy that says it is ready", lambda: "pipe_write" in Path(f"/proc/{sidecar.proxy}/wchan").read_text())
        kill_for_good(sidecar)
        until("its successor's end", lambda: "ended with exit code 2" in log.read_text())
        mend(sidecar)
        assert sidecar.stop() == 0


def test_the_next_proxy_knows_live_connections_by_the_classes_that_they_have(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    """Their marks stay while the proxy is gone, and must not come to mean another class."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "step-aside")
    rest = "\n".join(line for line in POLICY.splitlines() if "port: 9000" not in line)
    sidecar.reload(rest)
    handle = sidecar.classes()["host"]["handle"]
    os.kill(sidecar.proxy, signal.SIGKILL)
    until("the end of the proxy", lambda: "was killed by SIGKILL" in sidecar.log.read_text())
    until("a proxy that is ready", lambda: ready(sidecar))
    assert sidecar.classes()["host"]["handle"] == handle
    assert sidecar.stop() == 0


@pytest.mark.parametrize(("before", "after"), [("relay", "step-aside"), ("step-aside", "relay")])
def test_the_next_proxy_works_by_the_datapath_that_is_asked_for_now(
    topology: PodNodeServer, tmp_path: Path, before: str, after: str
) -> None:
    """Both read QUIC from the same queue."""
    clean = state_of(topology.pod)
    volume = Volume(tmp_path / "pod", "annotations", annotated(before))
    sidecar = start_annotated(topology.pod, volume.file, tmp_path)
    assert queues(topology) == ["15101"]
    volume.write(annotated(after))
    until("it to be seen", lambda: "Not in force before the Pod is created again" in sidecar.log.read_text())
    assert json.loads(sidecar.get("/classes"))["datapath"] == before
    victim = sidecar.proxy
    os.kill(victim, signal.SIGKILL)
    until("its burial", lambda: victim not in children(sidecar.process.pid))
    until("a proxy that is ready", lambda: ready(sidecar))
    assert json.loads(sidecar.get("/classes"))["datapath"] == after
    assert ask(topology) == "answered"
    until("its count", lambda: counted(sidecar))
    assert queues(topology) == ["15101"]
    assert sidecar.get("/healthz") == "ok\n"
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


def annotated(datapath: str) -> str:
    said = {"egress-bandwidth": "1G", "classes": NAMES, "datapath": datapath}
    return format_map({f"podlane.io/{key}": text for key, text in said.items()})


def queues(topology: PodNodeServer) -> list[str]:
    """The numbers of the NFQUEUEs that somebody has."""
    return [line.split()[0] for line in topology.pod.read("/proc/net/netfilter/nfnetlink_queue").splitlines()]


@pytest.mark.parametrize("options", [SHAPES[0], SHAPES[2]])
def test_closed_refuses_new_connections_until_there_is_another_proxy(
    topology: PodNodeServer, tmp_path: Path, options: list[str]
) -> None:
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--on-failure", "closed", *options)
    before = state_of(topology.pod)
    assert ask(topology) == "answered"
    with kernel_only_traffic(topology):
        kill_for_good(sidecar)
        assert soon(topology, "refused") < WITHIN_S
        mend(sidecar)
        assert state_of(topology.pod) == before
        assert ask(topology) == "answered"
        assert counted(sidecar) == 1
    kill_for_good(sidecar)
    soon(topology, "refused")
    assert sidecar.stop() == 0, "told to stop while there is no proxy"
    assert state_of(topology.pod) == clean
    assert ask(topology) == "answered"


def test_closed_refuses_quic_too(topology: PodNodeServer, tmp_path: Path) -> None:
    """What begins a connection, before it is sent; other datagrams go on."""
    clean = state_of(topology.pod)
    policy = POLICY.replace("host: web.example.com", "sni: web.example.com")
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--on-failure", "closed")
    with topology.pod.namespace.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.connect((topology.server_ipv4, 443))
        assert client.send(BEGINS_QUIC) == len(BEGINS_QUIC)
        kill_for_good(sidecar)
        soon(topology, "refused")
    with topology.pod.namespace.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.connect((topology.server_ipv4, 443))
        with pytest.raises(PermissionError):
            client.send(BEGINS_QUIC)
        with suppress(ConnectionRefusedError):  # by the server: nothing listens there
            assert client.send(b"no QUIC") == 7
    mend(sidecar)
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


@pytest.mark.parametrize(("way", "family"), [("open", "ipv4"), ("closed", "ipv6")])
def test_what_clients_open_fares_no_worse(topology: PodNodeServer, tmp_path: Path, way: str, family: str) -> None:
    start_nginx(topology.pod, tmp_path / "here")
    policy = POLICY.replace("web.example.com", "web.example.com, direction: inbound")
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--on-failure", way)
    address = str(getattr(topology.pod_link.a, family))

    def visit() -> str:
        try:
            with connect(topology.server, address, 80, timeout=0.5) as client:
                client.sendall(REQUEST)
                return "answered" if b"web.example.com" in client.makefile("rb").read() else "cut"
        except ConnectionRefusedError:
            return "refused"
        except (TimeoutError, ConnectionResetError):
            return "neither"

    until("the first answer", lambda: visit() == "answered")
    kill_for_good(sidecar)
    wanted = "answered" if way == "open" else "refused"
    until(f"{wanted} clients", lambda: visit() == wanted, patience=WITHIN_S + 0.5)
    sidecar.policy.write_text(policy)
    until("a proxy that is ready", lambda: ready(sidecar))
    assert visit() == "answered"
    assert counted(sidecar) == 1
    assert sidecar.stop() == 0


def test_relayed_connections_of_a_killed_proxy_end_at_once(topology: PodNodeServer, tmp_path: Path) -> None:
    """Nobody is left waiting for an answer that will not come."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(REQUEST.replace(b"close", b"keep-alive"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        os.kill(sidecar.proxy, signal.SIGKILL)
        client.settimeout(WITHIN_S)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    until("a proxy that is ready", lambda: ready(sidecar))
    assert sidecar.stop() == 0


def test_a_proxy_for_which_there_is_no_memory(topology: PodNodeServer, tmp_path: Path) -> None:
    """A real memory cgroup with a real limit; a policy that is as long as it may be does the rest."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with memory_limit(sidecar.proxy, 4 << 20):
        victim = sidecar.proxy
        sidecar.policy.write_text(POLICY + "#" * (4 * 2**20 - 1000))  # just within the limit of a policy's text
        sidecar.process.send_signal(signal.SIGHUP)
        until("the end of the proxy", lambda: victim not in children(sidecar.process.pid))
        assert soon(topology, "answered") < WITHIN_S
    mend(sidecar)
    assert "was killed by SIGKILL" in sidecar.log.read_text()
    assert sidecar.stop() == 0


@contextmanager
def memory_limit(pid: int, room: int) -> Iterator[None]:
    """Let a process have this many bytes more than it has, and no more; for the others that it starts no limit."""
    one = Path("/sys/fs/cgroup/memory")
    parent, limit = (one, "memory.limit_in_bytes") if one.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    home = parent / next(
        line.split(":")[2].strip("/") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] == ("memory" if parent is one else "")
    )  # fmt: skip
    group = parent / f"podlane-test-{os.getpid()}"
    group.mkdir()
    try:
        # What it has was charged to the group that it comes from, so this is about what it takes from now on.
        (group / limit).write_text(str(room))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(left)
        group.rmdir()


# --- it hangs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SHAPES[0], SHAPES[2]])
def test_a_proxy_that_hangs_is_done_without_and_put_back_when_it_goes_on(
    topology: PodNodeServer, tmp_path: Path, options: list[str]
) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, *options)
    before = state_of(topology.pod)
    proxy = sidecar.proxy
    os.kill(proxy, signal.SIGSTOP)
    assert soon(topology, "answered") < WITHIN_S
    os.kill(proxy, signal.SIGCONT)
    until("its rules to be back", lambda: state_of(topology.pod) == before)
    assert ask(topology) == "answered"
    assert sidecar.proxy == proxy
    until("its count", lambda: counted(sidecar))
    assert "podlane_restarts_total{" not in sidecar.get("/metrics")
    assert sidecar.stop() == 0


def test_a_proxy_that_goes_on_hanging_is_replaced(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--on-failure", "closed")
    before = state_of(topology.pod)
    proxy = sidecar.proxy
    os.kill(proxy, signal.SIGSTOP)
    assert soon(topology, "refused") < WITHIN_S
    until("another proxy", lambda: proxy not in children(sidecar.process.pid))
    until("a proxy that is ready", lambda: ready(sidecar))
    assert state_of(topology.pod) == before
    assert ask(topology) == "answered"
    assert 'podlane_restarts_total{reason="hang"} 1.0' in sidecar.get("/metrics")
    assert sidecar.stop() == 0


def test_a_worker_that_hangs_is_done_without(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--workers", "2")
    [server] = until(
        "the fork server",
        lambda: [each for each in children(sidecar.proxy) if command_of(each) == "podlane-forks"],
    )
    [victim, _] = until("workers", lambda: found if len(found := children(server)) == 2 else None)
    os.kill(victim, signal.SIGSTOP)
    until("new connections to go direct", lambda: "new_connections=go direct" in sidecar.log.read_text())
    assert [ask(topology) for _ in range(8)] == ["answered"] * 8
    os.kill(victim, signal.SIGCONT)
    until("the proxy to be back", lambda: "the proxy answers again" in sidecar.log.read_text())
    assert sidecar.stop() == 0


@pytest.mark.parametrize("options", [SHAPES[0], SHAPES[2]])
def test_a_classifier_that_ends_since_no_names_are_left_is_no_fault(
    topology: PodNodeServer, tmp_path: Path, options: list[str]
) -> None:
    sidecar = start_sidecar(topology.pod, POLICY + QUIC_CLASS, tmp_path, *options)

    def uptime() -> float:
        return float(json.loads(sidecar.get("/classes"))["uptime_seconds"])

    began = uptime() + 2 * EVERY_S
    until("its first signs", lambda: uptime() > began)
    sidecar.reload(PORTS_ONLY)
    enough = uptime() + 1 + 2 * SILENT_S[CLASSIFIER]  # it ends within a second
    until("what would be silence", lambda: uptime() > enough)
    assert "does not answer" not in sidecar.log.read_text()
    assert sidecar.stop() == 0


# --- the supervisor is killed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["open", "closed"])
def test_the_supervisor_takes_the_proxy_along_and_the_next_start_repairs(
    topology: PodNodeServer, tmp_path: Path, way: str
) -> None:
    clean = state_of(topology.pod)
    killed = start_sidecar(topology.pod, POLICY, tmp_path, "--on-failure", way)
    before, proxy = state_of(topology.pod), killed.proxy
    killed.process.kill()
    assert soon(topology, "answered" if way == "open" else "refused") < WITHIN_S
    until("the end of the proxy", lambda: not Path(f"/proc/{proxy}").exists())
    again = start_sidecar(topology.pod, POLICY, tmp_path)
    assert state_of(topology.pod) == before
    assert ask(topology) == "answered"
    assert counted(again) == 1
    assert again.stop() == 0
    assert state_of(topology.pod) == clean


def test_both_are_killed_and_connections_wait_for_the_next_start(topology: PodNodeServer, tmp_path: Path) -> None:
    clean = state_of(topology.pod)
    killed = start_sidecar(topology.pod, POLICY, tmp_path)
    before = state_of(topology.pod)
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert state_of(topology.pod) == before
    with topology.pod.namespace.entered():
        waiting = socket.socket()
    with waiting:
        waiting.setblocking(False)
        assert waiting.connect_ex((topology.server_ipv4, 80)) == errno.EINPROGRESS
        again = start_sidecar(topology.pod, POLICY, tmp_path)
        waiting.settimeout(20)
        waiting.sendall(REQUEST)
        assert b"web.example.com" in waiting.makefile("rb").read()
    assert counted(again) == 1
    assert again.stop() == 0
    assert state_of(topology.pod) == clean


# --- more than once, and at the wrong moment --------------------------------------------------------------------------


def test_a_proxy_that_cannot_start_any_more_is_tried_again(topology: PodNodeServer, tmp_path: Path) -> None:
    """What it cannot do it says, what is in force stays, and the supervisor does not give up."""
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    classes = classes_in_force(topology.pod)
    kill_for_good(sidecar)
    until("some tries", lambda: sidecar.log.read_text().count("ended with exit code 2") >= 3)
    assert "total: 5 has no unit" in sidecar.log.read_text()
    assert classes_in_force(topology.pod) == classes
    assert ask(topology) == "answered"
    mend(sidecar)
    assert sidecar.stop() == 0


def test_a_proxy_that_dies_while_it_ends_leaves_nothing(topology: PodNodeServer, tmp_path: Path) -> None:
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    with connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(REQUEST.replace(b"close", b"keep-alive"))
        assert client.recv(1) == b"H"
        sidecar.process.send_signal(signal.SIGTERM)
        until("the drain", lambda: "draining" in sidecar.log.read_text())
        os.kill(sidecar.proxy, signal.SIGKILL)
        assert sidecar.process.wait(30) == 0
    assert state_of(topology.pod) == clean


def test_orphans_of_others_are_buried(topology: PodNodeServer, tmp_path: Path) -> None:
    """As pid 1 of a container: what a probe leaves behind becomes the supervisor's child."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    command = (
        f"exec unshare --pid --fork --kill-child --mount-proc {sys.executable} -m podlane sidecar --policy {policy}"
    )
    log = (tmp_path / "log").open("wb")
    outer = topology.pod.popen(["sh", "-c", command], stderr=log)
    until("the sidecar", lambda: b"ready" in (tmp_path / "log").read_bytes())
    [first] = children(outer.pid)
    proxy = children(first)[0]
    orphan = ["nsenter", "-t", str(proxy), "-p", "-m", "sh", "-c", "sleep 0.2 & exit"]
    topology.pod.run(orphan)
    until("its burial", lambda: children(first) == [proxy])
    os.kill(first, signal.SIGTERM)
    assert outer.wait(30) == 0


def test_refused_starts_say_why_once(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(NONSENSE)
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--on-failure", "closed")
    assert (code, said.count("has no unit")) == (2, 1)
