"""The quick way to a usual HTTP/2 request: it may say nothing, but never something else than h2."""

from __future__ import annotations

import hpack
import pytest
from first_bytes import http2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datapath.protocols.detect import Detection, Detector, detect_at_once
from datapath.protocols.http2 import MAX_FRAME
from datapath.protocols.sniff import HTTP2_PREFACE

Field = tuple[bytes, bytes]
GET: list[Field] = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"API.example.com:8080"), (b":path", b"/"),
]  # fmt: skip
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 32


def frame(kind: int, body: bytes, flags: int = 0, stream: int = 0) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def setting(number: int, value: int) -> bytes:
    return number.to_bytes(2, "big") + value.to_bytes(4, "big")


def request(fields: list[Field], flags: int = END_HEADERS, stream: int = 1, before: bytes = b"") -> bytes:
    return frame(1, before + hpack.Encoder().encode(fields), flags, stream)


SETTINGS = frame(4, setting(3, 100) + setting(4, 1 << 25) + setting(2, 0))
WINDOW = frame(8, (1 << 24).to_bytes(4, "big"))


def the_long_way(data: bytes) -> Detection | None:
    detector = Detector()
    for at in range(len(data)):  # byte by byte nothing is ever whole at once
        if (answer := detector.feed(data[at : at + 1])) is not None:
            return answer
    return None


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(SETTINGS + WINDOW + request(GET, END_HEADERS | END_STREAM), id="curl"),
        pytest.param(
            SETTINGS + request([*GET, (b"content-type", b"application/grpc"), (b"te", b"trailers")]), id="gRPC"
        ),
        pytest.param(SETTINGS + request([*GET, (b"content-length", b"3000003")]), id="upload"),
        pytest.param(frame(4, b"") + request(GET, END_HEADERS | PRIORITY, 13, b"\0\0\0\x0b\x10"), id="priority"),
        pytest.param(SETTINGS + request(GET) + frame(0, b"body", 1, 1), id="a body behind it"),
        pytest.param(SETTINGS + request(GET) + b"\xff" * 40, id="nonsense behind it"),
    ],
)
def test_usual_requests_are_found_at_once(frames: bytes) -> None:
    assert detect_at_once(HTTP2_PREFACE + frames) == http2("api.example.com")
    assert the_long_way(HTTP2_PREFACE + frames) == http2("api.example.com")


@pytest.mark.parametrize("missing", range(1, 40))
def test_what_is_not_whole_waits(missing: int) -> None:
    data = HTTP2_PREFACE + SETTINGS + request(GET)
    assert detect_at_once(data[:-missing]) is None


NAMES = st.sampled_from(
    b":method|:scheme|:authority|:path|:protocol|:status|:|host|te|content-length|connection|upgrade|cookie|x|X|a b||\x7f|x:y".split(
        b"|"
    )
)
VALUES = st.sampled_from(
    b"GET|CONNECT|http|a.example|b.example|/||5|+5| x|x\t|a\0b|a\nb|trailers|Trailers|gzip|*|\xff".split(b"|")
)
FIELDS = st.one_of(
    st.just(GET),
    st.lists(st.tuples(NAMES, VALUES), max_size=3).map(lambda more: [*GET, *more]),
    st.lists(st.tuples(NAMES, VALUES), max_size=2).map(lambda more: [*more, *GET]),
    st.permutations(GET).map(lambda fields: list(fields)[:3]),
    st.lists(st.tuples(NAMES, VALUES), max_size=6),
)
DRESSES = st.builds(
    lambda flags, stream, before: request(GET, flags, stream, before),
    st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM, 0, END_HEADERS | PRIORITY, END_HEADERS | PADDED, 0x14]),
    st.sampled_from([1, 3, 0, 2]),
    st.sampled_from(
        [b"", b"\0\0\0\1\0", b"\0\0\0\3\0", b"\x80\0\0\1\0", b"\x3f\xe1\x1f", b"\x3f\xff\xff\xff\x7f", b"\xbf"]
    ),
)
"""Flags, stream, and what stands before the fields: a priority, a change of the dynamic table's size, nonsense."""
SETTINGS_BODIES = st.lists(
    st.builds(setting, st.integers(0, 9), st.sampled_from([0, 1, 2, 100, MAX_FRAME, (1 << 24) - 1, 1 << 24, 1 << 31, (1 << 32) - 1])),
    max_size=3,
).map(b"".join)  # fmt: skip
OTHERS = st.one_of(
    st.builds(frame, st.just(4), SETTINGS_BODIES | st.binary(max_size=7), st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, 1])),
    st.builds(frame, st.just(8), st.sampled_from([b"\0\0\0\1", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\1", b"\1"]), st.just(0), st.sampled_from([0, 0, 1])),
    st.builds(frame, st.sampled_from([0, 2, 3, 5, 6, 7, 9, 10]), st.binary(max_size=9), st.integers(0, 8), st.integers(0, 3)),
)  # fmt: skip


def agrees(frames: bytes) -> None:
    data = HTTP2_PREFACE + frames
    at_once = detect_at_once(data)
    assert at_once is None or at_once == the_long_way(data)


@settings(max_examples=300)
@given(FIELDS, st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM]))
@example([*GET, (b"content-length", b"5")], END_HEADERS | END_STREAM)
def test_fields_are_judged_as_h2_does(fields: list[Field], flags: int) -> None:
    agrees(SETTINGS + request(fields, flags))


@settings(max_examples=200)
@given(st.lists(OTHERS, min_size=1, max_size=2), st.binary(max_size=3))
@example([frame(8, b"\x7f\xff\xff\xff")], b"")
def test_frames_before_the_request_are_judged_as_h2_does(others: list[bytes], rest: bytes) -> None:
    agrees(SETTINGS + b"".join(others) + request(GET) + rest)
    agrees(b"".join(others) + request(GET) + rest)


@settings(max_examples=100)
@given(DRESSES)
def test_headers_in_every_dress_are_judged_as_h2_does(headers: bytes) -> None:
    agrees(SETTINGS + headers)
    agrees(headers)


@settings(max_examples=100)
@given(st.data())
def test_damaged_bytes_are_judged_alike(data: st.DataObject) -> None:
    stream = bytearray(HTTP2_PREFACE + SETTINGS + WINDOW + request([*GET, (b"user-agent", b"curl/8.5.0")]))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(len(HTTP2_PREFACE), len(stream) - 1))] = data.draw(st.integers(0, 255))
    agrees(bytes(stream[len(HTTP2_PREFACE) :]))
