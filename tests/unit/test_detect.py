"""The detector as a whole: its contract, and that no bytes whatever break it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from first_bytes import NOT_THIS, Run, alpn, cut, detect, hello, http1, records, run, singly, sni, tls
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datapath.protocols.detect import MAX_BYTES, Detection, Detector, Protocol, Reason
from datapath.protocols.sniff import HTTP2_PREFACE

HELLO = records(hello(sni(b"api.example.com"), alpn(b"h2", b"http/1.1")), (60,))
REQUEST = b"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\nA: b\r\n\r\n"
# SETTINGS, then HEADERS of GET http://a.example/ in HPACK's static table and literals (RFC 7541 appendix A).
FIELDS = b"\x82\x86\x84\x41\x09a.example"
HTTP2 = HTTP2_PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0" + bytes([len(FIELDS)]) + b"\1\5\0\0\0\1" + FIELDS
SEEDS = [HELLO, REQUEST, HTTP2]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_taken(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    detector = Detector()
    assert detector.feed(kind(REQUEST[:10])) is None
    assert detector.feed(kind(REQUEST[10:])) == http1("a.example")


def test_reused_buffer_does_not_disturb() -> None:
    """The caller may fill the same buffer again: the detector keeps copies."""
    detector, buffer = Detector(), bytearray(60)
    for piece in cut(HELLO, *range(60, len(HELLO), 60)):
        buffer[: len(piece)] = piece
        answer = detector.feed(memoryview(buffer)[: len(piece)])
    assert answer == tls("api.example.com", ("h2", "http/1.1"))


def test_no_bytes_change_nothing() -> None:
    for stream in SEEDS:
        detector = Detector()
        for byte in singly(stream[:-1]):
            assert detector.feed(b"") is None
            assert detector.feed(byte) is None
        assert detector.feed(stream[-1:]) is not None


@pytest.mark.parametrize("end", [lambda d: d.feed(b"x"), lambda d: d.finish(Reason.TIMEOUT)], ids=["feed", "finish"])
@pytest.mark.parametrize(
    "first",
    [lambda d: d.feed(REQUEST), lambda d: d.feed(b"\0"), lambda d: d.finish(Reason.EOF)],
    ids=["found", "rejected", "finished"],
)
def test_nothing_comes_after_the_answer(first: Callable[[Detector], object], end: Callable[[Detector], object]) -> None:
    detector = Detector()
    assert first(detector) is not None
    with pytest.raises(ValueError, match="has given its answer"):
        end(detector)


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="one byte at least"):
        Detector(0)


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.EOF])
@pytest.mark.parametrize(
    ("seen", "protocol"),
    [
        pytest.param(b"", Protocol.OPAQUE, id="nothing"),
        pytest.param(b"\r\n", Protocol.OPAQUE, id="empty line"),
        pytest.param(b"\x16", Protocol.OPAQUE, id="one byte of TLS"),
        pytest.param(b"\x16\x03", Protocol.TLS, id="two bytes of TLS"),
        pytest.param(HELLO[:-1], Protocol.TLS, id="all but a byte of a hello"),
        pytest.param(b"GET / HTTP/1.1\r", Protocol.OPAQUE, id="all but a byte of a request line"),
        pytest.param(b"GET / HTTP/1.1\r\n", Protocol.HTTP1, id="request line"),
        pytest.param(REQUEST[:-1], Protocol.HTTP1, id="all but a byte of a head"),
        pytest.param(HTTP2_PREFACE[:-1], Protocol.OPAQUE, id="all but a byte of a preface"),
        pytest.param(HTTP2_PREFACE, Protocol.HTTP2, id="preface"),
        pytest.param(HTTP2[:-1], Protocol.HTTP2, id="all but a byte of an HTTP/2 request"),
    ],
)
def test_finish_tells_what_is_known_so_far(seen: bytes, protocol: Protocol, reason: Reason) -> None:
    detector = Detector()
    assert detector.feed(seen) is None
    assert detector.finish(reason) == Detection(protocol, reason)


def test_needed_never_asks_for_more_than_the_limit() -> None:
    detector = Detector(20)
    assert detector.needed == 1
    assert detector.feed(b"GET /" + b"a" * 14) is None
    assert detector.needed == 20
    assert detector.feed(b"a") == Detection(Protocol.OPAQUE, Reason.LIMIT)
    detector = Detector(30)
    assert detector.feed(HTTP2_PREFACE) is None
    assert detector.needed == 30
    assert detector.feed(b"\0" * 6) == Detection(Protocol.HTTP2, Reason.LIMIT)


def test_bytes_beyond_the_limit_are_not_looked_at() -> None:
    padded = b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_BYTES + b"\r\nHost: a.example\r\n\r\n"
    assert detect(padded) == Detection(Protocol.HTTP1, Reason.LIMIT)
    assert detect(padded, 2 * MAX_BYTES) == http1("a.example")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good stream with a few bytes changed, taken out or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def beginnings(rest: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that get past the opening, so that the readers have something to chew."""
    starts = [
        b"",
        b"\x16\x03",
        b"\x16\x03\x01\x01\x00\x01\x00",
        b"GET / HTTP/1.1\r\n",
        HTTP2_PREFACE,
        HTTP2_PREFACE + b"\0\0",
    ]
    return st.builds(bytes.__add__, st.sampled_from(starts), rest)


LINES = st.lists(
    st.binary(max_size=20) | st.sampled_from([b"Host: a", b"GET / HTTP/1.1", b"A: b", b""]), max_size=6
).map(b"\r\n".join)
STREAMS = damaged() | beginnings(st.binary(max_size=300)) | beginnings(LINES)


def known(result: Run) -> tuple[Detection | None, int | None]:
    return result.detection, None if result.detection is None else result.fed


@settings(max_examples=300)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=6), st.integers(1, 500) | st.just(MAX_BYTES))
@example(b"", [], 1)
@example(b"\x16\x03\x00\x00\x00", [], 5)
def test_whatever_comes_is_judged_the_same_however_it_is_cut(data: bytes, cuts: list[int], limit: int) -> None:
    """Nothing raises; and the byte that decides, with what it decides, is a matter of the bytes alone."""
    detection, decided_by = known(run(singly(data), limit))
    assert run([data], limit).detection == detection
    assert run(cut(data, *sorted(min(c, len(data)) for c in cuts)), limit).detection == detection
    assert known(run(singly(data), limit, heed_needed=True)) == (detection, decided_by)
    if decided_by is not None:
        assert decided_by <= limit
        assert detect(data[:decided_by], limit) == detection
        assert detect(data[: decided_by - 1], limit) is None
        if detection != NOT_THIS:
            assert detection is not None
            assert (detection.reason is Reason.FOUND) or (detection.sni, detection.host, detection.alpn) == (
                None,
                None,
                (),
            )


NAMES = st.text(alphabet="abcxyz019-_.*:[]@%/ \0\x7füß中İ\u200d", max_size=40)


@settings(max_examples=150)
@given(NAMES)
def test_odd_names_are_usable_or_absent(name: str) -> None:
    for stream in (
        records(hello(sni(b"x" + name.encode()))),
        b"GET / HTTP/1.0\r\nHost: " + name.encode() + b"\r\n\r\n",
        b"CONNECT " + name.encode() + b" HTTP/1.0\r\n\r\n",
    ):
        detection = detect(stream)
        assert detection is not None
        found = detection.sni or detection.host
        assert found is None or (found == found.lower() and found.isascii() and not found.endswith("."))
