"""Requests of one HTTP/1 connection: where each begins, whose it is, and when nobody can tell."""

from __future__ import annotations

import h11
import pytest
from cutting import begins, pieces_of
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.protocols.http1_requests import MAX_HEAD, Http1Cutter, SwitchedCutter
from datapath.protocols.requests import AMBIGUOUS, Beyond, Piece

A = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
B = b"GET /b HTTP/1.1\r\nHost: b.example\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: p.example\r\n%b\r\n%b"


def cut(stream: bytes, *places: int) -> list[Piece]:
    return pieces_of(Http1Cutter, stream, places)


# --- whole requests ----------------------------------------------------------------------------------------------------

bodies = st.one_of(
    st.just((b"", b"")),
    st.binary(max_size=200).map(lambda body: (b"Content-Length: %d\r\n" % len(body), body)),
    st.lists(st.binary(min_size=1, max_size=60), max_size=4).flatmap(
        lambda chunks: st.sampled_from([b"", b";x=1", b';q="a b"']).map(
            lambda extension: (
                b"Transfer-Encoding: chunked\r\n",
                b"".join(b"%X%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks) + b"0\r\nT: v\r\n\r\n",
            )
        )
    ),
)
requests = st.builds(
    lambda method, host, body, padding: (
        host.decode(),
        padding + b"%b /x HTTP/1.1\r\nX: y\r\nHost: %b\r\n%b\r\n%b" % (method, host, *body),
        len(padding),
    ),
    st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH"]),
    st.sampled_from([b"a.example", b"b.example", b"c.example"]),
    bodies,
    st.sampled_from([b"", b"", b"\r\n", b"\r\n\r\n"]),
)


@settings(max_examples=150)
@given(st.lists(requests, min_size=1, max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_every_request_is_found_however_the_stream_is_cut(
    drawn: list[tuple[str, bytes, int]], places: list[int]
) -> None:
    stream = b"".join(text for _, text, _ in drawn)
    expected, at = [], 0
    for host, text, padding in drawn:
        expected.append((at + padding, host))
        at += len(text)
    assert begins(cut(stream, *(p for p in places if p <= len(stream)))) == expected


@settings(max_examples=60)
@given(st.lists(requests, min_size=1, max_size=4))
def test_h11_reads_the_same_requests(drawn: list[tuple[str, bytes, int]]) -> None:
    """All but the empty lines in front, which h11 does not take."""
    stream = rest = b"".join(text[padding:] for _, text, padding in drawn)
    hosts = []
    while rest:
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(rest)
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                hosts.append(dict(event.headers)[b"host"].decode())
        rest = reader.trailing_data[0]
    assert hosts == [host for _, host in begins(cut(stream))]


@settings(max_examples=120)
@given(
    st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([A, B, b"GET ", b"\r\n", b"5\r\n", b"Host: x\r\n"])),
        max_size=8,
    )
)
def test_whatever_comes_nothing_is_lost_and_pieces_change_nothing(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    whole = begins(cut(stream))
    for size in (1, 7):
        assert begins(cut(stream, *range(size, len(stream), size))) == whole
    assert sum(isinstance(what, Beyond) for _, what in whole) <= 1


def test_an_unfinished_head_is_held_back_and_given_back_at_the_end() -> None:
    cutter = Http1Cutter()
    assert begins(cutter.feed(A + B[:20])) == [(0, "a.example")]
    assert cutter.finish() == B[:20]
    assert cutter.finish() == b""


def test_pipelined_requests_are_told_apart() -> None:
    assert begins(cut(A + B + A)) == [(0, "a.example"), (len(A), "b.example"), (len(A + B), "a.example")]


def test_the_target_may_name_the_host() -> None:
    stream = b"GET http://x.example/ HTTP/1.1\r\nHost: ignored.example\r\n\r\n" + A
    assert [what for _, what in begins(cut(stream))] == ["x.example", "a.example"]


# --- doubt ---------------------------------------------------------------------------------------------------------------

DOUBTFUL = {
    "length and coding": POST % (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "two lengths": POST % (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "a list of lengths": POST % (b"Content-Length: 5, 5\r\n", b"hello"),
    "a signed length": POST % (b"Content-Length: +5\r\n", b"hello"),
    "an endless length": POST % (b"Content-Length: 5" + b"0" * 30 + b"\r\n", b"hello"),
    "two codings": POST % (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "another coding": POST % (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "a coding in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a.example\n\n",
    "one bare line feed": b"GET / HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a.example\r\nX: y\rHost: b\r\n\r\n",
    "a folded field": b"GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n z\r\n\r\n",
    "a space before the colon": b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length : 5\r\n\r\nhello",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: a.example\r\nX: \0\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00",
    "another version": b"GET / HTTP/2.0\r\nHost: a.example\r\n\r\n",
    "a method without end": b"G" * 40,
    "a head without end": b"GET / HTTP/1.1\r\nX: " + b"y" * (MAX_HEAD + 1),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTFUL)
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
def test_what_can_be_read_in_two_ways_is_not_followed(case: str, size: int) -> None:
    stream = A + DOUBTFUL[case] + B
    if size == 1 and len(stream) > 5000:
        size = 997
    assert begins(cut(stream, *range(size, len(stream), size))) == [(0, "a.example"), (len(A), AMBIGUOUS)]


CHUNKS = {
    "a size that is none": b"5x\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a bare line feed": b"5\nhello\r\n0\r\n\r\n",
    "no line end behind a chunk": b"5\r\nhello0\r\n\r\n",
    "a bare line feed behind a chunk": b"5\r\nhello\n0\r\n\r\n",
    "an endless size": b"F" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "an endless extension": b"5;" + b"x" * 9000 + b"\r\nhello\r\n0\r\n\r\n",
    "a trailer that is none": b"0\r\nno trailer\r\n\r\n",
    "a trailer with a vertical tab": b"0\r\nX: a\vb\r\n\r\n",
    "a trailer with a length": b"0\r\ncontent-Length: 5\r\n\r\n",
    "a trailer with a coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
}


@pytest.mark.parametrize("case", CHUNKS)
@pytest.mark.parametrize("size", [3, 1 << 20], ids=["in threes", "at once"])
def test_odd_chunks_are_not_followed(case: str, size: int) -> None:
    head = POST % (b"Transfer-Encoding: chunked\r\n", b"")
    stream = head + CHUNKS[case] + A
    found = begins(cut(stream, *range(size, len(stream), size)))
    assert [what for _, what in found] == ["p.example", AMBIGUOUS]


# --- other protocols -----------------------------------------------------------------------------------------------------

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
CONNECT = b"CONNECT t.example:443 HTTP/1.1\r\nHost: t.example\r\n\r\n"
FRAME = b"\x81\x85abcdhello"


@pytest.mark.parametrize("asking", [UPGRADE, CONNECT], ids=["Upgrade", "CONNECT"])
@pytest.mark.parametrize("case", ["bare line feeds", "two hosts", "no HTTP", "another version"])
def test_asking_for_a_switch_takes_no_doubt_away(asking: bytes, case: str) -> None:
    """A server that has not switched reads on, as leniently as ever."""
    assert begins(cut(asking + DOUBTFUL[case]))[1:] == [(len(asking), AMBIGUOUS)]


@pytest.mark.parametrize("asking", [UPGRADE, CONNECT], ids=["Upgrade", "CONNECT"])
def test_requests_behind_one_that_asks_for_a_switch_are_found(asking: bytes) -> None:
    assert begins(cut(asking + asking + B))[2:] == [(2 * len(asking), "b.example")]


H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


@given(st.sampled_from([FRAME, A, H2[:-12] + b"x" + H2[-12:], b"P", H2[:20]]), st.sets(st.integers(1, 40), max_size=4))
def test_after_a_switch_everything_passes(stream: bytes, places: set[int]) -> None:
    pieces = pieces_of(SwitchedCutter, stream, tuple(p for p in places if p < len(stream)))
    assert begins(pieces) == []


@given(st.sets(st.integers(1, 80), max_size=4))
def test_after_a_switch_http2_is_followed(places: set[int]) -> None:
    block = b"\x82\x86\x84\x41\x09b.example"
    stream = H2 + b"\0\0%c\x01\x05\0\0\0\x03" % len(block) + block
    pieces = pieces_of(SwitchedCutter, stream, tuple(p for p in places if p < len(stream)))
    assert begins(pieces) == [(len(H2), "b.example")]
