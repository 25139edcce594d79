"""Detection behind a header of the PROXY protocol: whatever its form and however it is cut, what follows decides."""

from __future__ import annotations

import socket
import struct

import pytest
from first_bytes import NOT_THIS, cut, detect, hello, http1, records, run, singly, sni, tls
from hypothesis import given
from hypothesis import strategies as st

from datapath.protocols.detect import Detection, Detector, Protocol, Reason
from datapath.protocols.proxy_header import MAX_V1, MAX_V2, bytes_to_come, header_size

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
"""As the specification prints it."""
REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
HELLO = records(hello(sni(b"api.example.com")))


def v2(body: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 56324, 443)
LONGEST = b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 16) + b"\r\n"
HEADERS = {
    "TCP4": b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    "TCP6": b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 443\r\n",
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "longest of version 1": LONGEST,
    "version 2": v2(TCP4),
    "version 2, LOCAL": v2(b"", 0x20, 0x00),
    "version 2, with TLVs": v2(TCP4 + b"\x02\x00\x0bexample.com"),
    "longest of version 2": v2(bytes(MAX_V2 - 16)),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize(
    ("stream", "detection"), [(REQUEST, http1("a.example")), (HELLO, tls("api.example.com"))], ids=["HTTP", "TLS"]
)
def test_what_follows_a_header_decides(header: bytes, stream: bytes, detection: Detection) -> None:
    whole = header + stream
    assert detect(whole) == detection
    assert header_size(whole) == len(header)
    for place in {1, 5, 6, 12, 15, 16, len(header) - 1, len(header), len(header) + 1, len(whole) - 1}:
        for heed in (False, True):
            assert run(cut(whole, place), heed_needed=heed).detection == detection
    if len(header) < 200:
        assert run(singly(whole)).detection == detection


@pytest.mark.parametrize(
    "stream",
    [
        LONGEST[:-2] + b"f\r\n" + REQUEST,
        v2(bytes(MAX_V2 - 15)) + REQUEST,
        v2(TCP4, 0x11) + REQUEST,
        HEADERS["TCP4"] + HEADERS["TCP4"] + REQUEST,
        v2(TCP4) + v2(TCP4) + REQUEST,
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\n" + REQUEST,
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1 443\r\n" + REQUEST,
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n" + REQUEST,
        b"PROXY  UNKNOWN\r\n" + REQUEST,
        b"proxy UNKNOWN\r\n" + REQUEST,
    ],
    ids=[
        "a byte more than version 1 may have", "longer than is looked at", "version 1 in binary", "twice", "version 2 twice",
        "a bare line feed", "no such family", "a port is missing", "two spaces", "small letters",
    ],
)  # fmt: skip
def test_what_is_none_hides_what_follows(stream: bytes) -> None:
    assert detect(stream) == run(singly(stream)).detection == NOT_THIS


@pytest.mark.parametrize(
    ("stream", "detection"),
    [
        (b"PROXY UNKNOWN HTTP/1.1\r\nHost: a.example\r\n\r\n", http1("a.example")),
        (b"PROXY /x HTTP/1.1\r\nHost: a.example\r\n\r\n", http1("a.example")),
        (b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n", http1("a.example")),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", http1("a.example")),
    ],
    ids=["an odd request", "a method of that name", "another method in P", "empty lines first"],
)
def test_what_only_begins_like_one_is_read(stream: bytes, detection: Detection) -> None:
    assert detect(stream) == run(singly(stream)).detection == detection


@pytest.mark.parametrize("header", [HEADERS["TCP4"], HEADERS["version 2"]], ids=["1", "2"])
def test_nothing_behind_it_is_nothing(header: bytes) -> None:
    detector = Detector()
    assert detector.feed(header) is None
    assert detector.needed == len(header) + 1
    assert detector.finish(Reason.TIMEOUT) == Detection(Protocol.OPAQUE, Reason.TIMEOUT)


def test_a_long_header_is_waited_for_as_a_whole() -> None:
    header = HEADERS["longest of version 2"]
    detector = Detector()
    assert detector.feed(header[:20]) is None
    assert detector.needed == len(header)
    assert bytes_to_come(header[:16]) == len(header) - 16


@given(st.binary(max_size=40), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 1.1.1.1 2.2.2.2 3 ", SIGNATURE]))
def test_more_bytes_never_change_the_answer(rest: bytes, beginning: bytes) -> None:
    data = beginning + rest
    sizes = [header_size(data[:end]) for end in range(1, len(data) + 1)]
    told = [size for size in sizes if size is not None]
    assert sizes[len(sizes) - len(told) :] == told, "once it is told it stays told"
    assert len(set(told)) <= 1
