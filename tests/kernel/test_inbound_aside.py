"""Connections that clients open, where stepping aside differs from relaying: nothing depends on the classifier."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from downloads import endless
from inbound_world import (
    BLOCK,
    FAMILIES,
    GET,
    LIMITED,
    NAMES,
    PORTS_ALONE,
    World,
    answering,
    downloading,
    ended,
    said_to,
    sent_in,
)
from lab import connect, listen, serving
from netfilter_pod import NO_PYTHON_IPTABLES, installed_backends
from sidecars import RunningSidecar, refused_sidecar, start_sidecar, state_of
from test_stepaside import flush_conntrack, marks
from waiting import until

from datapath.netfilter.backend import BackendKind
from datapath.stepaside.marks import CHOSEN_OR_DECIDED, DECIDED, OPEN, SHOWN
from podlane.netns.topology import PodNodeServer
from traffic_policy.marks import class_id_of

pytestmark = pytest.mark.root

API, PORT, DEFAULT = 1, 2, 255
NAMES_AND_PORT = """
total: 1Gbit
classes:
  - {name: api, rate: 10Mbit, match: {host: api.example.com, direction: inbound}}
  - {name: port, rate: 10Mbit, match: {port: 80, direction: inbound}}
"""


@pytest.fixture(params=FAMILIES)
def world(request: pytest.FixtureRequest, topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, request.param, "step-aside")


@pytest.fixture
def ipv4(topology: PodNodeServer, tmp_path: Path) -> World:
    return World(topology, tmp_path, "ipv4", "step-aside")


def answers_in(world: World, class_id: int, more_than: int = 20) -> Callable[[], bool]:
    """Whether some packets have left in a class since now."""
    before = sent_in(world.pod, class_id)
    return lambda: sent_in(world.pod, class_id) > before + more_than


def classes_chosen(topology: PodNodeServer) -> list[int]:
    """Those of connections that a name has decided, be it for good or not yet."""
    found = (class_id_of(entry.mark) for entry in marks(topology, CHOSEN_OR_DECIDED))
    return sorted(class_id for class_id in found if class_id)


def test_programs_on_one_address_alone_are_told_apart_as_well(world: World) -> None:
    """Nothing is redirected, so that there is another one on loopback does not matter."""
    sidecar = world.sidecar(NAMES)
    with listen(world.pod, world.loopback, 9090) as private, listen(world.pod, world.address, 9090) as public:
        with world.connect(9090) as client:
            public.settimeout(10)
            accepted, (peer, *_) = public.accept()
            with accepted:
                assert (peer, accepted.getsockname()[0]) == (world.client, world.address)
                client.sendall(GET)
                assert accepted.recv(1000) == GET
        private.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            private.accept()
    assert sidecar.connections("api") == {"http1": 1}


@pytest.mark.skipif(BackendKind.PYTHON not in installed_backends(), reason=NO_PYTHON_IPTABLES)
def test_by_python_iptables_connections_are_told_apart_alike(world: World) -> None:
    sidecar = world.sidecar(NAMES, "--iptables", "python")
    assert "PODLANE-SHOW" in state_of(world.pod)
    with serving(world.pod, answering, 80), world.connect(80) as client:
        assert said_to(client) == f"{world.client} {world.address}"
        assert sidecar.connections("api") == {"http1": 1}
        assert sent_in(world.pod, API) > 0
    assert sidecar.stop() == 0
    assert "PODLANE" not in state_of(world.pod)


def test_until_the_client_has_told_answers_go_by_port(world: World) -> None:
    world.sidecar(NAMES_AND_PORT)

    def speaking_first(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"hello\r\n")
            while data := connection.recv(BLOCK):
                connection.sendall(data)

    with serving(world.pod, speaking_first, 80), world.connect(80) as client:
        assert client.recv(100) == b"hello\r\n"
        assert (sent_in(world.pod, API), sent_in(world.pod, PORT) >= 2) == (0, True), "the SYN's answer, and hello"
        for piece in (GET[:10], GET[10:]):
            client.sendall(piece)
            assert client.recv(100) == piece
        by_port = sent_in(world.pod, PORT)
        assert sent_in(world.pod, API) > 0
        for _ in range(20):
            client.sendall(b"more")
            assert client.recv(100) == b"more"
        assert (sent_in(world.pod, API) > 20, sent_in(world.pod, PORT)) == (True, by_port)


def test_both_ways_have_classes_of_their_own_and_keep_them_apart_in_a_new_policy(
    topology: PodNodeServer, ipv4: World
) -> None:
    one = "{host: api.example.com}"
    other = "{host: api.example.com, direction: inbound}"
    policy = "total: 1Gbit\nclasses: [{{name: x, rate: 1Mbit, match: {}}}, {{name: y, rate: 1Mbit, match: {}}}]"
    sidecar = ipv4.sidecar(policy.format(one, other))
    with (
        serving(ipv4.pod, answering, 80),
        serving(ipv4.outside, answering, 80),
        ipv4.connect(80) as inwards,
        connect(ipv4.pod, ipv4.client, 80) as outwards,
    ):
        for client in (inwards, outwards):
            said_to(client)
        assert (class_of(topology, inwards), class_of(topology, outwards)) == (2, 1)
        sidecar.reload(policy.format(other, one))
        assert (class_of(topology, inwards), class_of(topology, outwards)) == (1, 2)
    assert sidecar.connections("x") == sidecar.connections("y") == {"http1": 1}


def class_of(topology: PodNodeServer, client: socket.socket) -> int:
    """The class id that the connection of a client has in its mark."""
    port = client.getsockname()[1].to_bytes(2, "big")
    (mark,) = (entry.mark for entry in marks(topology, CHOSEN_OR_DECIDED) if entry.flow[-4:-2] == port)
    return class_id_of(mark)


# --- the classifier comes and goes -----------------------------------------------------------------------------------


def test_a_killed_classifier_is_missed_by_nobody(topology: PodNodeServer, ipv4: World) -> None:
    """What was decided stays decided, new connections go in the class of their port, and a restart goes on."""
    before = state_of(ipv4.pod)
    first = ipv4.sidecar(NAMES_AND_PORT)
    with serving(ipv4.pod, endless, 8080), serving(ipv4.pod, answering, 80):
        with downloading(ipv4, "api.example.com", 8080):
            until("answers in their class", answers_in(ipv4, API))
            assert first.stop(signal.SIGKILL) == -signal.SIGKILL
            until("more of them", answers_in(ipv4, API))
            with ipv4.connect(80) as client:
                by_port = answers_in(ipv4, PORT)
                for _ in range(25):
                    assert said_to(client) == f"{ipv4.client} {ipv4.address}"
                assert by_port()
                assert (classes_chosen(topology), len(marks(topology, SHOWN))) == ([API], 2)
                second = ipv4.sidecar(NAMES_AND_PORT)
                assert "adopted=True" in second.log.read_text()
                said_to(client)
                assert second.connections("port") == {"opaque": 1}, "what it began with went by unseen"
            until("yet more of them", answers_in(ipv4, API))
            with ipv4.connect(80) as client:
                said_to(client)
            assert second.connections("api") == {"http1": 1}
        assert second.stop() == 0
    assert state_of(ipv4.pod) == before


def test_the_end_leaves_connections_and_no_trace(topology: PodNodeServer, world: World) -> None:
    before = state_of(world.pod)
    sidecar = world.sidecar(NAMES)
    with serving(world.pod, answering, 80), world.connect(80) as client:
        assert said_to(client) == f"{world.client} {world.address}"
        with world.connect(80) as silent:
            assert sidecar.stop(patience=10) == 0, "there is nothing to wait for"
            assert state_of(world.pod) == before
            assert marks(topology, DECIDED) == marks(topology, OPEN) == []
            for each in (client, silent):
                assert said_to(each) == f"{world.client} {world.address}"


def test_cleanup_removes_the_marks_too(topology: PodNodeServer, ipv4: World) -> None:
    before = state_of(ipv4.pod)
    sidecar = ipv4.sidecar(NAMES)
    with serving(ipv4.pod, answering, 80), ipv4.connect(80) as client, ipv4.connect(80):
        said_to(client)
        assert sidecar.stop(signal.SIGKILL) == -signal.SIGKILL
        assert (classes_chosen(topology), len(marks(topology, OPEN))) == ([API], 2)
        assert refused_sidecar(ipv4.pod, "--cleanup") == (0, "")
        assert marks(topology, DECIDED) == marks(topology, OPEN) == []
        assert said_to(client) == f"{ipv4.client} {ipv4.address}"
    assert state_of(ipv4.pod) == before


def test_the_relay_may_start_after_a_kill(topology: PodNodeServer, world: World) -> None:
    """What was stepped aside from does not look like captured connections to it; be there rules of one family alone."""
    before = state_of(world.pod)
    policy = NAMES.replace("direction", f'source: "{world.client}", direction')
    killed = world.sidecar(policy)
    with serving(world.pod, answering, 80):
        with world.connect(80) as decided, world.connect(80) as undecided:
            said_to(decided)
            assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
            relay = start_sidecar(world.pod, policy, world.folder)
            assert marks(topology, DECIDED) == marks(topology, OPEN) == []
            for client in (decided, undecided):
                assert said_to(client) == f"{world.client} {world.address}"
        with world.connect(80) as client:
            assert said_to(client) == f"{world.client} {world.loopback}"
        assert relay.stop() == 0
    assert state_of(world.pod) == before


def test_it_may_start_after_the_relay_was_killed(ipv4: World) -> None:
    before = state_of(ipv4.pod)
    killed = start_sidecar(ipv4.pod, NAMES, ipv4.folder)
    with serving(ipv4.pod, answering, 80):
        with ipv4.connect(80) as client:
            assert said_to(client) == f"{ipv4.client} 127.0.0.1"
            assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
            assert ended(client)
        sidecar = ipv4.sidecar(NAMES)
        with ipv4.connect(80) as client:
            assert said_to(client) == f"{ipv4.client} {ipv4.address}"
        assert sidecar.connections("api") == {"http1": 1}
        assert sidecar.stop() == 0
    assert state_of(ipv4.pod) == before


# --- a new policy ----------------------------------------------------------------------------------------------------


def test_a_policy_may_gain_and_lose_inbound_names(topology: PodNodeServer, ipv4: World) -> None:
    before = state_of(ipv4.pod)
    sidecar = ipv4.sidecar(PORTS_ALONE)

    def goes_by_port(client: socket.socket) -> None:
        by_port = answers_in(ipv4, class_id(sidecar, "port"))
        for _ in range(25):
            assert said_to(client) == f"{ipv4.client} {ipv4.address}"
        assert by_port()

    with serving(ipv4.pod, answering, 9000), ipv4.connect(9000) as old:
        goes_by_port(old)
        sidecar.reload(NAMES + PORTS_ALONE.partition("classes:\n")[2])
        goes_by_port(old)
        assert marks(topology, OPEN) == [], "it was opened before"
        with ipv4.connect(9000) as client:
            said_to(client)
            assert class_of(topology, client) == class_id(sidecar, "api")
            assert sidecar.connections("api") == {"http1": 1}
            sidecar.reload(PORTS_ALONE)
            goes_by_port(client)
            until("the queue's rules to go", lambda: "NFQUEUE" not in ipv4.pod.run(["iptables-save"]).stdout)
            goes_by_port(client)
    assert sidecar.stop() == 0
    assert state_of(ipv4.pod) == before


def class_id(sidecar: RunningSidecar, name: str) -> int:
    (found,) = (each["id"] for each in json.loads(sidecar.get("/policy"))["classes"] if each["name"] == name)
    return int(found)


def test_without_memory_of_its_content_a_connection_stays_in_its_class(topology: PodNodeServer, ipv4: World) -> None:
    """A restarted classifier knows marks alone: its class while that exists, the default class when not."""
    first = ipv4.sidecar(LIMITED)
    with serving(ipv4.pod, answering, 80), ipv4.connect(80) as client:
        said_to(client, GET.replace(b"api.", b"b."))
        assert classes_chosen(topology) == [2]
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        second = ipv4.sidecar(LIMITED)
        second.reload(LIMITED.replace("host: b.", "host: other."))
        assert classes_chosen(topology) == [2]
        second.reload(LIMITED.replace("name: b", "name: other"))
        assert classes_chosen(topology) == [DEFAULT]
        said_to(client)


# --- conntrack -------------------------------------------------------------------------------------------------------


def test_a_lost_conntrack_entry_costs_the_class_and_nothing_else(ipv4: World) -> None:
    ipv4.sidecar(NAMES_AND_PORT)
    with serving(ipv4.pod, endless, 80), downloading(ipv4, "api.example.com", 80) as meter:
        until("answers in their class", answers_in(ipv4, API))
        by_port, by_nothing = answers_in(ipv4, PORT), answers_in(ipv4, DEFAULT)
        with ipv4.pod.namespace.entered():
            flush_conntrack()
        until("answers in another class", lambda: by_port() or by_nothing())
        seen = meter.total
        until("more bytes", lambda: meter.total > seen + 1_000_000)


def test_untracked_connections_are_left_alone(ipv4: World) -> None:
    """Nobody can tell without an entry what is an answer, so their port is the client's."""
    for chain in ("OUTPUT", "PREROUTING"):
        ipv4.pod.run(["iptables", "-t", "raw", "-A", chain, "-p", "tcp", "-j", "CT", "--notrack"])
    sidecar = ipv4.sidecar(NAMES_AND_PORT)
    with serving(ipv4.pod, answering, 80), ipv4.connect(80) as client:
        assert said_to(client) == f"{ipv4.client} {ipv4.address}"
    assert sidecar.connections("api") == {}
    assert sent_in(ipv4.pod, API) == 0
