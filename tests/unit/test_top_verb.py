"""``podlane top`` as a command: where it looks, what it prints, and what it says when it cannot."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon.documents.classes import Classes
from daemon.documents.codec import from_json, to_json
from daemon.documents.connections import Connection, Connections, Endpoint
from daemon.documents.node import NodeClasses, WorkloadClasses
from datapath.connection_list import ConnectionPage, LiveConnection, Order
from datapath.documents.classes import Process, classes_document
from datapath.documents.connections import connections_document
from datapath.shaping import ClassSnapshot, Received
from podlane.main import main
from podlane.tc import kernel_access
from podlane.top.admin import AdminSource, reading_of, reading_of_node
from podlane.top.interface import InterfaceSource
from podlane.top.printing import frames
from podlane.top.readings import AwayError, Reading, Source, SourceError
from sidecar.observability.counters import ConnectionCounters
from tc_core.apply.execute import apply
from tc_core.compile.mark_tree import compile_policy, leaf_handle
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.model import Observed, Tbf
from tc_core.probe.capability import ALL_FEATURES
from tc_core.stats import ClassStats
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import Datapath
from traffic_policy.units import ByteCount, Rate

MBIT = 1_000_000
STATS = ClassStats(
    bytes=1, packets=2, drops=3, overlimits=4, backlog_bytes=5, backlog_packets=6, lended=7, borrowed=8
)  # fmt: skip
SNAPSHOT = ClassSnapshot(
    "api", 1, Handle(1, 0x101), Rate(20 * MBIT), Rate(80 * MBIT), 1, STATS, Rate(0), Rate(0)
)  # fmt: skip


def through_json(document: object) -> Any:
    return json.loads(json.dumps(to_json(document)))


def read(document: Any) -> Reading:
    return reading_of(from_json(Classes, document))


def classes(read_at: float | None = 5.0, workers: int = 1) -> dict[str, Any]:
    process = Process(Datapath.RELAY, 3725.0, workers, read_at)
    counted = ConnectionCounters()
    return through_json(classes_document("eth0", Rate(100 * MBIT), [SNAPSHOT], counted.counts, process))


def test_a_reading_is_what_the_sidecar_wrote() -> None:
    reading = read(classes(workers=3))
    assert (reading.at, reading.interface, reading.total) == (5.0, "eth0", Rate(100 * MBIT))
    assert reading.details == ("relay", "3 workers", "up 1h 2m")
    [api] = reading.classes
    assert api.stats == STATS
    assert (api.key, api.name, api.rate, api.ceil, api.priority) == (
        "1:101", "api", Rate(20 * MBIT), Rate(80 * MBIT), 1,
    )  # fmt: skip
    assert (api.active, api.opened) == (0, 0)
    assert read(classes(read_at=None)).at == 0.0


def test_a_reading_of_a_node_has_the_classes_of_all_workloads() -> None:
    document = NodeClasses(
        "worker-1", "1.0", "none", 61.0,
        (
            WorkloadClasses("shop/a", "programmed", "", from_json(Classes, classes(read_at=5.0))),
            WorkloadClasses("shop/b", "programmed", "", from_json(Classes, classes(read_at=4.5))),
            WorkloadClasses("shop/c", "refused", "It asks for much.", None),
        ),
    )  # fmt: skip
    reading = reading_of_node(from_json(NodeClasses, through_json(document)))
    assert (reading.at, reading.interface, reading.total) == (5.0, "worker-1", None)
    assert reading.details == ("3 workloads, lanes of 2 in force", "up 1m 1s")
    assert reading.notes == ("shop/c refused: It asks for much.",)
    assert [(each.key, each.workload, each.name, each.at) for each in reading.classes] == [
        ("shop/a 1:101", "shop/a", "api", 5.0), ("shop/b 1:101", "shop/b", "api", 4.5),
    ]  # fmt: skip


def test_what_arrives_is_read_too() -> None:
    process = Process(Datapath.RELAY, 1.0, 1, 5.0)
    received = Received("ifb-eth0", Rate(50 * MBIT), (SNAPSHOT,))
    document = classes_document("eth0", Rate(100 * MBIT), [SNAPSHOT], ConnectionCounters().counts, process, received)
    sent, arriving = read(through_json(document)).classes
    assert (sent.arrives, arriving.arrives) == (False, True)
    assert (arriving.name, arriving.stats, arriving.active) == ("api", STATS, None)
    assert sent.key != arriving.key, "they are compared with themselves from look to look"


def test_connections_are_what_the_sidecar_wrote() -> None:
    shown = ConnectionPage(7, [
        LiveConnection("api", ("10.0.0.1", 1), ("2001:db8::1", 2), "outbound", "a.example", "tls", "relaying", 1.5, 3, 4),
        LiveConnection(None, ("10.0.0.1", 1), ("192.0.2.1", 2), "inbound", None, None, "detecting", None, None, None),
    ])  # fmt: skip
    client = Endpoint("10.0.0.1", 1)
    assert from_json(Connections, through_json(connections_document(shown, Order.NEWEST))) == Connections(7, "newest", (
        Connection("api", client, Endpoint("2001:db8::1", 2), "outbound", "a.example", "tls", "relaying", 1.5, 3, 4),
        Connection(None, client, Endpoint("192.0.2.1", 2), "inbound", None, None, "detecting", None, None, None),
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "environment", "name"),
    [
        (None, {}, "127.0.0.1:15109"),
        ("", {}, "127.0.0.1:15109"),
        ("10.0.0.7:1234", {}, "10.0.0.7:1234"),
        ("pod.example", {}, "pod.example:15109"),
        ("1234", {}, "127.0.0.1:1234"),
        (":1234", {}, "127.0.0.1:1234"),
        ("[2001:db8::1]:1234", {}, "[2001:db8::1]:1234"),
        ("[::1]", {}, "[::1]:15109"),
        ("2001:db8::1", {}, "[2001:db8::1]:15109"),
        (None, {"PODLANE_ADMIN_ADDRESS": "0.0.0.0", "PODLANE_ADMIN_PORT": "99"}, "127.0.0.1:99"),
        (None, {"PODLANE_ADMIN_ADDRESS": "::"}, "[::1]:15109"),
        ("10.0.0.7", {"PODLANE_ADMIN_PORT": "99"}, "10.0.0.7:99"),
    ],
)
def test_where_a_sidecar_is_asked(text: str | None, environment: dict[str, str], name: str) -> None:
    assert AdminSource.parse(text, environment).name == name


# --- a sidecar that answers ------------------------------------------------------------------------------------------


@contextmanager
def answering(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server with these answers; anything else is not found, in a sidecar's words."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path.partition("?")[0], (404, b"There is no such path here."))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def top(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", "--interval", "100ms", *arguments])


def good() -> dict[str, tuple[int, bytes]]:
    shown = ConnectionPage(
        1,
        [LiveConnection("api", ("10.0.0.1", 1), ("192.0.2.1", 2), "outbound", "a.example", "tls", "relaying", 1, 3, 4)],
    )
    return {
        "/classes": (200, json.dumps(classes()).encode()),
        "/connections": (200, json.dumps(to_json(connections_document(shown, Order.NEWEST))).encode()),
    }


def test_one_table_one_line_of_json_and_connections() -> None:
    with answering(good()) as address:
        done = top("--admin", address, "--once")
        assert done.exit_code == 0, done.output
        title, _, heads, api, everything = done.output.splitlines()
        assert title.split()[:4] == ["eth0", address, "total", "100Mbit"]
        assert (heads.split()[0], api.split()[0], everything.split()[0]) == ("class", "api", "all")
        lines = top("--admin", address, "--json", "--count", "2").output.splitlines()
        assert [json.loads(line)["classes"][0]["name"] for line in lines] == ["api", "api"]
        done = top("--admin", address, "--once", "--connections")
        assert done.output.splitlines()[-2].split()[:5] == ["api", "10.0.0.1:1", "192.0.2.1:2", "out", "a.example"]
        assert done.output.splitlines()[-1] == "1 connection alive, 1 of them here"
        [line] = top("--admin", address, "--json", "--count", "1", "--connections").output.splitlines()
        assert json.loads(line)["connections"][0]["server"] == "192.0.2.1:2"


def without(key: str) -> dict[str, tuple[int, bytes]]:
    document = classes()
    (document if key in document else document["classes"][0]).pop(key)
    return {"/classes": (200, json.dumps(document).encode())}


@pytest.mark.parametrize(
    ("answers", "options", "words"),
    [
        (without("read_at_seconds"), [], "is of an older version than this command, and does not tell what is needed"),
        (without("borrowed"), [], "(/classes lacks 'borrowed')"),
        ({}, [], "(there is no /classes)"),
        ({"/classes": good()["/classes"]}, ["--connections"], "(there is no /connections)"),
        ({"/classes": (404, b"<html>")}, [], "is no sidecar: it has no /classes. Name another by --admin."),
        ({"/classes": (200, b"<html>")}, [], "is no sidecar: /classes is no JSON."),
        ({"/classes": (200, b"[]")}, [], "is of an older version"),
        ({"/classes": (500, b"This answer failed; the log says why.")}, [], "cannot answer (500): This answer failed"),
    ],
    ids=["an older one", "a class of an older one", "no classes", "no connections", "a web server", "no JSON", "a list",
         "an error"],
)  # fmt: skip
def test_what_answers_otherwise_is_told_apart(
    answers: dict[str, tuple[int, bytes]], options: list[str], words: str
) -> None:
    with answering(answers) as address:
        done = top("--admin", address, "--once", *options)
    assert done.exit_code == 1
    [line] = done.output.splitlines()
    assert words in line
    assert address in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interface", "eth0", "--admin", "x"], "--interface and --admin: Look at one of them."),
        (["--interface", "eth0", "--connections"], "Only a sidecar knows connections."),
        (["--once", "--count", "2"], "Once is a count of 1."),
        (["--interval", "10"], "is not a duration"),
        (["--interval", "10ms"], "10ms is not from 100ms to 1m."),
        (["--interval", "2m"], "2m is not from 100ms to 1m."),
        (["--admin", "host:http"], "'host:http' has no port from 1 to 65535."),
        (["--admin", "host:0"], "has no port from 1 to 65535."),
        (["--sort", "speed"], "'speed' is not one of"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_misuse_ends_with_2(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["top", *arguments])
    assert done.exit_code == 2, done.output
    assert words in done.output


# --- the kernel ------------------------------------------------------------------------------------------------------

POLICY = """
total: 100Mbit
classes:
  - {name: db, rate: 20Mbit, ceil: 50Mbit, priority: 1, match: [{port: 5432, protocol: tcp}]}
"""


def shaped() -> FakeKernel:
    kernel = FakeKernel("eth0")
    policy = parse_policy(POLICY)
    ids = ClassIds.assign(["db"])
    apply(kernel, "eth0", compile_policy(policy, ALL_FEATURES, ids))
    kernel.count(leaf_handle(1), ClassStats(bytes=1000, packets=5))
    return kernel


def test_an_interface_with_lanes() -> None:
    reading = InterfaceSource(shaped(), "eth0").read()
    assert (reading.interface, reading.total) == ("eth0", Rate(100 * MBIT))
    assert [(c.name, c.rate, c.ceil, c.priority, c.stats.packets) for c in reading.classes] == [
        ("1:101", Rate(20 * MBIT), Rate(50 * MBIT), 1, 5),
        ("default", Rate(MBIT), Rate(100 * MBIT), 7, 0),
    ]
    assert {c.active for c in reading.classes} == {None}


def test_a_tree_of_somebody_else() -> None:
    kernel = FakeKernel("eth0")
    link = kernel.interfaces()["eth0"]
    kernel.put(Observed(link, (Tbf(Handle(8, 0), ROOT, Rate(5 * MBIT), ByteCount(1600), ByteCount(9000)),)))
    kernel.count(Handle(8, 0), ClassStats(bytes=9))
    reading = InterfaceSource(kernel, "eth0").read()
    assert [(c.name, c.ceil, c.stats.bytes) for c in reading.classes] == [("tbf", Rate(5 * MBIT), 9)]
    assert reading.total == Rate(5 * MBIT)


def test_an_interface_that_counts_nothing_is_shown_by_its_own_counters() -> None:
    source = InterfaceSource(FakeKernel("lo"), "lo")
    [whole] = source.read().classes
    assert whole.name == "(not shaped)"
    with pytest.raises(SourceError, match="is gone"):
        InterfaceSource(FakeKernel("eth77"), "eth77").read()
    with pytest.raises(SourceError, match="Only a sidecar knows connections"):
        source.connections(1, Order.NEWEST)


def test_a_wrong_interface_is_said_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_access, "open_kernel", lambda: FakeKernel("eth0", "eth1"))
    done = top("-i", "eth7", "--once")
    assert done.exit_code == 1
    assert "There is no interface 'eth7'" in done.output
    assert "eth0, eth1" in done.output


# --- pace ------------------------------------------------------------------------------------------------------------


class Counting:
    """A source whose clock is the test's."""

    name = "test"

    def __init__(self) -> None:
        self.now = 100.0
        self.reads: list[float] = []
        self.away_from = self.away_until = 0.0

    def read(self) -> Reading:
        self.reads.append(self.now)
        if self.away_from <= self.now < self.away_until:
            raise AwayError(f"Away at {self.now}.")
        return Reading(self.now, "eth0", None, ())

    def connections(self, limit: int, order: Order) -> ConnectionPage:
        raise AssertionError(f"frames of classes ask for no connections ({limit}, {order})")

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("interval", "looks"), [(1.0, 5), (0.1, 2), (3.0, 13)], ids=["1s", "100ms", "3s"])
def test_looks_between_frames(interval: float, looks: int) -> None:
    source = Counting()
    told: Source = source
    stream = frames(told, interval, clock=lambda: source.now, pause=source.pause)
    first = next(stream)
    assert len(source.reads) == looks
    assert first.seconds == pytest.approx(interval)
    assert next(stream).seconds == pytest.approx(interval)
    assert source.now == pytest.approx(100 + 2 * interval)


def test_while_a_source_is_away_there_are_no_frames_and_that_is_said_once() -> None:
    source, told = Counting(), list[str]()
    source.away_from, source.away_until = 100.5, 107.0
    stream = frames(source, 1.0, clock=lambda: source.now, pause=source.pause, away=told.append)
    back = next(stream)
    assert back.reading.at >= 108.0
    assert back.seconds == pytest.approx(1.0), "an interval after its return, not the whole time"
    assert told == ["Away at 100.5."]
    assert next(stream).seconds == pytest.approx(1.0)
    source.away_from, source.away_until = source.now, source.now + 2
    next(stream)
    assert len(told) == 2


def test_who_is_away_from_the_beginning_is_an_error() -> None:
    source = Counting()
    source.away_until = 200.0
    with pytest.raises(AwayError):
        next(frames(source, 1.0, clock=lambda: source.now, pause=source.pause))
