"""``datapath: ebpf``: real clients and servers in namespaces, classes by the kernel's counters, and what becomes of it all."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from lab import connect, serving
from runs import RunHost
from sidecars import NO_CAP_BPF, NO_SYS_ADMIN, RunningSidecar, refused_sidecar, start_sidecar, state_of
from waiting import until
from webserver import WebServer, start_nginx, upload

from datapath.ebpf.clsact import ClsactHook
from datapath.ebpf.hooks import Point, TcxHook, hook_at
from datapath.ebpf.lane import Lane
from datapath.ebpf.libbpf import BpfObject, NumberArray, map_id, map_of_program
from datapath.ebpf.policy_maps import HashKeys, compile_table
from datapath.ebpf.program import DECISIONS, EGRESS, LASTING, OBJECT, SHARED, VERDICTS, load
from datapath.routing.table import RoutingTable
from podlane.netns import Host
from podlane.netns.topology import PodNodeServer
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # as its tests see it
from first_bytes import alpn, hello, records, sni

pytestmark = pytest.mark.root

POLICY = """
total: 1Gbit
classes:
  - {name: sni, rate: 10Mbit, match: {sni: ["*.api.example.com", api.example.com]}}
  - {name: host, rate: 10Mbit, match: {host: web.example.com}}
  - {name: alpn, rate: 10Mbit, match: {alpn: http/1.1, port: 443}}
  - {name: port, rate: 10Mbit, match: {port: "9000-9100"}}
"""
BODY = 300_000
MORE = 20_000
"""Bytes that no handshake has."""
SO_PRIORITY, SO_MARK = 12, 36
REQUEST = b"POST / HTTP/1.1\r\nHost: %b\r\n\r\n"


PARSED = parse_policy(POLICY)
TABLE = RoutingTable.from_policy(PARSED)
IDS = ClassIds.assign(c.name for c in PARSED.classes)


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def start(topology: PodNodeServer, folder: Path, *options: str, policy: str = POLICY) -> RunningSidecar:
    return start_sidecar(topology.pod, policy, folder, "--datapath", "ebpf", *options)


def sent_bytes(sidecar: RunningSidecar) -> dict[str, int]:
    return {name: c["bytes"] for name, c in sidecar.classes().items()}


def in_class(sidecar: RunningSidecar, name: str, send: Callable[[], None], size: int = BODY) -> None:
    """What is sent meanwhile is in this class, and nothing worth mentioning in any other."""
    before = sent_bytes(sidecar)
    send()
    until(f"{size} bytes in {name}", lambda: sent_bytes(sidecar)[name] - before[name] > size)
    after = sent_bytes(sidecar)
    others = {n: after[n] - before[n] for n in after if n != name}
    assert max(others.values()) < 5000, others


def swallow(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def program_at(host: Host) -> bool:
    """Whether a program of ours is at the interface, by either way."""
    with host.namespace.entered():
        index = socket.if_nametoindex("eth0")
        found = [way(index, EGRESS).ours() for way in (TcxHook, ClsactHook)]
    for each in found:
        if each is not None:
            os.close(each)
    return any(each is not None for each in found)


CLIENTS = {
    "TLS": ("https://x.api.example.com:443/f", ["--http1.1"], "sni"),
    "TLS 1.2": ("https://api.example.com:443/f", ["--http1.1", "--tls-max", "1.2"], "sni"),
    "HTTP/1": ("http://web.example.com:80/f", ["--http1.1"], "host"),
    "ALPN": ("https://other.example.com:443/f", ["--http1.1"], "alpn"),
    "no name that is known": ("https://other.example.com:443/f", ["--no-alpn"], "default"),
}


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_each_upload_is_in_its_class(topology: PodNodeServer, web: WebServer, tmp_path: Path, family: str) -> None:
    clean = state_of(topology.pod)
    sidecar = start(topology, tmp_path)
    assert json.loads(sidecar.get("/classes"))["datapath"] == "ebpf"
    body = tmp_path / "body"
    body.write_bytes(random.Random(4).randbytes(BODY))
    address = topology.server_ipv4 if family == "IPv4" else topology.server_ipv6
    for url, options, name in CLIENTS.values():
        in_class(sidecar, name, lambda u=url, o=options: upload(topology.pod, body, u, address, *o))  # type: ignore[misc]
        assert (web.root / "f").read_bytes() == body.read_bytes()
    assert "PODLANE" not in state_of(topology.pod), "no rules are needed"
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean
    assert not program_at(topology.pod)


def test_a_port_decides_where_no_name_can(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 9050), connect(topology.pod, topology.server_ipv4, 9050) as client:
        in_class(sidecar, "port", lambda: client.sendall(bytes(BODY)))


def test_answers_to_clients_are_in_the_default_class(topology: PodNodeServer, tmp_path: Path) -> None:
    """Whatever their ports, and whatever they begin with."""
    sidecar = start(topology, tmp_path)

    def ask() -> None:
        with topology.server.namespace.entered():
            client = socket.socket()
        with client:
            client.bind(("", 9002))
            client.connect((str(topology.pod_link.a.ipv4), 9001))
            swallow(client)

    with serving(topology.pod, lambda c: c.sendall(REQUEST % b"web.example.com" + bytes(BODY)), 9001):
        in_class(sidecar, "default", ask)


def test_programs_cannot_choose_their_class(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80), topology.pod.namespace.entered():
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x01000000)
        client.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, 0x00010101)
        client.connect((topology.server_ipv4, 80))
        with client:
            in_class(sidecar, "default", lambda: client.sendall(bytes(BODY)))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, 0x00010101)
        with udp:
            in_class(
                sidecar,
                "default",
                lambda: [udp.sendto(bytes(1000), (topology.server_ipv4, 7)) for _ in range(50)],
                MORE,
            )  # type: ignore[func-returns-value]


def test_a_socket_that_is_connected_again_is_another_connection(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80), topology.pod.namespace.entered():
        client = socket.socket()
        client.connect((topology.server_ipv4, 80))
        in_class(sidecar, "host", lambda: client.sendall(REQUEST % b"web.example.com" + bytes(BODY)))
        until("all to be acknowledged", lambda: not unacknowledged(client))
        # To nowhere (AF_UNSPEC) and back: connect(2).
        disconnect(client)
        client.connect((topology.server_ipv4, 80))
        with client:
            in_class(sidecar, "default", lambda: client.sendall(REQUEST % b"other.example.com" + bytes(BODY)))


def unacknowledged(client: socket.socket) -> int:
    import fcntl
    import struct

    size: int = struct.unpack("i", fcntl.ioctl(client, 0x5411, bytes(4)))[0]  # SIOCOUTQ
    return size


def disconnect(client: socket.socket) -> None:
    import ctypes

    assert ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) == 0


def test_a_name_over_several_segments_is_read_in_user_space(topology: PodNodeServer, tmp_path: Path) -> None:
    """Until it is, the port decides; and it is read again when no process was there."""
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80):
        with connect(topology.pod, topology.server_ipv4, 80) as client:
            in_pieces(client, REQUEST % b"web.example.com")
            until("the answer", lambda: sidecar.connections("host") == {"http1": 1})
            in_class(sidecar, "host", lambda: client.sendall(bytes(BODY)))
        with connect(topology.pod, topology.server_ipv4, 80) as client:
            sidecar.stop(signal.SIGKILL)
            in_pieces(client, REQUEST % b"web.example.com")
            client.sendall(bytes(1000))
            again = start(topology, tmp_path)
            until("the answer", lambda: again.connections("host") == {"http1": 1})
            in_class(again, "host", lambda: client.sendall(bytes(BODY)))
        # A policy that is in force later is what is asked.
        again.reload(POLICY.replace("web.example.com", "www.example.com"))
        with connect(topology.pod, topology.server_ipv4, 80) as client:
            in_pieces(client, REQUEST % b"www.example.com")
            until("the answer", lambda: again.connections("host") == {"http1": 2})
            in_class(again, "host", lambda: client.sendall(bytes(BODY)))


def in_pieces(client: socket.socket, data: bytes) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), 20):
        client.sendall(data[at : at + 20])


def missed_connections(host: Host) -> int:
    """How many the programs could not show, by their own counters."""
    with host.namespace.entered():
        index = socket.if_nametoindex("eth0")
        found = hook_at(index, EGRESS, Point.EGRESS).ours()
    assert found is not None
    decisions = map_of_program(found, DECISIONS)
    os.close(found)
    assert decisions is not None
    array = NumberArray(decisions, 1024)
    counts = array.read()
    array.close()
    os.close(decisions)
    return sum(counts[3::4])


FLOOD = """
import os, socket, sys
if sys.argv[1]:
    open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
for _ in range(200):
    with socket.create_connection((sys.argv[2], 80)) as client:
        client.sendall(b"G" * 3000)
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup (version 2) for another container's programs."""
    places = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    parent = next((place for place in places if (place / "cgroup.controllers").exists()), None)
    if parent is None:
        pytest.skip("no cgroup2 file system is mounted")
    group = parent / f"podlane-test-{os.getpid()}"
    group.mkdir()
    yield group
    group.rmdir()


def test_a_flood_of_what_cannot_be_read_loses_its_own(topology: PodNodeServer, tmp_path: Path, cgroup: Path) -> None:
    """While nobody reads: half of its share is full of it, and another container's connection has room."""
    start(topology, tmp_path).stop(signal.SIGKILL)
    with serving(topology.server, swallow, 80), connect(topology.pod, topology.server_ipv4, 80) as client:
        assert missed_connections(topology.pod) == 0
        topology.pod.run([sys.executable, "-c", FLOOD, str(cgroup), topology.server_ipv4])
        share = 131_072 // (72 + 3000)
        assert missed_connections(topology.pod) == 200 - share
        in_pieces(client, REQUEST % b"web.example.com")
        again = start(topology, tmp_path)
        until("the answer", lambda: again.connections("host") == {"http1": 1})
        in_class(again, "host", lambda: client.sendall(bytes(BODY)))
        # With somebody who reads there is room again; what he cannot be shown is counted as missed.
        topology.pod.run([sys.executable, "-c", FLOOD, str(cgroup), topology.server_ipv4])
        until("all of it", lambda: again.connections("default").get("opaque", 0) >= share + 200)


def test_a_request_behind_what_is_none_does_not_count(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80), connect(topology.pod, topology.server_ipv4, 80) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"\0")
        in_class(sidecar, "default", lambda: client.sendall(REQUEST % b"web.example.com" + bytes(BODY)))


def test_connections_keep_their_class_without_a_process_and_after_it(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80):
        client = connect(topology.pod, topology.server_ipv4, 80)
        fresh = connect(topology.pod, topology.server_ipv4, 80)
        client.sendall(REQUEST % b"web.example.com")
        sidecar.stop(signal.SIGKILL)
        assert program_at(topology.pod)
        client.sendall(bytes(BODY))
        fresh.sendall(REQUEST % b"web.example.com")
        again = start(topology, tmp_path)
        assert '"adopted": true' in again.log.read_text() or "adopted=true" in again.log.read_text().lower()
        with client, fresh:
            in_class(again, "host", lambda: client.sendall(bytes(BODY)))
            in_class(again, "host", lambda: fresh.sendall(bytes(BODY)))
    assert again.stop() == 0
    assert not program_at(topology.pod)


def test_a_new_policy_moves_what_ports_decide_and_keeps_what_names_have_decided(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    sidecar = start(topology, tmp_path)
    with serving(topology.server, swallow, 80), serving(topology.server, swallow, 9000):
        named = connect(topology.pod, topology.server_ipv4, 80)
        other = connect(topology.pod, topology.server_ipv4, 9000)
        with named, other:
            named.sendall(REQUEST % b"web.example.com")
            other.sendall(b"\0")
            sidecar.reload(POLICY.replace('port: "9000-9100"', "port: 9001").replace("name: sni", "name: renamed"))
            in_class(sidecar, "host", lambda: named.sendall(bytes(BODY)))
            in_class(sidecar, "default", lambda: other.sendall(bytes(BODY)))
            sidecar.reload("\n".join(line for line in POLICY.splitlines() if "web.example.com" not in line))
            in_class(sidecar, "default", lambda: named.sendall(bytes(BODY)))
            in_class(sidecar, "port", lambda: other.sendall(bytes(BODY)))


LONG = "a" * 60 + ".example.com"


def policy_of(one: str, two: str, three: str) -> str:
    """Three classes by what they ask for."""
    classes = "".join(
        f"  - {{name: {name}, rate: 10Mbit, match: {match}}}\n"
        for name, match in (("one", one), ("two", two), ("three", three))
        if match
    )
    return f"total: 1Gbit\nclasses:\n{classes}"


def test_a_new_policy_decides_again_by_the_names_of_live_connections(topology: PodNodeServer, tmp_path: Path) -> None:
    """Names of more than 64 bytes are not kept: such a connection keeps its class while that exists."""
    web, api, offers = "{host: web.example.com}", '{sni: "*.API.example.com"}', "{alpn: http/1.1, port: 443}"
    sidecar = start(topology, tmp_path, policy=policy_of(f"[{web}, {{host: {LONG}}}]", api, ""))
    with ExitStack() as stack:
        for port in (80, 443):
            stack.enter_context(serving(topology.server, swallow, port))
        clients = []
        for port, first in (
            (80, REQUEST % b"web.example.com"),
            (443, records(hello(sni(b"x.api.example.com"), alpn(b"http/1.1")))),
            (443, records(hello(sni(b"y.example.com")))),
            (80, REQUEST % LONG.encode()),
        ):
            clients.append(stack.enter_context(connect(topology.pod, topology.server_ipv4, port)))
            clients[-1].sendall(first)
        for policy, names in (
            ("", ("one", "two", "default", "one")),
            (policy_of(api, web, ""), ("two", "one", "default", "one")),
            (policy_of("{sni: y.example.com}", f"{{host: {LONG}}}", offers), ("default", "three", "one", "one")),
            (policy_of("", "{port: 80}", api), ("two", "three", "default", "two")),
        ):
            if policy:
                sidecar.reload(policy)
            for client, name in zip(clients, names, strict=True):
                in_class(sidecar, name, lambda c=client: c.sendall(bytes(BODY)))  # type: ignore[misc]


def test_a_program_that_is_taken_away_is_put_back(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start(topology, tmp_path)
    with topology.pod.namespace.entered():
        Lane("eth0").remove()
    until("it to be there again", lambda: program_at(topology.pod))
    assert "is gone, and is put back" in sidecar.log.read_text()


@pytest.mark.parametrize(("before", "after"), [("step-aside", "ebpf"), ("ebpf", "relay"), ("ebpf", "step-aside")])
def test_what_another_datapath_has_left_goes(topology: PodNodeServer, tmp_path: Path, before: str, after: str) -> None:
    clean = state_of(topology.pod)
    start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", before).stop(signal.SIGKILL)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", after)
    assert program_at(topology.pod) is (after == "ebpf")
    assert ("PODLANE" in state_of(topology.pod)) is not (after == "ebpf")
    assert sidecar.stop() == 0
    assert state_of(topology.pod) == clean


def test_cleanup_takes_programs_away(topology: PodNodeServer, tmp_path: Path) -> None:
    clean = state_of(topology.pod)
    start(topology, tmp_path).stop(signal.SIGKILL)
    assert program_at(topology.pod)
    assert refused_sidecar(topology.pod, "--cleanup")[0] == 0
    assert state_of(topology.pod) == clean
    assert not program_at(topology.pod)


def test_it_needs_no_sys_admin(topology: PodNodeServer, tmp_path: Path) -> None:
    """Without it no program or map of another process can be opened by its id; so the filter at clsact has a name."""
    clean = state_of(topology.pod)
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "ebpf", wrapped=NO_SYS_ADMIN)
    assert json.loads(sidecar.get("/classes"))["datapath"] == "ebpf"
    at = topology.server_ipv4
    with serving(topology.server, swallow, 80), connect(topology.pod, at, 80) as client:
        client.sendall(REQUEST % b"web.example.com")
        in_class(sidecar, "host", lambda: client.sendall(bytes(BODY)))
        sidecar.reload(POLICY.replace("rate: 10Mbit, match: {sni", "rate: 20Mbit, match: {sni"))
        in_class(sidecar, "host", lambda: client.sendall(bytes(BODY)))
        sidecar.stop(signal.SIGKILL)
        assert program_at(topology.pod)
        again = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "ebpf", wrapped=NO_SYS_ADMIN)
        in_class(again, "host", lambda: client.sendall(bytes(BODY)))
        until("a note", lambda: "what the programs cannot read goes by port" in again.get("/healthz"))
        again.reload(POLICY.replace('port: "9000-9100"', "port: 9001"))
        until("no note", lambda: "what the programs cannot read goes by port" not in again.get("/healthz"))
        assert "to go on with the maps of another process takes SYS_ADMIN" in again.log.read_text()
        in_class(again, "default", lambda: client.sendall(bytes(BODY)))
        with connect(topology.pod, at, 80) as new:
            new.sendall(REQUEST % b"web.example.com")
            in_class(again, "host", lambda: new.sendall(bytes(BODY)))
    assert again.stop() == 0
    assert not program_at(topology.pod)
    assert state_of(topology.pod) == clean


def test_to_open_a_program_by_its_id_takes_sys_admin(topology: PodNodeServer) -> None:
    ask = "from datapath.ebpf.libbpf import may_look_up; print(may_look_up())"
    command = [sys.executable, "-c", ask]
    assert topology.pod.run([*NO_SYS_ADMIN, *command]).stdout.strip() == "False"
    assert topology.pod.run(command).stdout.strip() == "True"


def test_without_the_privileges_it_steps_aside_and_says_why(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", "ebpf", wrapped=NO_CAP_BPF)
    assert json.loads(sidecar.get("/classes"))["datapath"] == "step-aside"
    said = sidecar.log.read_text()
    assert "datapath: ebpf is not possible here; stepping aside instead" in said
    assert "NET_ADMIN, BPF and PERFMON" in said
    with serving(topology.server, swallow, 80), connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(REQUEST % b"web.example.com" + bytes(BODY))
        until("its class", lambda: sent_bytes(sidecar)["host"] > BODY / 2)


def test_what_it_cannot_do_is_refused(topology: PodNodeServer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        POLICY.replace("host: web.example.com", "protocol: udp, port: 53, direction: inbound") + "requests: follow\n"
    )
    code, said = refused_sidecar(topology.pod, "--policy", str(policy), "--datapath", "ebpf")
    assert code == 2
    assert "requests" in said
    assert "classes[1].match[0].direction" in said


@pytest.mark.parametrize("way", [TcxHook, ClsactHook])
def test_both_hooks_hold_one_program_of_ours(topology: PodNodeServer, way: type[TcxHook] | type[ClsactHook]) -> None:
    """clsact is for kernels before 6.6; a qdisc that others have made stays."""
    maps = compile_table(TABLE, IDS, HashKeys.draw())
    with topology.pod.namespace.entered():
        hook = way(socket.if_nametoindex("eth0"), EGRESS)
        assert hook.ours() is None
        hook.detach()
        for _ in range(2):
            with load(maps) as loaded:
                hook.attach(loaded.program(EGRESS))
        found = hook.ours()
        assert found is not None
        os.close(found)
        hook.detach()
        assert hook.ours() is None


def test_maps_of_another_build_are_not_gone_on_with(topology: PodNodeServer) -> None:
    """The verdicts in them are lost, and nothing else."""
    maps = compile_table(TABLE, IDS, HashKeys.draw())
    lane, again = Lane("eth0"), Lane("eth0")
    with topology.pod.namespace.entered():
        hook = hook_at(socket.if_nametoindex("eth0"), EGRESS, Point.EGRESS)
        with BpfObject(OBJECT) as other:
            other.load({**maps.sizes, VERDICTS: 16})
            hook.attach(other.program(EGRESS))
        assert lane.put(TABLE, IDS)
        assert again.put(TABLE, IDS)
        assert lane.lasting is not None
        assert again.lasting is not None
        assert again.lasting.number == lane.lasting.number
        assert sorted(lane.lasting.fds) == sorted((*LASTING, *SHARED))
        ours, theirs = ({n: map_id(fd) for n, fd in each.lasting.fds.items()} for each in (lane, again))
        assert ours == theirs, "those of this build are"
        again.remove()
        lane.close()
        assert not hook.attached()


RUN_POLICY = """\
total: 100Mbit
classes:
  - {name: slow, rate: 1Mbit, ceil: 1Mbit, match: [{host: slow.example.test}, {sni: slow.example.test}]}
"""


@pytest.mark.parametrize("name", ["slow", "fast"])
def test_run_holds_a_command_to_its_lane(runs: RunHost, name: str) -> None:
    """150 kB take 1.2 s at 1 Mbit/s, and next to nothing in the default class."""
    runs.policy.write_text(RUN_POLICY)
    before = runs.remains()
    received: list[tuple[int, float]] = []
    done = threading.Event()

    def receive(connection: socket.socket) -> None:
        size, began = 0, 0.0
        while data := connection.recv(65536):
            began = began or time.monotonic()
            size += len(data)
        received.append((size, time.monotonic() - began))
        done.set()

    script = (
        "import socket,sys; s=socket.create_connection((sys.argv[1], 7000)); "
        "s.sendall(b'POST / HTTP/1.1\\r\\nHost: ' + sys.argv[2].encode() + b'.example.test\\r\\n\\r\\n' + bytes(150_000))"
    )
    with serving(runs.server, receive, 7000):
        ended = runs.run(
            ["python3", "-c", script, runs.server_ipv4, name], ["--datapath", "ebpf", "--log-level", "info"]
        )
        assert done.wait(20)
    assert ended.returncode == 0, ended.stderr
    assert "programs in place" in ended.stderr
    size, seconds = received[0]
    assert size > 150_000
    assert seconds > 0.9 if name == "slow" else seconds < 0.9
    assert runs.remains() == before
