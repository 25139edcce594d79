"""The first request of an HTTP/2 connection that goes on before it is there: told of once, nothing lost."""

from __future__ import annotations

import itertools

import pytest
from cutting import begins, pieces_of
from h2.config import H2Configuration
from h2.connection import H2Connection

from datapath.protocols.detect import Detection, Detector, Protocol, Reason
from datapath.protocols.http2_requests import FirstRequestCutter, is_unnamed
from datapath.protocols.sniff import HTTP2_PREFACE

NONSENSE = b"\0\0\x05\x01\x04\0\0\0\x01" + b"\xff" * 5


def stream(*hosts: str) -> tuple[bytes, int]:
    """What a client sends that makes these requests, and how long its greeting is."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    greeting = len(data := connection.data_to_send())
    for host in hosts:
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/")]
        connection.send_headers(connection.get_next_available_stream_id(), fields)
        connection.send_data(connection.get_next_available_stream_id() - 2, b"body", end_stream=True)
        data += connection.data_to_send()
    return bytes(data), greeting


SENT, GREETING = stream("a.example", "b.example")


def test_the_first_request_is_told_of_wherever_the_stream_is_cut() -> None:
    for place in range(len(SENT)):
        assert begins(pieces_of(FirstRequestCutter, SENT, (place,))) == [(GREETING, "a.example")]


def test_and_byte_by_byte() -> None:
    assert begins(pieces_of(FirstRequestCutter, SENT, tuple(range(1, len(SENT))))) == [(GREETING, "a.example")]


@pytest.mark.parametrize("places", [(), (GREETING,), (GREETING + 4,)], ids=["at once", "after the greeting", "inside"])
def test_what_cannot_be_decoded_tells_of_nothing(places: tuple[int, ...]) -> None:
    assert begins(pieces_of(FirstRequestCutter, SENT[:GREETING] + NONSENSE + SENT[GREETING:], places)) == []


def test_a_greeting_alone_awaits_the_server() -> None:
    """Neither half a greeting, nor a request on its way, nor what is no HTTP/2."""
    waits = {}
    for size in (len(HTTP2_PREFACE) - 1, len(HTTP2_PREFACE), GREETING - 1, GREETING, GREETING + 1):
        detector = Detector()
        assert detector.feed(SENT[:size]) is None
        waits[size - GREETING] = detector.awaits_server
    assert [size for size, waiting in waits.items() if waiting] == [0]
    for other in (b"GET / HT", b"\x16\x03\x01"):
        detector = Detector()
        assert detector.feed(other) is None
        assert not detector.awaits_server


@pytest.mark.parametrize(("protocol", "reason"), [*itertools.product(Protocol, Reason)])
def test_unnamed_is_http2_that_had_no_time(protocol: Protocol, reason: Reason) -> None:
    expected = (protocol, reason) == (Protocol.HTTP2, Reason.TIMEOUT)
    assert is_unnamed(Detection(protocol, reason)) == expected
