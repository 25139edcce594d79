"""Our reader of HTTP/1 heads against h11, a strict and widely used one: whatever that accepts, with the same host."""

from __future__ import annotations

import re
from time import thread_time

import h11
import pytest
from first_bytes import cut
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datapath.protocols.detect import MAX_BYTES, Detector, detect_at_once
from datapath.protocols.http1 import Http1Reader, Http1Request, read_head
from datapath.protocols.http1_requests import Http1Cutter
from datapath.protocols.requests import Request
from datapath.protocols.result import NeedMore, Rejected, host_name

ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
PLAIN = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


def by_h11(data: bytes) -> tuple[str, str | None]:
    """The verdict of h11's server side, and the host by the rules of RFC 9112 3.2 applied to what it read."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return "malformed", None
    if not isinstance(event, h11.Request):
        return "incomplete", None
    absolute = ABSOLUTE.match(event.target)
    if event.method == b"CONNECT":
        return "request", host_name(event.target)
    if absolute is not None:
        return "request", host_name(absolute[1].rpartition(b"@")[2])
    hosts = [value for name, value in event.headers if name == b"host"]
    return "request", host_name(hosts[0]) if hosts else None


def by_us(data: bytes, *positions: int) -> tuple[str, str | None]:
    """The same by our reader, fed in pieces."""
    reader = Http1Reader()
    for piece in cut(data, *positions):
        outcome = reader.feed(piece)
        if isinstance(outcome, Rejected):
            return "malformed", None
        if isinstance(outcome, Http1Request):
            return "request", outcome.host
        assert isinstance(outcome, NeedMore)
    return "incomplete", None


ENDS = st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b"\n\r"])
NAMES = st.sampled_from(
    b"Host|host|HOST|Host | Host|Host\t|\0Host|H\xf6st||A|X-Host|Hos|Content-Length|content-length|Transfer-Encoding"
    b"|transfer-encoding|Transfer-Encoding ".split(b"|")
)
COLONS = st.sampled_from([b":", b": ", b":\t", b" :", b"", b"::", b":  "])
VALUES = st.sampled_from(
    b"a.example|b.example|A.Example.:80|[::1]|| |a b|a,b|\0|\x0b|\x0c|\x7f|a\tb|\xff|chunked|Chunked|gzip, chunked"
    b"|chunked, chunked|5|5, 5|5,6|+5|05|-1|99999999999999999999|999999999999999999999|a.example\r\n b"
    b"|a.example\r\n\t|\r\n a.example|a\n b".split(b"|")
)
FIELDS = st.builds(lambda name, colon, value, end: name + colon + value + end, NAMES, COLONS, VALUES, ENDS)
TARGETS = st.sampled_from(
    b"/|/a?b=http://x/|*|http://a.example/|HTTP://u:p@A.example:1?q|https://[::1]:1/|http:///x|a.example:443"
    b"|//a.example/|/\xff|/\x7f|/ b|x://a@b@c/".split(b"|")
)
LINES = st.builds(
    lambda method, target, version, end: method + b" " + target + b" " + version + end,
    st.sampled_from([b"GET", b"CONNECT", b"OPTIONS", b"P!#$", b"connect"]),
    TARGETS,
    st.sampled_from(
        [b"HTTP/1.1"] * 4 + [b"HTTP/1.0", b"HTTP/1.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.10", b"HTTP/1."]
    ),
    ENDS,
)
HEADS = st.builds(
    lambda line, fields, end, rest: line + b"".join(fields) + end + rest,
    LINES,
    st.lists(FIELDS, max_size=5),
    st.sampled_from([b"\r\n"] * 4 + [b"\n", b"", b"\r", b" \r\n"]),
    st.sampled_from([b"", b"", b"body", b"\r\n", b"\n\n", b"Host: c\r\n\r\n"]),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good head with a few bytes changed, taken out or put in."""
    data = bytearray(b"POST /x HTTP/1.1\r\nA: b\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b"\r\n", b"\n", b"\n ", b":", b" ", b"\0"])
        )
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(HEADS | damaged(), st.lists(st.integers(0, 300), max_size=3))
@example(b"GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n", [])
@example(b"GET / HTTP/1.0\r\n\r\n", [])
def test_what_h11_accepts_has_the_same_host(data: bytes, positions: list[int]) -> None:
    # Before the request line both skip nothing, and only we bound the method; the opening sees to both.
    if not re.match(rb"[!-~]{1,32} ", data) or not re.search(rb"\n\r?\n", data):
        return
    if not re.match(rb"[^ \r\n]+ [^ \r\n]+ HTTP/1\.[0-9]\r?\n", data):
        return  # not for this reader: the opening lets no such line through
    expected, ours = by_h11(data), by_us(data)
    assert ours == expected or expected == ("malformed", None)
    assert by_us(data, *sorted(min(p, len(data)) for p in positions)) == ours


@settings(max_examples=300, deadline=None)
@given(HEADS | damaged())
@example(b"GET / HTTP/1.1\r\nHost: \t a.example \t\r\n\r\n")
@example(b"GET / HTTP/1.0\r\n\r\n")
@example(b"GET /" + b"a" * (16 << 10) + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
def test_a_request_that_is_followed_has_the_same_host(data: bytes) -> None:
    begun = [piece.begins for piece in Http1Cutter().feed(data) if piece.begins is not None]
    if begun and isinstance(begun[0], Request):
        assert read_head(data.lstrip(b"\r\n")) == Http1Request(begun[0].host)


@settings(max_examples=250, deadline=None)
@given(HEADS | damaged())
def test_what_is_detected_at_once_is_what_the_long_way_finds(data: bytes) -> None:
    """The quick way may say nothing, but never something else."""
    at_once = detect_at_once(data)
    if at_once is not None:
        detector = Detector()
        answer = None
        for byte in range(len(data)):  # byte by byte nothing is ever whole at once
            answer = detector.feed(data[byte : byte + 1])
            if answer is not None:
                break
        assert answer == at_once


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"Host: a.example\r\nHost: a.example\r\n", id="the same Host twice"),
        pytest.param(b"Host: a.example\r\nhost:b.example\r\n", id="two Hosts, one in small letters"),
        pytest.param(b"Host : a.example\r\n", id="space before the colon"),
        pytest.param(b"Host\t: a.example\r\n", id="tab before the colon"),
        pytest.param(b" Host: a.example\r\n", id="fold behind the request line"),
        pytest.param(b"Host: a.example\0\r\n", id="NUL"),
        pytest.param(b"Host: a.example\rX: b\r\n", id="lone CR within a field"),
        pytest.param(b"Host: a.example\r\r\n", id="two CRs"),
        pytest.param(b"A: b\r\n", id="no Host in HTTP/1.1"),
    ],
)
def test_where_the_host_is_in_doubt_the_head_is_malformed(fields: bytes) -> None:
    head = b"GET / HTTP/1.1\r\n" + fields + b"\r\n"
    assert by_us(head) == by_h11(head) == ("malformed", None)


def test_a_folded_host_is_joined_by_a_space_and_so_is_no_name() -> None:
    assert by_us(b"GET / HTTP/1.1\r\nHost: a.exa\r\n mple\r\n\r\n") == ("request", None)
    assert by_us(b"GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n") == ("request", "a.example")


@pytest.mark.parametrize("ending", [b"\0\r\n\r\n", b":\r\n\r\n", b"\r\n\r\n"], ids=["NUL", "colon", "end"])
@pytest.mark.parametrize(
    "piece",
    [b"A: b\r\n", b"A", b" ", b"A: b\r\n c\r\n ", b"Host: a\r\n", b"\r", b"A:\n\t", b"Host:\n\t", b"\n:", b"A: "],
)
def test_a_bad_head_takes_time_in_proportion_to_its_length(piece: bytes, ending: bytes) -> None:
    """No input makes the expressions go back and try again: four times the bytes take four times as long, not sixteen."""

    def seconds(size: int) -> float:
        head = b"GET / HTTP/1.1\r\n" + piece * (size // len(piece)) + ending
        times = []
        for _ in range(5):
            start = thread_time()
            by_us(head)
            times.append(thread_time() - start)
        return min(times)

    assert seconds(MAX_BYTES) < 9 * seconds(MAX_BYTES // 4) + 0.0005


def test_long_targets_and_methods_are_left_to_the_opening() -> None:
    assert read_head(PLAIN) == Http1Request("a.example")
    assert read_head(PLAIN.replace(b"GET", b"G" * 33)) is None
    assert read_head(PLAIN.replace(b"/ ", b"/" + b"a" * (16 << 10) + b" ")) is None
