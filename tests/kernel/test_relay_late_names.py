"""HTTP/2 clients that wait for the server's SETTINGS before their first request: heard at once, named by it when it comes."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from proxy_harness import PATIENCE, Bench, bench, read_exactly

CLASSES = """
total: 1Gbit
classes:
  - {name: a, rate: 1Mbit, ceil: 10Mbit, match: {host: a.example}}
  - {name: b, rate: 1Mbit, ceil: 20Mbit, match: {host: b.example}}
default: {rate: 1Mbit, ceil: 5Mbit}
"""
FOLLOW = CLASSES.replace("total: 1Gbit", "total: 1Gbit\nrequests: follow")
NONSENSE = b"\0\0\x05\x01\x04\0\0\0\x01" + b"\xff" * 5
FOR_EVER = 2 * PATIENCE
"""A detection timeout that no test waits for: whoever is served was not held up by it."""


class Client:
    """Writes HTTP/2 as gRPC's core library does: a greeting, and requests when the server has said something."""

    def __init__(self) -> None:
        self._connection = H2Connection(H2Configuration(client_side=True))
        self._connection.initiate_connection()
        self.greeting = bytes(self._connection.data_to_send())

    def get(self, host: str) -> bytes:
        """A request on a new stream."""
        number = self._connection.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/")]
        self._connection.send_headers(number, fields, end_stream=True)
        return bytes(self._connection.data_to_send())


def moves(made: Bench) -> list[tuple[str, str]]:
    return [(old, new) for old, new, *_ in made.recorder.moves]


@pytest.mark.parametrize("policy", [CLASSES, FOLLOW], ids=["the first request decides", "every request"])
def test_the_server_is_heard_at_once_and_the_first_request_decides(policy: str) -> None:
    stream = Client()
    with bench(policy, detection_timeout=FOR_EVER) as made:
        client, server = made.pair(stream.greeting)
        assert made.recorder.routes == ["default"]
        server.sendall(b"settings")
        assert read_exactly(client, 8) == b"settings"
        request = stream.get("b.example")
        client.sendall(request)
        # The mark was there before the first byte was. It is laxer than what the port gave, too.
        assert read_exactly(server, 1) == request[:1]
        assert moves(made) == [("default", "b")]
        assert read_exactly(server, len(request) - 1) == request[1:]
        for host in ("a.example", "b.example"):
            request = stream.get(host)
            client.sendall(request)
            assert read_exactly(server, len(request)) == request
        assert moves(made) == [("default", "b")] + ([("b", "a")] if policy is FOLLOW else [])
        client.close()
        server.close()
        summary = made.recorder.closed_one()
        assert summary.detection.host == ("a.example" if policy is FOLLOW else "b.example")


def test_a_greeting_in_pieces_and_a_request_in_pieces() -> None:
    stream = Client()
    with bench(CLASSES, detection_timeout=FOR_EVER) as made:
        client = made.proxy.client()
        for at in range(len(stream.greeting)):
            client.sendall(stream.greeting[at : at + 1])
        server = made.accept()
        assert read_exactly(server, len(stream.greeting)) == stream.greeting
        request = stream.get("a.example") + b"data"
        for at in range(len(request)):
            client.sendall(request[at : at + 1])
        assert read_exactly(server, len(request)) == request
        assert moves(made) == [("default", "a")]


def test_what_cannot_be_read_stays_in_the_class_of_its_port() -> None:
    stream = Client()
    with bench(CLASSES, detection_timeout=FOR_EVER) as made:
        client, server = made.pair(stream.greeting)
        client.sendall(NONSENSE + b"more")
        assert read_exactly(server, len(NONSENSE) + 4) == NONSENSE + b"more"
        assert moves(made) == []
        assert made.recorder.doubts == []


def test_a_client_that_ends_without_a_request_ends_with_the_server() -> None:
    stream = Client()
    with bench(CLASSES, detection_timeout=FOR_EVER) as made:
        client, server = made.pair(stream.greeting)
        client.sendall(NONSENSE[:12])  # a part of a frame, held back
        client.close()
        assert read_exactly(server, 100) == NONSENSE[:12]
        server.close()
        assert made.recorder.closed_one().bytes_up == len(stream.greeting) + 12


def test_a_reload_finds_the_name_that_came_late() -> None:
    stream = Client()
    with bench(CLASSES, detection_timeout=FOR_EVER) as made:
        client, server = made.pair(stream.greeting)
        request = stream.get("b.example")
        client.sendall(request)
        assert read_exactly(server, len(request)) == request
        made.proxy.follow(CLASSES.replace("name: b", "name: c"))
        assert moves(made) == [("default", "b"), ("b", "c")]
