"""Bytes by which a connection was decided may not have arrived: what step-aside does until they have."""

from __future__ import annotations

import pytest
from tcp_packets import ACK, SYN, flow_of, tcp_packet
from test_stepaside_classifier import OTHERS, REQUEST, WEB, Wire, chosen, decided, routing

from datapath.protocols.detect import Reason
from datapath.stepaside.class_cache import known_marks
from traffic_policy.policy import Bound

BODY = b"x" * 50
DECOY = REQUEST.replace(b"web.", b"api.")
URG = 0x20
LIMITS = routing(
    ("web", {"host": "web.example.com", "direction": "both"}),
    ("slow", {"host": "slow.example.com", "direction": "both"}),
    ("port", {"port": 80, "direction": "both"}),
    ceils=["1Mbit", "16kbit", "80kbit"],
)
STRICTEST = 2


def limited() -> Wire:
    wire = Wire()
    wire.classifier.routing = LIMITS
    return wire


@pytest.mark.parametrize(("waiting", "arrived"), [(None, True), (len(BODY), True), (len(BODY) + 1, False)])
def test_packets_are_shown_until_what_decided_has_arrived(waiting: int | None, arrived: bool) -> None:
    wire = Wire()
    assert wire.send(tcp_packet(REQUEST)) == chosen(WEB, OTHERS)
    wire.sockets.waiting = waiting
    then = wire.send(tcp_packet(BODY, seq=1000 + len(REQUEST)))
    assert then == (decided if arrived else chosen)(WEB, OTHERS)
    assert wire.classifier.pending[0] == (not arrived)


@pytest.mark.parametrize(
    ("again", "seq"),
    [
        pytest.param(DECOY, 1000, id="all of them"),
        pytest.param(DECOY[:-2] + b"\r\n" + BODY, 1000, id="and more"),
        pytest.param(DECOY[20:30], 1020, id="some"),
        pytest.param(b"GET / ", 994, id="before the first"),
    ],
)
def test_other_bytes_in_place_of_the_first_ones_make_it_the_strictest_class(again: bytes, seq: int) -> None:
    wire = limited()
    assert wire.send(tcp_packet(REQUEST)) == chosen(1, OTHERS)
    wire.sockets.waiting = 10_000
    assert wire.send(tcp_packet(BODY, seq=1000 + len(REQUEST))) == chosen(1, OTHERS)
    packet = tcp_packet(again, seq=seq)
    assert wire.send(packet) == decided(STRICTEST, OTHERS)
    assert [each.reason for each in wire.notes.detections] == [Reason.FOUND, Reason.CONTRADICTED]
    assert wire.classifier.choose_again(flow_of(packet), decided(STRICTEST), known_marks(LIMITS)) == decided(STRICTEST)
    assert wire.classifier.pending == (0, 0)


@pytest.mark.parametrize("cut", [10, 35])
def test_and_so_they_do_before_anything_is_decided(cut: int) -> None:
    wire = limited()
    wire.send(tcp_packet(REQUEST[:cut]))
    wire.send(tcp_packet(b"POST" + REQUEST[4:cut]))
    assert wire.send(tcp_packet(REQUEST[cut:], seq=1000 + cut)) == decided(STRICTEST, OTHERS)


def test_the_same_bytes_again_do_no_harm() -> None:
    wire = Wire()
    wire.send(tcp_packet(REQUEST))
    wire.sockets.waiting = 10_000
    for at, size in ((0, len(REQUEST)), (5, 10), (-1, 1), (20, len(REQUEST))):
        again = (b"\0" + REQUEST + BODY)[1 + at : 1 + at + size]
        assert wire.send(tcp_packet(again, seq=1000 + at)) == chosen(WEB, OTHERS)


def test_data_in_the_syn_that_the_server_does_not_take_comes_again() -> None:
    wire = limited()
    wire.sockets.waiting = 10_000
    assert wire.send(tcp_packet(REQUEST, seq=999, flags=SYN)) == chosen(1, OTHERS)
    assert wire.send(tcp_packet(REQUEST)) == chosen(1, OTHERS)
    assert wire.send(tcp_packet(DECOY)) == decided(STRICTEST, OTHERS)


@pytest.mark.parametrize("cut", [0, 10])
def test_urgent_bytes_make_it_the_strictest_class(cut: int) -> None:
    """A server does not read them where they stand."""
    wire = limited()
    if cut:
        wire.send(tcp_packet(REQUEST[:cut]))
    assert wire.send(tcp_packet(REQUEST[cut:], seq=1000 + cut, flags=ACK | URG)) == decided(STRICTEST, OTHERS)
    later = limited()
    later.send(tcp_packet(REQUEST))
    assert later.send(tcp_packet(BODY, seq=1000 + len(REQUEST), flags=ACK | URG)) == decided(STRICTEST, OTHERS)


@pytest.mark.parametrize(
    ("have", "mark"),
    [
        pytest.param(len(REQUEST), decided(1), id="all"),
        pytest.param(0, decided(STRICTEST), id="what decided was dropped"),
        pytest.param(len(REQUEST) - 5, decided(STRICTEST), id="it began before the stream"),
        pytest.param(len(REQUEST) + 5, decided(3), id="some passed unseen"),
        pytest.param(None, decided(1), id="not known"),
    ],
)
def test_of_what_clients_send_the_servers_socket_is_asked(have: int | None, mark: int) -> None:
    wire = limited()
    assert wire.send(tcp_packet(REQUEST, port=80), bound=Bound.INBOUND) == chosen(1, OTHERS)
    wire.sockets.have = have
    ahead = tcp_packet(BODY, seq=1001 + len(REQUEST), port=80)
    assert wire.send(ahead, bound=Bound.INBOUND) == chosen(1, OTHERS), "behind a gap"
    assert wire.send(tcp_packet(BODY, seq=1000 + len(REQUEST), port=80), bound=Bound.INBOUND) == mark | OTHERS
