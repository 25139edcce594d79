"""Connections whose requests are followed: each goes out in its own class, byte for byte."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from proxy_harness import Bench, bench, read_exactly, read_to_end, with_patience
from waiting import until

from datapath.routing.flow import Destination
from sidecar.transport.observer import ConnectionOutcome
from traffic_policy.marks import OWN, class_mark
from traffic_policy.policy import Bound

CLASSES = """
total: 1Gbit
requests: follow
classes:
  - {name: a, rate: 1Mbit, ceil: 10Mbit, match: {host: a.example}}
  - {name: b, rate: 1Mbit, ceil: 20Mbit, match: [{host: b.example}, {sni: b.example}]}
"""
STRICT = CLASSES.replace("requests: follow", "requests: follow-strictly")
FIRST = CLASSES.replace("requests: follow\n", "")
A = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
B = b"GET /b HTTP/1.1\r\nHost: b.example\r\n\r\n"
OTHER = b"GET /o HTTP/1.1\r\nHost: other.example\r\n\r\n"
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
DOUBTFUL = b"POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc"


def moves(made: Bench) -> list[tuple[str, str]]:
    return [(old, new) for old, new, *_ in made.recorder.moves]


def marks(made: Bench) -> list[int]:
    """The class ids that sockets were marked with after they had been dialled."""
    return [(mark & ~OWN.value) >> 24 for _, mark in made.proxy.kernel_sockets.remarks]  # type: ignore[attr-defined]


def answer(client: socket.socket, server: socket.socket, text: bytes = NOTHING) -> None:
    """The server answers, and the client has it."""
    server.sendall(text)
    assert read_exactly(client, len(text)) == text


def test_each_request_goes_out_in_its_class() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        assert (made.recorder.routes, moves(made)) == (["a"], [])
        for request, new in ((B, "b"), (B, "b"), (OTHER, "default"), (A, "a")):
            answer(client, server)
            client.sendall(request)
            # The mark was there before the first byte was.
            assert read_exactly(server, 1) == b"G"
            assert made.recorder.moves[-1][1] == new
            assert read_exactly(server, len(request) - 1) == request[1:]
        assert moves(made) == [("a", "b"), ("b", "default"), ("default", "a")]
        assert marks(made) == [2, 255, 1]
        client.close()
        server.close()
        assert made.recorder.closed_one().detection.host == "a.example"


@pytest.mark.parametrize(
    "header",
    [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"],
    ids=["version 1", "version 2"],
)
@pytest.mark.parametrize("policy", [CLASSES, STRICT], ids=["follow", "strictly"])
def test_a_load_balancers_header_is_no_request(header: bytes, policy: str) -> None:
    with bench(policy) as made:
        client, server = made.pair(header + A)
        answer(client, server)
        client.sendall(B)
        assert read_exactly(server, len(B)) == B
        assert (made.recorder.routes, moves(made)) == (["a"], [("a", "b")])
        client.close()
        server.close()
        summary = made.recorder.closed_one()
        assert (summary.outcome, summary.bytes_up) == (ConnectionOutcome.COMPLETE, len(header + A + B))


def test_bytes_are_counted_in_the_class_in_which_they_went() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        answer(client, server)
        client.sendall(B + B)
        assert read_exactly(server, 2 * len(B)) == B + B
        client.sendall(A)
        assert read_exactly(server, len(A)) == A
        client.close()
        server.close()
        summary = made.recorder.closed_one()
        assert [up for _, _, up, _ in made.recorder.moves] == [len(A), 2 * len(B)]
        assert summary.bytes_up - summary.told_up == len(A)


def test_pipelined_requests_go_out_in_order_in_the_strictest_class_until_that_is_answered() -> None:
    with bench(CLASSES) as made:
        client = made.proxy.client()
        client.sendall(B + A + B + OTHER)
        server = made.accept()
        assert read_exactly(server, len(A + B + OTHER + B)) == B + A + B + OTHER
        answer(client, server)
        answer(client, server)
        assert moves(made) == [("b", "a")]
        answer(client, server)
        made.recorder.wait(lambda: moves(made) == [("b", "a"), ("a", "default")])


def test_a_stricter_class_is_taken_at_once_and_cancels_a_laxer_one() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(B)
        client.sendall(OTHER + A)
        assert read_exactly(server, len(OTHER + A)) == OTHER + A
        answer(client, server, NOTHING * 3)
        client.sendall(A)
        assert read_exactly(server, len(A)) == A
        assert moves(made) == [("b", "a")]


LITTLE = 4096
"""SO_RCVBUF of one who reads late."""


def test_what_a_server_has_not_acknowledged_keeps_its_class() -> None:
    """Though it has answered: the rest of the body is in the socket that would get another mark."""
    upload = b"PUT /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
    with bench(CLASSES) as made:
        made.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        client = made.proxy.client()
        client.sendall(upload + B)
        server = made.accept()
        answer(client, server)
        (connection,) = made.proxy.server._context.live
        assert connection.tracking.wanted is not None
        assert moves(made) == []
        assert read_exactly(server, len(upload + B)) == upload + B
        answer(client, server)
        made.recorder.wait(lambda: moves(made) == [("a", "b")])


def test_what_a_client_has_not_acknowledged_keeps_its_class() -> None:
    """Answers are shaped on connections that clients opened."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
    inbound = Destination.parse("203.0.113.7", 8080, bound=Bound.INBOUND)
    with bench(CLASSES.replace("host:", "direction: inbound, host:"), destination=inbound) as made:
        client = with_patience(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        client.connect(made.proxy.addresses[0])
        client.sendall(A + B)
        server = made.accept()
        assert read_exactly(server, len(A + B)) == A + B
        server.sendall(long + NOTHING)
        (connection,) = made.proxy.server._context.live
        until("the answers in the proxy's socket", lambda: connection.pair.down.count == len(long + NOTHING))
        assert moves(made) == []
        assert read_exactly(client, len(long + NOTHING)) == long + NOTHING
        client.sendall(B)
        assert read_exactly(server, len(B)) == B
        assert moves(made) == [("a", "b")]


def test_an_answer_that_nobody_can_follow_ends_the_way_back() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        answer(client, server, NOTHING + NOTHING)
        for request in (B, A, OTHER):
            client.sendall(request)
            assert read_exactly(server, len(request)) == request
            answer(client, server)
        assert moves(made) == []
        assert made.recorder.doubts == []


def test_a_large_answer_is_spliced_and_its_end_is_seen() -> None:
    body = random.Random(5).randbytes(20_000_000)
    long = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        (connection,) = made.proxy.server._context.live
        for request, new in ((B, "b"), (A, "a"), (OTHER, "default")):
            sending = threading.Thread(target=server.sendall, args=(long,))
            sending.start()
            assert read_exactly(client, len(long)) == long
            sending.join()
            client.sendall(request)
            assert read_exactly(server, len(request)) == request
            assert made.recorder.moves[-1][1] == new
        assert connection.pair.down.bounded, "it was not spliced"


def test_the_first_one_decides_unless_the_policy_says_otherwise() -> None:
    with bench(FIRST) as made:
        client, server = made.pair(A)
        client.sendall(B)
        assert read_exactly(server, len(B)) == B
        assert moves(made) == []


def test_where_one_class_is_all_there_is_nothing_is_followed() -> None:
    """An ambiguous request is then nobody's business."""
    with bench("total: 1Gbit\nrequests: follow-strictly\nclasses: [{name: a, rate: 1Mbit, match: {port: 8080}}, {name: b, rate: 1Mbit, match: {host: b.example}}]") as made:  # fmt: skip
        _client, server = made.pair(DOUBTFUL)
        assert made.recorder.routes == ["a"]
        assert made.recorder.doubts == []
        server.close()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_in_small_pieces_arrives_as_it_was(size: int) -> None:
    body = random.Random(size).randbytes(3000)
    chunked = b"POST /p HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += (
        b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 700]), body[i : i + 700]) for i in range(0, 3000, 700))
        + b"0\r\n\r\n"
    )
    stream = A + b"POST /q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3000\r\n\r\n" + body + chunked + OTHER + A
    with bench(CLASSES) as made:
        client = made.proxy.client()
        for at in range(0, len(stream), size):
            client.sendall(stream[at : at + size])
        client.shutdown(socket.SHUT_WR)
        server = made.accept()
        assert read_to_end(server) == stream
        assert moves(made) == [], "nothing was answered"


def test_a_large_body_to_a_slow_reader_arrives_whole_and_is_not_hoarded() -> None:
    body = random.Random(3).randbytes(30_000_000)
    stream = b"PUT /x HTTP/1.1\r\nHost: b.example\r\nContent-Length: %d\r\n\r\n" % len(body) + body + A
    with bench(CLASSES) as made:
        client = made.proxy.client()
        client.setblocking(False)
        sent = client.send(stream)
        server = made.accept()
        stuck = sent
        with contextlib.suppress(BlockingIOError):
            while True:  # until nobody on the way takes any more
                stuck += client.send(stream[stuck:])
        assert stuck < len(stream) / 2
        client.settimeout(20)
        sending = threading.Thread(target=client.sendall, args=(memoryview(stream)[stuck:],))
        sending.start()
        assert read_exactly(server, len(stream)) == stream
        sending.join()
        assert moves(made) == [("b", "a")]


# --- doubt -----------------------------------------------------------------------------------------------------------


def test_what_can_be_read_in_two_ways_goes_on_in_the_strictest_class() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(B)
        client.sendall(DOUBTFUL + OTHER)
        assert read_exactly(server, len(DOUBTFUL + OTHER)) == DOUBTFUL + OTHER
        client.sendall(B)
        assert read_exactly(server, len(B)) == B
        assert moves(made) == [("b", "a")]
        assert len(made.recorder.doubts) == 1
        server.sendall(b"answer")
        assert read_exactly(client, 6) == b"answer"


def test_or_is_refused_if_the_policy_says_so() -> None:
    with bench(STRICT) as made:
        client, server = made.pair(B)
        client.sendall(A + DOUBTFUL)
        assert made.recorder.closed_one().outcome is ConnectionOutcome.AMBIGUOUS
        got = b""
        with contextlib.suppress(ConnectionResetError):
            got = read_exactly(server, 10_000)
        assert DOUBTFUL[:1] not in got
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert made.proxy.server.active == 0


def test_a_refusal_in_the_last_bytes_of_a_reset_client_is_one_end_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with bench(STRICT) as made:
        client, _server = made.pair(B)

        def say_it_and_go() -> None:  # in the proxy's thread, so that it sees both at once
            client.sendall(DOUBTFUL)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()

        made.proxy.call(say_it_and_go)
        assert made.recorder.closed_one().outcome is ConnectionOutcome.AMBIGUOUS
        assert made.proxy.server.active == 0
        assert len(made.recorder.summaries) == 1
    assert "given up" not in capfd.readouterr().out


def test_a_first_request_that_is_ambiguous_is_in_the_strictest_class_at_once() -> None:
    hello = B.replace(b"\r\n", b"\n")
    with bench(CLASSES) as made:
        made.pair(hello)
        assert made.recorder.routes == ["b"], "by its name"
        assert moves(made) == [("b", "a")], "but before its first byte was sent"


def test_a_reload_leaves_a_doubtful_connection_in_the_strictest_class() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(DOUBTFUL)
        made.proxy.follow(CLASSES.replace("ceil: 10Mbit", "ceil: 30Mbit"))
        assert moves(made) == [("b", "a"), ("a", "b")]
        client.close()
        server.close()


def test_a_reload_goes_by_the_last_request() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        answer(client, server)
        client.sendall(B)
        assert read_exactly(server, len(B)) == B
        made.proxy.follow(CLASSES.replace("host: b.example", "host: x.example"))
        assert moves(made) == [("a", "b"), ("b", "default")]
        assert marks(made)[-1] == class_mark(255).value >> 24


# --- HTTP/2 ------------------------------------------------------------------------------------------------------------


class Http2:
    """An HTTP/2 client's stream, request by request."""

    def __init__(self, *, upgraded: bool = False) -> None:
        self._connection = H2Connection(H2Configuration(client_side=True))
        if upgraded:
            self._connection.initiate_upgrade_connection()
        else:
            self._connection.initiate_connection()

    def get(self, host: str) -> bytes:
        number = self._connection.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")]
        self._connection.send_headers(number, fields, end_stream=True)
        return bytes(self._connection.data_to_send())


def test_an_http2_connection_belongs_to_the_strictest_of_its_requests() -> None:
    """Its streams share one socket: were it to go back, what is still on its way for the strict one would go along."""
    stream = Http2()
    with bench(CLASSES) as made:
        client, server = made.pair(stream.get("other.example"))
        for host in ("b.example", "other.example", "a.example", "b.example"):
            request = stream.get(host)
            client.sendall(request)
            assert read_exactly(server, len(request)) == request
        assert made.recorder.routes == ["default"]
        assert moves(made) == [("default", "b"), ("b", "a")]
        server.sendall(b"frames")
        assert read_exactly(client, 6) == b"frames"


def test_what_http2_cannot_be_is_in_the_strictest_class_too() -> None:
    stream = Http2()
    nonsense = b"\0\0\x05\x01\x04\0\0\0\x03" + b"\xff" * 5
    with bench(CLASSES) as made:
        client, server = made.pair(stream.get("other.example"))
        client.sendall(nonsense + b"more")
        assert read_exactly(server, len(nonsense) + 4) == nonsense + b"more"
        assert moves(made) == [("default", "a")]
        assert len(made.recorder.doubts) == 1
    with bench(STRICT) as made:
        client, _ = made.pair(Http2().get("b.example"))
        client.sendall(nonsense)
        assert made.recorder.closed_one().outcome is ConnectionOutcome.AMBIGUOUS


# --- other protocols, and ends ---------------------------------------------------------------------------------------


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: b.example\r\nUpgrade: %b\r\nConnection: Upgrade\r\n\r\n"
WEBSOCKET = UPGRADE % b"websocket"
CONNECT = b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
ASKING = pytest.mark.parametrize(
    ("asking", "granted"), [(WEBSOCKET, SWITCHING), (CONNECT, ESTABLISHED)], ids=["Upgrade", "CONNECT"]
)


@ASKING
def test_a_switched_connection_stays_where_it_is(asking: bytes, granted: bytes) -> None:
    with bench(STRICT) as made:
        client, server = made.pair(A)
        answer(client, server)
        client.sendall(asking)
        assert read_exactly(server, len(asking)) == asking
        answer(client, server, granted)
        for frame in (b"\x81\x85abcdhello", A, OTHER, b"\x00" * 100_000):
            client.sendall(frame)
            assert read_exactly(server, len(frame)) == frame
        assert (moves(made), made.recorder.doubts) == ([("a", "b")], [])


@ASKING
@pytest.mark.parametrize("policy", [CLASSES, STRICT], ids=["follow", "strictly"])
def test_who_only_asks_for_a_switch_is_still_followed(asking: bytes, granted: bytes, policy: str) -> None:
    refused = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"  # to CONNECT: by a server that knows no CONNECT
    with bench(policy) as made:
        client, server = made.pair(asking)
        answer(client, server, refused)
        client.sendall(A)
        assert read_exactly(server, len(A)) == A
        assert moves(made) == [("b", "a")]
        client.sendall(DOUBTFUL)
        made.recorder.wait(lambda: bool(made.recorder.doubts))
    with bench(policy) as made:
        client, server = made.pair(asking)
        client.sendall(A.replace(b"\r\n", b"\n"))
        made.recorder.wait(lambda: bool(made.recorder.doubts))
        if policy is CLASSES:
            answer(client, server, granted)
            client.sendall(OTHER)
            made.recorder.wait(lambda: bool(made.recorder.moves))
            assert moves(made) == [("b", "a")]


def test_what_came_before_the_switch_is_not_held_back_for_ever() -> None:
    """It could have become a request's head."""
    with bench(CLASSES) as made:
        client, server = made.pair(CONNECT)
        client.sendall(b"EHLO example.net\r\n")
        answer(client, server, ESTABLISHED)
        assert read_exactly(server, 18) == b"EHLO example.net\r\n"
        assert (moves(made), made.recorder.doubts) == ([], [])


def test_a_request_that_was_taken_for_one_behind_a_switch_has_no_say() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(WEBSOCKET)
        client.sendall(OTHER)
        assert read_exactly(server, len(OTHER)) == OTHER
        answer(client, server, SWITCHING)
        client.sendall(OTHER)
        assert read_exactly(server, len(OTHER)) == OTHER
        assert moves(made) == []


@pytest.mark.parametrize("policy", [CLASSES, STRICT], ids=["follow", "strictly"])
def test_http2_by_upgrade_is_followed(policy: str) -> None:
    """RFC 7540 3.2: the request that asked is stream 1, and the client's preface comes after 101."""
    stream = Http2(upgraded=True)
    with bench(policy) as made:
        client, server = made.pair(UPGRADE.replace(b"b.example", b"other.example") % b"h2c")
        answer(client, server, SWITCHING.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\n\r\n"))
        for host in ("b.example", "other.example", "a.example", "b.example"):
            request = stream.get(host)
            client.sendall(request)
            assert read_exactly(server, len(request)) == request
        assert moves(made) == [("default", "b"), ("b", "a")]
        assert made.recorder.doubts == []


def test_continue_and_early_answers_pass() -> None:
    head = b"POST / HTTP/1.1\r\nHost: b.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        answer(client, server)
        client.sendall(head)
        assert read_exactly(server, len(head)) == head
        answer(client, server, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(b"he")
        answer(client, server, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        client.sendall(b"llo" + OTHER)
        assert read_exactly(server, 5 + len(OTHER)) == b"hello" + OTHER
        assert moves(made)[0] == ("a", "b")
        answer(client, server)
        made.recorder.wait(lambda: moves(made) == [("a", "b"), ("b", "default")])


def test_half_a_head_goes_on_when_no_more_can_come() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        client.sendall(B[:20])
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(server) == B[:20]
        server.sendall(b"never mind")
        server.close()
        assert read_to_end(client) == b"never mind"
        assert made.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE


def test_the_server_may_end_first() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        server.sendall(NOTHING)
        server.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == NOTHING
        client.sendall(B)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(server) == B
        assert made.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE
        assert moves(made) == [("a", "b")]


def test_a_reset_in_the_middle_of_a_head_is_a_reset() -> None:
    with bench(CLASSES) as made:
        client, server = made.pair(A)
        client.sendall(B[:20])
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.close()
        assert made.recorder.closed_one().outcome is ConnectionOutcome.SERVER_RESET
        with pytest.raises(ConnectionResetError):
            client.recv(1)
