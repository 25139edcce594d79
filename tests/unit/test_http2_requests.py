"""Requests of one HTTP/2 connection: where each begins, whose it is, and when nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cutting import begins, pieces_of
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.protocols.http2_requests import MAX_BLOCK, Http2Cutter
from datapath.protocols.requests import AMBIGUOUS, Beyond, Piece
from datapath.protocols.sniff import HTTP2_PREFACE

HEADERS, DATA, CONTINUATION, PING = 0x1, 0x0, 0x9, 0x6
END_HEADERS, END_STREAM, PADDED, PRIORITY = 0x4, 0x1, 0x8, 0x20


class Client:
    """A client of the h2 library, and the places in its stream where its requests begin."""

    def __init__(self) -> None:
        self._connection = H2Connection(H2Configuration(client_side=True))
        self._connection.initiate_connection()
        # What a server allows its clients, they may use.
        self._connection.remote_settings[SettingCodes.HEADER_TABLE_SIZE] = 4096
        self.stream = self._connection.data_to_send()
        self.begins: list[tuple[int, str | Beyond | None]] = []

    def request(self, host: str, body: bytes = b"", *, padding: int = 0, trailers: bool = False, **fields: str) -> None:
        number = self._connection.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/x"), *fields.items()]
        self.begins.append((len(self.stream), host))
        weight = None if fields else 10  # h2 makes frames too large with both
        self._connection.send_headers(number, head, end_stream=not body and not trailers, priority_weight=weight)
        if body:
            self._connection.send_data(number, body, end_stream=not trailers, pad_length=padding or None)
        if trailers:
            self._connection.send_headers(number, [("x-checksum", "1")], end_stream=True)
        self.stream += self._connection.data_to_send()

    def ping(self) -> None:
        self._connection.ping(b"12345678")
        self.stream += self._connection.data_to_send()


def cut(stream: bytes, *places: int) -> list[Piece]:
    return pieces_of(Http2Cutter, stream, places)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# --- whole requests ----------------------------------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(
        st.sampled_from(["a.example", "b.example"]), st.binary(max_size=300), st.sampled_from([0, 9]), st.booleans()
    ),
    st.none(),
)


@settings(max_examples=120)
@given(st.lists(steps, min_size=1, max_size=6), st.lists(st.integers(0, 3000), max_size=12))
def test_every_request_is_found_however_the_stream_is_cut(
    drawn: list[tuple[str, bytes, int, bool] | None], places: list[int]
) -> None:
    client = Client()
    for step in drawn:
        if step is None:
            client.ping()
        else:
            host, body, padding, trailers = step
            client.request(host, body, padding=padding, trailers=trailers)
    assert begins(cut(client.stream, *(p for p in places if p <= len(client.stream)))) == client.begins


def test_byte_by_byte() -> None:
    client = Client()
    client.request("a.example", b"x" * 100, trailers=True)
    client.request("b.example", **{"x-large": "y" * 20_000})  # in CONTINUATION frames
    client.request("a.example")
    assert begins(cut(client.stream, *range(1, len(client.stream)))) == client.begins


def test_names_that_were_said_before_are_references() -> None:
    client = Client()
    for _ in range(200):
        client.request("a.example", **{"x-long": "z" * 100})
    assert begins(cut(client.stream)) == client.begins
    assert len(client.stream) < 200 * 100, "or the test would show nothing"


def test_padding_and_priority_are_no_part_of_the_block() -> None:
    client = Client()
    client.request("a.example")
    at = client.begins[0][0]
    block = client.stream[at + 9 + 5 :]  # h2 writes a priority
    padded = frame(HEADERS, END_HEADERS | END_STREAM | PADDED | PRIORITY, 1, b"\x03" + bytes(5) + block + bytes(3))
    assert begins(cut(client.stream[:at] + padded)) == [(at, "a.example")]


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=30)),
        ),
        max_size=8,
    )
)
def test_whatever_comes_nothing_is_lost_and_pieces_change_nothing(parts: list[bytes]) -> None:
    stream = HTTP2_PREFACE + b"".join(parts)
    whole = begins(cut(stream))
    for size in (1, 7):
        assert begins(cut(stream, *range(size, len(stream), size))) == whole
    assert sum(isinstance(what, Beyond) for _, what in whole) <= 1


def test_an_unfinished_block_is_held_back_and_given_back_at_the_end() -> None:
    client = Client()
    client.request("a.example")
    at = client.begins[0][0]
    cutter = Http2Cutter()
    assert begins(cutter.feed(client.stream[:-3])) == []
    assert cutter.finish() == client.stream[at:-3]


# --- doubt -------------------------------------------------------------------------------------------------------------


def blocks(*fields: tuple[str, str]) -> bytes:
    """A field block without compression (RFC 7541 6.2.2)."""
    return b"".join(bytes([0, len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields)


ASK = (":method", "GET"), (":scheme", "http"), (":path", "/")
A = (*ASK, (":authority", "a.example"))
DOUBTFUL: dict[str, bytes] = {
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 3, blocks(*A)),
    "another frame in a block": frame(HEADERS, 0, 3, blocks(*A)) + frame(PING, 0, 0, bytes(8)),
    "another stream's continuation": frame(HEADERS, 0, 3, blocks(*A)) + frame(CONTINUATION, END_HEADERS, 5, b""),
    "a block of stream 0": frame(HEADERS, END_HEADERS, 0, blocks(*A)),
    "no HPACK": frame(HEADERS, END_HEADERS, 3, b"\xff" * 20),
    "a reference to nothing": frame(HEADERS, END_HEADERS, 3, b"\xfe"),
    "a table that is too large": frame(HEADERS, END_HEADERS, 3, b"\x3f\xff\xff\xff\x7f" + blocks(*A)),
    "two authorities": frame(HEADERS, END_HEADERS, 3, blocks(*A, (":authority", "b.example"))),
    "two methods": frame(HEADERS, END_HEADERS, 3, blocks(*A, (":method", "GET"))),
    "another host": frame(HEADERS, END_HEADERS, 3, blocks(*A, ("host", "b.example"))),
    "only padding": frame(HEADERS, END_HEADERS | PADDED, 3, b"\x09" + blocks(*A)[:3]),
    "no padding length": frame(HEADERS, END_HEADERS | PADDED, 3, b""),
    "no priority": frame(HEADERS, END_HEADERS | PRIORITY, 3, b"\0"),
    "a block without end": frame(HEADERS, 0, 3, b"") + frame(CONTINUATION, 0, 3, b"") * 100,
    "a large block": frame(HEADERS, 0, 3, bytes(40_000)) + frame(CONTINUATION, 0, 3, bytes(MAX_BLOCK - 39_999)),
    "many fields from few bytes": frame(HEADERS, END_HEADERS, 3, blocks(("x", "y" * 100)) + b"\x40\x01x\x7f\x81\x1f" + b"y" * 4000 + b"\xbe" * 200),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTFUL)
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
def test_what_cannot_be_read_is_not_followed(case: str, size: int) -> None:
    client = Client()
    client.request("a.example")
    at = len(client.stream)
    stream = client.stream + DOUBTFUL[case] + frame(HEADERS, END_HEADERS, 7, blocks(*A))
    if size == 1 and len(stream) > 5000:
        size = 997
    found = begins(cut(stream, *range(size, len(stream), size)))
    assert found[:1] == client.begins
    assert [what for _, what in found[1:]] == [AMBIGUOUS]
    assert found[1][0] >= at


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ((*ASK, ("host", "h.example")), "h.example"),
        ((*A, ("host", "A.Example:80")), "a.example"),
        (ASK, None),
        ((*ASK, (":authority", "no host at all")), None),
    ],
    ids=["of a gateway", "twice the same", "none", "unusable"],
)
def test_whose_a_request_is(fields: tuple[tuple[str, str], ...], host: str | None) -> None:
    stream = HTTP2_PREFACE + frame(HEADERS, END_HEADERS, 1, blocks(*fields))
    assert begins(cut(stream)) == [(len(HTTP2_PREFACE), host)]


def test_trailers_begin_no_request() -> None:
    trailers: Callable[[int], bytes] = lambda stream: frame(HEADERS, END_HEADERS, stream, blocks(("x", "y")))  # noqa: E731
    stream = HTTP2_PREFACE + frame(HEADERS, END_HEADERS, 1, blocks(*A)) + trailers(1)
    assert begins(cut(stream)) == [(len(HTTP2_PREFACE), "a.example")]
