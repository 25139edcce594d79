"""Answers on one HTTP/1 connection: how many have come whole, where each ended, and when that is over."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.protocols.http1_answers import MAX_OUTSTANDING, Http1Answers, Over
from datapath.protocols.requests import Request

GET, HEAD, CONNECT = (Request("a.example", method) for method in (b"GET", b"HEAD", b"CONNECT"))
UPGRADE = Request("a.example", b"GET", upgrade=True)


def read(asked: list[Request], stream: bytes, *places: int) -> Http1Answers:
    """What is known when these requests have been sent and this stream has come, cut at these places."""
    answers = Http1Answers()
    for request in asked:
        answers.expect(request)
    for start, end in itertools.pairwise([0, *sorted(places), len(stream)]):
        while start < end and answers.left > 0:  # as a direction that splices
            size = min(answers.left, end - start)
            answers.skip(size)
            start += size
        if start < end:
            answers.feed(stream[start:end])
    return answers


bodies = st.one_of(
    st.binary(max_size=100).map(lambda body: (b"Content-Length: %d\r\n" % len(body), body)),
    st.lists(st.binary(min_size=1, max_size=60), max_size=4).map(
        lambda chunks: (
            b"Transfer-Encoding: chunked\r\n",
            b"".join(b"%X\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\nT: v\r\n\r\n",
        )
    ),
)
answers_drawn = st.one_of(
    st.builds(
        lambda status, body: (GET, b"HTTP/1.1 %d Some reason\r\nServer: x\r\n%b\r\n%b" % (status, *body)),
        st.sampled_from([200, 201, 301, 404, 500]),
        bodies,
    ),
    st.builds(
        lambda body: (HEAD, b"HTTP/1.1 200 OK\r\n%b\r\n" % body[0]),
        bodies,
    ),
    st.sampled_from(
        [
            (GET, b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
            (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n"),
            (GET, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 \r\n\r\n"),
            (CONNECT, b"HTTP/1.1 405 Not Allowed\r\nContent-Length: 3\r\n\r\nno!"),
            (UPGRADE, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ]
    ),
)


@settings(max_examples=200)
@given(st.lists(answers_drawn, min_size=1, max_size=5), st.lists(st.integers(0, 1500), max_size=8))
def test_each_answer_ends_where_it_ends_however_the_stream_is_cut(
    drawn: list[tuple[Request, bytes]], places: list[int]
) -> None:
    asked, texts = [request for request, _ in drawn], [text for _, text in drawn]
    stream = b"".join(texts)
    answers = read(asked, stream, *(p for p in places if p <= len(stream)))
    assert (answers.whole, answers.end, answers.over) == (len(drawn), len(stream), None)
    without_last = read(asked, stream[:-1], *(p for p in places if p < len(stream)))
    assert (without_last.whole, without_last.end) == (len(drawn) - 1, len(stream) - len(texts[-1]))


@settings(max_examples=150)
@given(st.lists(answers_drawn, min_size=1, max_size=4))
def test_h11_sees_the_same_ends(drawn: list[tuple[Request, bytes]]) -> None:
    stream = b"".join(text for _, text in drawn)
    at = 0
    for number, (request, _) in enumerate(drawn):
        client = h11.Connection(h11.CLIENT)
        headers = [("Host", "a.example"), *([("Upgrade", "x"), ("Connection", "upgrade")] if request.upgrade else [])]
        target = "a.example:1" if request is CONNECT else "/"
        client.send(h11.Request(method=request.method, target=target, headers=headers))
        client.send(h11.EndOfMessage())
        client.receive_data(stream[at:])
        while not isinstance(client.next_event(), h11.EndOfMessage):
            pass
        at = len(stream) - len(client.trailing_data[0])
        assert read([r for r, _ in drawn], stream[:at]).end == at
        assert read([r for r, _ in drawn], stream[:at]).whole == number + 1


def test_an_answer_until_the_end_of_the_connection_never_ends() -> None:
    answers = read([GET, GET], b"HTTP/1.1 200 OK\r\n\r\n" + b"HTTP/1.1 204 No Content\r\n\r\n" * 3)
    assert (answers.whole, answers.over) == (0, None)
    assert answers.left > 1 << 40


def test_lenient_heads() -> None:
    stream = b"HTTP/1.0 200\nContent-Length : 5 \n\nhello"
    stream += b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n0\r\n\r\n"
    assert (read([GET, GET], stream).whole, read([GET, GET], stream).over) == (2, None)


LOST = {
    "nobody asked": ([], b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
    "a second answer": ([GET], b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 204 No\r\n\r\n"),
    "no HTTP": ([GET], b"220 mail.example ESMTP\r\n\r\n"),
    "length and coding": ([GET], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "two lengths": ([GET], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n"),
    "no length": ([GET], b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n"),
    "odd chunks": ([GET], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n"),
    "a head without end": ([GET], b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000),
    "a switch that nobody asked for": ([GET], b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "a switch to CONNECT with a length": ([CONNECT], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "a switch to CONNECT in chunks": ([CONNECT], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
@pytest.mark.parametrize("size", [7, 1 << 20], ids=["in sevens", "at once"])
def test_what_is_in_doubt_is_not_counted_any_more(case: str, size: int) -> None:
    asked, stream = LOST[case]
    answers = read(asked, stream, *range(size, len(stream), size))
    assert answers.over is Over.LOST
    assert answers.whole == (1 if case == "a second answer" else 0)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (UPGRADE, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        (CONNECT, b"HTTP/1.1 200 Connection established\r\n\r\n"),
    ],
    ids=["101 to Upgrade", "2xx to CONNECT"],
)
def test_a_switch(request_: Request, answer: bytes) -> None:
    asked = [GET, request_]
    before = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert read(asked, before + answer[:-1]).over is None
    answers = read(asked, before + answer + b"\x81\x05hello")
    assert (answers.over, answers.whole, answers.end) == (Over.SWITCHED, 1, len(before))


def test_too_many_requests_without_an_answer_are_not_remembered() -> None:
    answers = Http1Answers()
    assert all(answers.expect(GET) for _ in range(MAX_OUTSTANDING))
    assert not answers.expect(GET)
    assert answers.over is Over.LOST
    assert answers.expect(GET)
    assert answers.asked == MAX_OUTSTANDING + 1
