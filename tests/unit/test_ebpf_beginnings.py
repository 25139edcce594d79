"""What programs could not read is read in user space: verdicts, bounds, and a share for each origin."""

from __future__ import annotations

import random
import struct

import pytest
from first_bytes import hello, records, sni

from datapath.ebpf.beginnings import Beginning, Beginnings, SocketVerdict
from datapath.protocols.detect import Detection, Reason
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy

POLICY = TrafficPolicy.model_validate(
    {
        "total": "1Gbit",
        "classes": [
            {"name": "api", "rate": "8kbit", "ceil": "1Mbit", "match": [{"sni": "api.example.com"}]},
            {"name": "web", "rate": "8kbit", "ceil": "8kbit", "match": [{"host": "web.example.com"}]},
            {"name": "port", "rate": "8kbit", "match": [{"port": 9000}]},
        ],
    }
)
API, WEB, BY_PORT = 1, 2, 0
HELLO = records(hello(sni(b"api.example.com")))
REQUEST = b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
FIRST = 0xFFFFFFF0
"""The sequence number of the first byte: soon after, numbers begin anew."""


class Seen:
    def __init__(self) -> None:
        self.detections: list[Detection] = []
        self.classes: list[str] = []

    def detected(self, detection: Detection, seconds: float) -> None:
        assert seconds >= 0
        self.detections.append(detection)

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        assert len(flow) in (12, 36)
        assert known.detection is self.detections[-1]
        self.classes.append(chosen.class_name)

    def lost_lines(self, count: int) -> None:
        raise AssertionError(count)


class Reader:
    def __init__(self, **limits: int) -> None:
        self.seen = Seen()
        routing = Routing(RoutingTable.from_policy(POLICY), ClassIds.assign(c.name for c in POLICY.classes))
        self.beginnings = Beginnings(routing, self.seen, detection_timeout=1.0, **limits)
        self.now = 100.0

    def show(
        self, data: bytes, at: int = 0, *, cookie: int = 1, origin: int = 7, port: int = 80, first: int = FIRST
    ) -> list[SocketVerdict]:
        flow = bytes([10, 0, 0, 1, 192, 0, 2, 1]) + struct.pack("!HH", 40_000, port)
        return self.beginnings.take(Beginning(cookie, origin, first, (first + at) % 2**32, flow, data), self.now)


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_names_are_remembered_by_connection_and_bounded(reader: Reader) -> None:
    reader.show(HELLO[:50])
    assert reader.beginnings.known(1, FIRST) is None
    reader.show(HELLO[50:], 50)
    assert reader.beginnings.known(1, FIRST) == ("tls", "api.example.com")
    assert reader.beginnings.known(1, FIRST + 1) is None, "the socket was connected again"
    reader.show(b"\0\1\2", cookie=2)
    assert reader.beginnings.known(2, FIRST) is None, "there was no name"
    for cookie in range(3, 3 + 1024):
        reader.show(REQUEST, cookie=cookie)
    assert reader.beginnings.known(1026, FIRST) == ("http1", "web.example.com")
    assert reader.beginnings.known(1, FIRST) is None, "forgotten for others"


@pytest.mark.parametrize(("data", "class_id"), [(HELLO, API), (REQUEST, WEB)])
@pytest.mark.parametrize("piece", [1, 7, 100])
def test_pieces_in_any_order_are_put_together(reader: Reader, data: bytes, class_id: int, piece: int) -> None:
    pieces = [(at, data[at : at + piece]) for at in range(0, len(data), piece)]
    random.Random(piece).shuffle(pieces)
    found = [verdict for at, part in pieces for verdict in reader.show(part, at)]
    assert found == [SocketVerdict(1, FIRST, class_id)]
    assert (reader.beginnings.undecided, reader.beginnings.held) == (0, 0)
    assert reader.seen.classes == ["api" if class_id == API else "web"]


def test_copies_that_come_after_the_verdict_begin_nothing(reader: Reader) -> None:
    assert reader.show(HELLO)
    assert reader.show(b"more", len(HELLO)) == []
    assert reader.show(HELLO) == []
    assert reader.beginnings.undecided == 0
    # The same socket, connected again.
    assert reader.show(REQUEST, first=5) == [SocketVerdict(1, 5, WEB)]


def test_what_has_no_name_goes_by_port(reader: Reader) -> None:
    assert reader.show(b"SSH-2.0-x\r\n", port=9000) == [SocketVerdict(1, FIRST, BY_PORT)]
    assert reader.seen.classes == ["port"]


def test_two_stories_lead_to_the_strictest_class(reader: Reader) -> None:
    assert reader.show(HELLO[:20]) == []
    other = HELLO[:10] + bytes(byte ^ 1 for byte in HELLO[10:20]) + HELLO[20:]
    found = reader.show(other)
    assert [verdict.class_id for verdict in found] == [WEB]
    assert [each.reason for each in reader.seen.detections] == [Reason.CONTRADICTED]


def test_what_stops_in_the_middle_is_given_up(reader: Reader) -> None:
    reader.show(HELLO[:20])
    reader.show(HELLO[:20], cookie=2)
    reader.now += 1.5
    assert reader.show(HELLO[20:40], 20) == [SocketVerdict(1, FIRST, BY_PORT)]
    assert reader.beginnings.give_up_silent(reader.now) == []
    reader.now += 60
    assert reader.beginnings.give_up_silent(reader.now) == [SocketVerdict(2, FIRST, BY_PORT)]
    assert reader.beginnings.undecided == 0
    assert {each.reason for each in reader.seen.detections} == {Reason.TIMEOUT}


def test_one_origin_loses_only_its_own() -> None:
    reader = Reader(max_openings=400)
    assert reader.show(HELLO[:20], cookie=1, origin=1) == []
    given_up = [v for i in range(1000) for v in reader.show(HELLO[:20], cookie=100 + i, origin=2)]
    assert [verdict.cookie for verdict in given_up] == list(range(100, 1000))
    assert reader.show(HELLO[20:], 20, cookie=1, origin=1) == [SocketVerdict(1, FIRST, API)]


def test_many_origins_share_the_room() -> None:
    reader = Reader(max_openings=400, max_held=400_000)
    for origin in range(50):
        for i in range(20):
            reader.show(HELLO[:20], cookie=origin * 100 + i, origin=origin)
            assert reader.beginnings.undecided <= 400
    for origin in range(50):
        reader.show(HELLO[:5] + bytes(50_000), cookie=origin, origin=origin, first=9)
        assert reader.beginnings.held <= 400_000


def test_a_record_of_the_ring_is_read() -> None:
    mapped = bytes(10) + b"\xff\xff"
    record = struct.pack("=QQII", 5, 6, 7, 8) + mapped + bytes([10, 0, 0, 1]) + mapped + bytes([10, 0, 0, 2])
    record += struct.pack("!HH", 40_000, 443) + struct.pack("=HBBI4x", 3, 1, 1, 9) + b"abcxxxx"
    found = Beginning.read(record)
    assert found == Beginning(
        5, 6, 7, 8, bytes([10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack("!HH", 40_000, 443), b"abc", Bound.INBOUND, 9
    )
    six = struct.pack("=QQII", 5, 6, 7, 8) + bytes(range(32)) + record[56:]
    assert len(Beginning.read(six).flow) == 36
    assert SocketVerdict(5, 7, 3).entry == (struct.pack("=Q", 5), struct.pack("=II", 7, 3))
