"""The server's end of HTTP/2, without sockets: h2 at the other end, any cutting, any damage, any flood."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe import frame as hyper
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.gateway.field_blocks import FieldBlocks
from control_plane.gateway.fields import EMPTY_TABLE, encode_fields
from control_plane.gateway.frames import DEFAULT_WINDOW, PREFACE, ErrorCode, Http2Error, make_frame
from control_plane.gateway.http2 import MAX_CHARGE, MAX_STREAMS, MAX_UNSENT_CONTROL, Http2Connection
from control_plane.gateway.streams import BodyReceived, Http2Event, Http2Stream, RequestBegun, RequestReset

FIELDS = [(":method", "POST"), (":scheme", "https"), (":path", "/a.B/C"), (":authority", "x"), ("te", "trailers")]
ANSWER = EMPTY_TABLE + encode_fields([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_fields([(b"grpc-status", b"0")])
BEGINNING = PREFACE + hyper.SettingsFrame(0).serialize()
BLOCK = hpack.Encoder().encode(FIELDS)


def head(number: int = 1, flags: Sequence[str] = ("END_HEADERS",), block: bytes = BLOCK) -> bytes:
    return hyper.HeadersFrame(number, block, flags=flags).serialize()


def frames_in(data: bytes) -> list[hyper.Frame]:
    found = []
    while data:
        frame, length = hyper.Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        found.append(frame)
    return found


def begun(*more: bytes) -> tuple[Http2Connection, list[Http2Event]]:
    connection = Http2Connection()
    events = connection.receive(BEGINNING + b"".join(more))
    return connection, events


def goaway_code(connection: Http2Connection) -> int:
    assert connection.failure
    last = frames_in(connection.take(1 << 20))[-1]
    assert isinstance(last, hyper.GoAwayFrame)
    return last.error_code


def told(events: Sequence[Http2Event]) -> list[tuple[object, ...]]:
    """What events say."""
    found: list[tuple[object, ...]] = []
    for event in events:
        if isinstance(event, RequestBegun):
            found.append(("begun", event.stream.number, tuple(event.fields.items())))
        elif isinstance(event, BodyReceived):
            found.append(("body", event.stream.number, event.data, event.ended))
        else:
            found.append(("reset", event.stream.number))
    return found


class Client:
    """h2's client, in memory, at the other end of a connection."""

    def __init__(self) -> None:
        self.server = Http2Connection()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.streams: dict[int, Http2Stream] = {}

    def talk(self, size: int = 1 << 14) -> tuple[list[Http2Event], list[h2.events.Event]]:
        """Until neither side has anything to send."""
        there: list[Http2Event] = []
        here: list[h2.events.Event] = []
        while True:
            request, answer = self.h2.data_to_send(), self.server.take(size)
            if not request and not answer:
                return there, here
            events = self.server.receive(request)
            self.streams |= {event.stream.number: event.stream for event in events}
            there += events
            here += self.h2.receive_data(answer)


def test_a_request_and_its_answer() -> None:
    client = Client()
    client.h2.send_headers(1, FIELDS)
    client.h2.send_data(1, b"hello", pad_length=20)
    client.h2.send_headers(1, [("x-last", "1")], end_stream=True)
    there, _ = client.talk()
    assert told(there)[1:] == [("body", 1, b"hello", False), ("body", 1, b"", True)]
    stream = client.streams[1]
    client.server.answer(stream, ANSWER)
    client.server.send(stream, b"world")
    client.server.end(stream, TRAILERS)
    _, here = client.talk()
    names = [type(event).__name__ for event in here]
    assert names == ["ResponseReceived", "DataReceived", "TrailersReceived", "StreamEnded"]
    assert here[0].headers == [(":status", "200"), ("content-type", "application/grpc")]
    assert here[1].data == b"world"


def test_an_answer_before_the_request_is_complete_asks_for_no_more() -> None:
    client = Client()
    client.h2.send_headers(1, FIELDS)
    client.talk()
    client.server.answer(client.streams[1], ANSWER, last=True)
    client.h2.send_data(1, b"on its way")
    late = client.h2.data_to_send()
    _, here = client.talk()
    assert [type(event).__name__ for event in here] == ["ResponseReceived", "StreamEnded", "StreamReset"]
    assert here[-1].error_code == ErrorCodes.NO_ERROR
    assert client.server.receive(late) == []
    assert client.server.failure is None


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90_000), min_size=1, max_size=5),
    window=st.one_of(st.integers(0, 40_000), st.just(1 << 20)),
    steps=st.lists(st.integers(1, 60_000), max_size=12),
    size=st.integers(1, 40_000),
)
def test_nothing_is_sent_beyond_windows(sizes: list[int], window: int, steps: list[int], size: int) -> None:
    client = Client()
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    client.h2.send_headers(1, FIELDS, end_stream=True)
    client.talk()
    stream = client.streams[1]
    client.server.answer(stream, ANSWER)
    for length in sizes:
        client.server.send(stream, b"x" * length)
    client.server.end(stream, TRAILERS)
    taken, granted = 0, 0
    for step in [*steps, sum(sizes)]:
        _, here = client.talk(size)
        taken += sum(len(event.data) for event in here if isinstance(event, h2.events.DataReceived))
        assert taken == min(sum(sizes), window + granted, DEFAULT_WINDOW + granted)
        assert stream.unsent == sum(sizes) - taken
        if taken < sum(sizes):
            client.h2.increment_flow_control_window(step, 1)
            client.h2.increment_flow_control_window(step)
            granted += step
    _, here = client.talk(size)
    taken += sum(len(event.data) for event in here if isinstance(event, h2.events.DataReceived))
    assert taken == sum(sizes)
    assert stream.number not in client.h2.streams or client.h2.streams[1].closed


def test_windows_are_opened_for_what_is_received() -> None:
    client = Client()
    client.h2.send_headers(1, FIELDS)
    received = 0
    for _ in range(100):  # h2 raises if there were no room
        client.h2.send_data(1, b"y" * 8000)
        there, _ = client.talk()
        received += sum(len(event.data) for event in there if isinstance(event, BodyReceived))
    assert received == 800_000
    client.h2.send_data(1, b"", end_stream=True)
    client.talk()


def conversation() -> bytes:
    """All that a client may say."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, FIELDS, priority_weight=7)
    client.send_data(1, b"a" * 3000, pad_length=99)
    client.ping(b"12345678")
    client.send_headers(3, [*FIELDS, *((f"field-{number}", "v" * 30) for number in range(90))])
    client.prioritize(3, weight=9)
    client.send_data(1, b"b" * 20)
    client.send_data(1, b"c" * 9000, end_stream=True)
    client.send_headers(3, [("trailer", "yes")], end_stream=True)
    client.increment_flow_control_window(1000)
    client.send_headers(5, FIELDS)
    client.reset_stream(5)
    unknown = make_frame(0x42, 0xFF, 77, b"of a later version")
    split = [hyper.HeadersFrame(7, BLOCK[:3], flags=["END_STREAM"]), hyper.ContinuationFrame(7, BLOCK[3:9])]
    split.append(hyper.ContinuationFrame(7, BLOCK[9:], flags=["END_HEADERS"]))
    return client.data_to_send() + unknown + b"".join(frame.serialize() for frame in split)


CONVERSATION = conversation()


def test_the_conversation_is_understood() -> None:
    connection = Http2Connection()
    events = told(connection.receive(CONVERSATION))
    assert connection.failure is None
    assert [event[:2] for event in events if event[0] == "begun"] == [("begun", number) for number in (1, 3, 5, 7)]
    assert [event[1] for event in events if event[0] == "reset"] == [5]
    assert b"".join(event[2] for event in events if event[:2] == ("body", 1)) == b"a" * 3000 + b"b" * 20 + b"c" * 9000
    kinds = [type(frame).__name__ for frame in frames_in(connection.take(1 << 20))]
    assert kinds == ["SettingsFrame", "SettingsFrame", "PingFrame"]


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=40))
def test_any_cutting_gives_the_same_events(cuts: list[int]) -> None:
    at_once, in_pieces = Http2Connection(), Http2Connection()
    expected = told(at_once.receive(CONVERSATION))
    places = sorted({0, *cuts, len(CONVERSATION)})
    found = [event for begin, end in pairwise(places) for event in in_pieces.receive(CONVERSATION[begin:end])]
    assert told(found) == expected
    assert in_pieces.take(1 << 20) == at_once.take(1 << 20)


def test_byte_by_byte_gives_the_same_events() -> None:
    connection = Http2Connection()
    found = [event for at in range(len(CONVERSATION)) for event in connection.receive(CONVERSATION[at : at + 1])]
    assert told(found) == told(Http2Connection().receive(CONVERSATION))


def served(connection: Http2Connection, data: bytes, piece: int) -> None:
    """Answers what there is to be answered, and looks at all that is sent."""
    open_streams: dict[int, Http2Stream] = {}
    for at in range(0, len(data), piece):
        for event in connection.receive(data[at : at + piece]):
            number = event.stream.number
            if isinstance(event, RequestBegun):
                assert number not in open_streams
                open_streams[number] = event.stream
                connection.answer(event.stream, ANSWER)
            elif isinstance(event, RequestReset):
                del open_streams[number]
            elif event.ended and number in open_streams:
                connection.send(event.stream, b"z" * 40_000)
                connection.end(open_streams.pop(number), TRAILERS)
        assert len(open_streams) <= MAX_STREAMS or connection.failure
        sent = connection.take(1 << 16)
        assert len(sent) <= (1 << 16) + MAX_UNSENT_CONTROL + 100
        frames_in(sent)
        if connection.failure:
            assert connection.finished
            assert connection.receive(data) == []
            return


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.binary(max_size=12)), min_size=1, max_size=8),
    piece=st.sampled_from([1 << 20, 1000, 61]),
)
def test_damaged_bytes_end_the_connection_at_most(changes: list[tuple[int, bytes]], piece: int) -> None:
    data = bytearray(CONVERSATION)
    for at, change in changes:
        data[at : at + len(change)] = change
    served(Http2Connection(), bytes(data), piece)


ANY_FRAME = st.builds(
    make_frame,
    st.one_of(st.integers(0, 10), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x25, 0x2D]), st.integers(0, 255)),
    st.one_of(st.integers(0, 9), st.integers(0, (1 << 32) - 1)),
    st.one_of(st.binary(max_size=40), st.just(BLOCK), st.just(b"\0\0\0\4"), st.just(b"\0\4\x7f\xff\xff\xff")),
)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(ANY_FRAME, max_size=30), piece=st.sampled_from([1 << 20, 17]))
def test_any_frames_end_the_connection_at_most(frames: list[bytes], piece: int) -> None:
    served(Http2Connection(), BEGINNING + b"".join(frames), piece)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
def test_anything_ends_the_connection_at_most(data: bytes) -> None:
    served(Http2Connection(), data, 1 << 20)
    served(Http2Connection(), BEGINNING + data, 1 << 20)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda _: hyper.PingFrame(0, b"12345678").serialize(),
    "PING that answers": lambda _: hyper.PingFrame(0, b"12345678", flags=["ACK"]).serialize(),
    "SETTINGS": lambda _: hyper.SettingsFrame(0).serialize(),
    "many settings": lambda _: make_frame(0x4, 0, 0, struct.pack(">HL", 4, 9) * 100),
    "PRIORITY": lambda number: hyper.PriorityFrame(number * 2 + 3, stream_weight=1).serialize(),
    "empty DATA": lambda _: hyper.DataFrame(1, b"").serialize(),
    "padded empty DATA": lambda _: hyper.DataFrame(1, b"", flags=["PADDED"], pad_length=9).serialize(),
    "WINDOW_UPDATE": lambda _: hyper.WindowUpdateFrame(0, window_increment=1).serialize(),
    "of an unknown type": lambda _: make_frame(0x99, 0, 0, b""),
    "rapid reset": lambda number: head(number * 2 + 3) + hyper.RstStreamFrame(number * 2 + 3, error_code=8).serialize(),
    "refused streams": lambda number: head(number * 2 + 3),
    "RST_STREAM of what is gone": lambda _: hyper.RstStreamFrame(1, error_code=8).serialize(),
    "DATA for what is gone": lambda number: (
        hyper.RstStreamFrame(1, error_code=8).serialize() if not number else hyper.DataFrame(1, b"x").serialize()
    ),
    "empty CONTINUATION": lambda number: (
        hyper.ContinuationFrame(3, b"").serialize() if number else head(3, flags=(), block=b"")
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection(kind: str) -> None:
    connection, _ = begun(head(1))
    for number in range(2 * MAX_CHARGE):
        connection.receive(FLOODS[kind](number))
        if connection.failure:
            break
        connection.take(1 << 20)
    assert goaway_code(connection) == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", ["PING", "SETTINGS", "WINDOW_UPDATE", "PRIORITY"])
def test_what_an_agent_needs_is_no_flood(kind: str) -> None:
    connection, _ = begun(head(1))
    for second in range(20):
        for number in range(MAX_CHARGE // 4):
            connection.receive(FLOODS[kind](second * MAX_CHARGE + number))
        connection.take(1 << 20)
        connection.forgive()
    assert connection.failure is None


def test_answers_that_nobody_takes_are_bounded() -> None:
    connection, _ = begun()
    for _ in range(MAX_UNSENT_CONTROL):
        connection.receive(FLOODS["PING"](0))
        connection.forgive()
        if connection.failure:
            break
    assert len(connection.take(1 << 30)) < 100


def test_fields_are_bounded() -> None:
    few = [*FIELDS, *((f"f{number}", "v") for number in range(100))]
    many = [*FIELDS, *((f"f{number}", "v") for number in range(300))]
    _, events = begun(head(1, block=hpack.Encoder().encode(few)))
    assert len(events) == 1
    connection, events = begun(head(1, block=hpack.Encoder().encode(many)))
    assert events == []
    assert goaway_code(connection) == ErrorCode.ENHANCE_YOUR_CALM
    # One entry of the table, and many references to it.
    bomb = b"\x40\x01a\x7f\x81\x1e" + b"x" * 4000 + b"\xbe" * 1000
    connection, _ = begun(head(1, block=bomb))
    assert goaway_code(connection) == ErrorCode.ENHANCE_YOUR_CALM
    parts = [hyper.ContinuationFrame(1, b"\0\x01a\x7f\x81\x1e" + b"y" * 4000).serialize() for _ in range(9)]
    connection, _ = begun(head(1, flags=()), *parts)
    assert goaway_code(connection) == ErrorCode.ENHANCE_YOUR_CALM


WRONG: dict[str, tuple[bytes, ErrorCode]] = {
    "not HTTP/2": (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings first": (PREFACE + head(1), ErrorCode.PROTOCOL_ERROR),
    "too large": (BEGINNING + make_frame(0, 0, 1, b"x" * 16385), ErrorCode.FRAME_SIZE_ERROR),
    "DATA on 0": (BEGINNING + make_frame(0, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on idle": (BEGINNING + make_frame(0, 0, 3, b"x"), ErrorCode.PROTOCOL_ERROR),
    "even number": (BEGINNING + head(2), ErrorCode.PROTOCOL_ERROR),
    "lower number": (BEGINNING + head(5) + head(3), ErrorCode.PROTOCOL_ERROR),
    "padding": (BEGINNING + head(1) + make_frame(0, 8, 1, b"\x05xxx"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION alone": (BEGINNING + make_frame(9, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "between": (BEGINNING + head(1, flags=()) + make_frame(6, 0, 0, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    "of another": (BEGINNING + head(1, flags=()) + make_frame(9, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (BEGINNING + make_frame(5, 4, 1, b"\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
    "no HPACK": (BEGINNING + head(1, block=b"\xff\xff\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "great table": (BEGINNING + head(1, block=b"\x3f\xff\x7f" + BLOCK), ErrorCode.COMPRESSION_ERROR),
    "ENABLE_PUSH": (PREFACE + make_frame(4, 0, 0, b"\0\2\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
    "first window": (PREFACE + make_frame(4, 0, 0, b"\0\4\xff\0\0\0"), ErrorCode.FLOW_CONTROL_ERROR),
    "frame size": (PREFACE + make_frame(4, 0, 0, b"\0\5\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
    "window": (BEGINNING + make_frame(8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
    "nothing": (BEGINNING + make_frame(8, 0, 0, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
    "ended": (BEGINNING + head(1) + make_frame(3, 0, 1, b"\0\0\0\0") + head(1), ErrorCode.STREAM_CLOSED),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_rule_ends_the_connection(kind: str) -> None:
    data, code = WRONG[kind]
    connection = Http2Connection()
    connection.receive(data)
    assert goaway_code(connection) == code


BAD_FIELDS: dict[str, list[tuple[str, str]]] = {
    "upper case": [*FIELDS, ("Name", "x")],
    "connection": [*FIELDS, ("connection", "close")],
    "te": [*FIELDS[:-1], ("te", "gzip")],
    "unknown pseudo-field": [(":x", "y"), *FIELDS],
    "pseudo-field last": [*FIELDS, (":path", "/")],
    "twice": [FIELDS[0], *FIELDS],
    "no path": [*FIELDS[:2], *FIELDS[3:]],
    "line break": [*FIELDS, ("name", "a\r\nb")],
    "lengths": [*FIELDS, ("content-length", "1"), ("content-length", "2")],
    "length": [*FIELDS, ("content-length", "-1")],
}


@pytest.mark.parametrize("kind", BAD_FIELDS)
def test_a_malformed_request_is_reset(kind: str) -> None:
    connection, events = begun(head(1, block=hpack.Encoder().encode(BAD_FIELDS[kind])))
    assert events == []
    assert connection.failure is None
    last = frames_in(connection.take(1 << 20))[-1]
    assert isinstance(last, hyper.RstStreamFrame)
    assert (last.stream_id, last.error_code) == (1, ErrorCode.PROTOCOL_ERROR)
    assert connection.receive(make_frame(0, 1, 1, b"on its way")) == []
    assert len(connection.receive(head(3))) == 1


@pytest.mark.parametrize("lengths", [(4,), (6,), (2, 4), (5, 0, 1)])
def test_a_body_of_another_length_is_reset(lengths: tuple[int, ...]) -> None:
    block = hpack.Encoder().encode([*FIELDS, ("content-length", "5")])
    parts = [make_frame(0, 0, 1, b"x" * length) for length in lengths]
    _, events = begun(head(1, block=block), *parts, make_frame(0, 1, 1))
    assert isinstance(events[-1], RequestReset)


def test_a_window_that_overflows_resets_its_stream() -> None:
    connection, _ = begun(head(1))
    [event] = connection.receive(make_frame(8, 0, 1, b"\x7f\xff\xff\xff"))
    assert isinstance(event, RequestReset)
    assert connection.failure is None
    assert frames_in(connection.take(1 << 20))[-1].error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_going_away_lets_calls_end() -> None:
    client = Client()
    client.h2.send_headers(1, FIELDS)
    client.talk()
    client.server.go_away()
    client.server.go_away()
    assert not client.server.finished
    late = head(3, block=hpack.Encoder().encode(FIELDS)) + make_frame(0, 0, 3, b"late")
    assert client.server.receive(late) == []
    [refused] = frames_in(client.server.take(1 << 20))
    assert (refused.stream_id, refused.error_code) == (3, ErrorCode.REFUSED_STREAM)
    client.server.answer(client.streams[1], ANSWER)
    client.server.end(client.streams[1], TRAILERS)
    kinds = [type(frame).__name__ for frame in frames_in(client.server.take(1 << 20))]
    assert kinds == ["HeadersFrame", "HeadersFrame", "RstStreamFrame", "GoAwayFrame"]
    assert client.server.finished


def test_a_client_that_goes_away_is_let_go() -> None:
    connection, events = begun(head(1))
    connection.receive(hyper.GoAwayFrame(0).serialize())
    assert not connection.finished
    connection.answer(events[0].stream, ANSWER, last=True)
    assert connection.finished
    assert connection.failure is None


def test_nothing_is_sent_for_a_stream_that_is_gone() -> None:
    connection, events = begun(head(1))
    stream = events[0].stream
    connection.take(1 << 20)
    connection.send(stream, b"x" * 2 * DEFAULT_WINDOW)
    connection.receive(make_frame(3, 0, 1, b"\0\0\0\x08"))
    connection.answer(stream, ANSWER)
    connection.send(stream, b"late")
    connection.end(stream, TRAILERS)
    assert connection.take(1 << 20) == b""


def test_the_client_changes_the_windows_of_open_streams() -> None:
    connection, events = begun(make_frame(4, 0, 0, b"\0\4\0\0\0\0"), head(1))
    stream = events[0].stream
    connection.take(1 << 20)
    connection.send(stream, b"0123456789")
    assert connection.take(1 << 20) == b""
    connection.receive(make_frame(4, 0, 0, b"\0\4\0\0\0\6"))
    assert connection.take(1 << 20).endswith(make_frame(0, 0, 1, b"012345"))
    connection.receive(make_frame(4, 0, 0, b"\0\4\0\0\0\1") + make_frame(8, 0, 1, b"\0\0\0\5"))
    assert frames_in(connection.take(1 << 20))[1:] == []
    connection.receive(make_frame(8, 0, 1, b"\0\0\0\1"))
    assert connection.take(1 << 20) == make_frame(0, 0, 1, b"6")
    assert stream.unsent == 3


def test_what_is_on_its_way_to_a_stream_that_we_have_reset_is_ignored() -> None:
    connection, events = begun(head(1), head(3))
    connection.reset(events[0].stream, ErrorCode.ENHANCE_YOUR_CALM)
    connection.take(1 << 20)
    trailers = head(1, flags=("END_HEADERS", "END_STREAM"), block=hpack.Encoder().encode([("x", "y")]))
    late = make_frame(0, 0, 1, b"late") + make_frame(8, 0, 1, b"\0\0\0\1") + trailers + make_frame(3, 0, 1, b"\0\0\0\0")
    assert connection.receive(late) == []
    assert (connection.failure, connection.take(1 << 20)) == (None, b"")
    assert told(connection.receive(make_frame(0, 0, 3, b"more"))) == [("body", 3, b"more", False)]


def test_there_are_few_streams_at_once() -> None:
    connection, events = begun(*(head(number) for number in range(1, 2 * MAX_STREAMS + 3, 2)))
    assert len(events) == MAX_STREAMS
    refused = frames_in(connection.take(1 << 20))[-1]
    assert (refused.stream_id, refused.error_code) == (2 * MAX_STREAMS + 1, ErrorCode.REFUSED_STREAM)
    connection.answer(events[0].stream, ANSWER, last=True)
    assert len(connection.receive(head(99))) == 1


def test_later_blocks_refer_to_a_first_one_that_was_decoded_for_another_connection() -> None:
    requests = [[(b"a", b"1" * size), (b"b", b"2")] for size in (9, 9, 3)]
    for long in (b"", b"x" * 600):  # which is remembered, and which is not
        for _ in range(3):
            encoder, blocks = Encoder(), FieldBlocks()
            for fields in requests:
                told = [*fields, (b"c", long)]
                block = encoder.encode(told, huffman=False)
                blocks.begin(1, block, ends_stream=False)
                assert blocks.finish() == told
    blocks = FieldBlocks()
    blocks.begin(1, Encoder().encode([(b"a", b"1" * 9), (b"b", b"2"), (b"c", b"")], huffman=False), ends_stream=False)
    blocks.finish()
    blocks.begin(3, b"\xff\xff\xff", ends_stream=False)
    with pytest.raises(Http2Error):
        blocks.finish()
