"""HTTP/1 heads: which host is meant, what is refused, and how early."""

from __future__ import annotations

import pytest
from first_bytes import NOT_THIS, count_calls, cut, detect, detect_every_way, http1, malformed, run, singly

from datapath.protocols.detect import MAX_BYTES, Detection, Protocol, Reason
from datapath.protocols.sniff import MAX_REQUEST_LINE

MALFORMED = malformed(Protocol.HTTP1)


@pytest.mark.parametrize(
    ("head", "host"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "api.example.com", id="plain"),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: b\r\nhOST:API.Example.com.:8080 \r\nC: d\r\n\r\n",
            "api.example.com",
            id="case, dot, port, spaces",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n", "2001:db8::1", id="IPv6 literal"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", "192.0.2.1", id="IPv4 literal"),
        pytest.param(
            "GET / HTTP/1.1\r\nHost: bücher.example\r\n\r\n".encode(), "xn--bcher-kva.example", id="raw UTF-8"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: b\xfccher.example\r\n\r\n", None, id="raw latin-1"),
        pytest.param(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", None, id="empty Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None, id="Host that is no name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: " + b"n" * 600 + b"\r\n\r\n", None, id="Host too long for a name"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a" + "\u00ad".encode() * 600 + b".example\r\n\r\n",
            None,
            id="Host too long for a name, if IDNA did not drop soft hyphens",
        ),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", None, id="HTTP/1.0 without Host"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", "a.example", id="HTTP/1.0 with Host"),
        pytest.param(b"GET / HTTP/1.9\r\nHost: a.example\r\n\r\n", "a.example", id="HTTP/1.9"),
        pytest.param(
            b"GET http://a.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n", "a.example", id="absolute-form wins"
        ),
        pytest.param(
            b"GET HTTP://User:p%40w@A.example:81?q=http://c HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "a.example",
            id="absolute-form with everything",
        ),
        pytest.param(b"GET https://[::1]:1/ HTTP/1.1\r\nHost: b.example\r\n\r\n", "::1", id="absolute-form, IPv6"),
        pytest.param(b"GET http:///x HTTP/1.1\r\nHost: b.example\r\n\r\n", None, id="absolute-form without authority"),
        pytest.param(
            b"GET /http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", "b.example", id="URL within the path"
        ),
        pytest.param(b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", "a.example", id="CONNECT"),
        pytest.param(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", "::1", id="CONNECT, IPv6"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="asterisk-form"),
        pytest.param(
            b"UPDATEREDIRECTREF / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="longest registered method"
        ),
        pytest.param(b"m-search|x! / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="any token is a method"),
        pytest.param(b"PRI * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="almost an HTTP/2 preface"),
        pytest.param(b"P /* HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="begins like the HTTP/2 preface"),
        pytest.param(b"\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="an empty line before"),
        pytest.param(
            b"\r\n\n\r" * 5000 + b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="many empty lines before"
        ),
        pytest.param(b"GET   / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="spaces before the target"),
        pytest.param(b"GET /    HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", id="spaces before the version"),
        pytest.param(b"GET / HTTP/1.1   \r\nHost: a.example\r\n\r\n", "a.example", id="spaces behind the version"),
        pytest.param(b"GET / HTTP/1.1  \nHost: a.example\n\n", "a.example", id="spaces before a lone LF"),
        pytest.param(b"GET / HTTP/1.10\r\nHost: a.example\r\n\r\n", "a.example", id="HTTP/1.10"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", "a.example", id="HTTP/2.0 in HTTP/1"),
        pytest.param(b"GET / HTTP/0.9\r\nHost: a.example\r\n\r\n", "a.example", id="HTTP/0.9 with a version"),
        pytest.param(b"GET / HTTP/1.1\nHost: a.example\n\n", "a.example", id="lone LFs"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n .example\r\n\r\n", None, id="folded Host"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
            "a.example",
            id="h2c upgrade",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", "a.example", id="with a body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            "a.example",
            id="with a broken chunk behind",
        ),
    ],
)
def test_host_of_the_request(head: bytes, host: str | None) -> None:
    assert detect_every_way(head) == http1(host)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", id="two Hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", id="HTTP/1.1 without Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", id="space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", id="first header folded"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a.example\r\nA: \0\r\n\r\n", id="NUL in a header"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSX", id="broken HTTP/2 preface"),
        pytest.param(b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface after an empty line"),
    ],
)
def test_heads_that_a_server_would_refuse_are_malformed(head: bytes) -> None:
    assert detect_every_way(head) == MALFORMED


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a.example\r\n\r\n", id="raw byte in the target"),
        pytest.param(b"GET / HTTP/1.1\r\nH\xf6st: b\r\nHost: a.example\r\n\r\n", id="a name that is no token"),
        pytest.param(b"GET / HTTP/1.1\r\n: b\r\nHost: a.example\r\n\r\n", id="no name"),
        pytest.param(b"GET / HTTP/1.1\r\nb\r\nHost: a.example\r\n\r\n", id="no colon"),
        pytest.param(b"GET / HTTP/1.1\r\nA: \x01\x0b\x0c\r\nHost: a.example\r\n\r\n", id="controls"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a.example:8x\r\n\r\n", id="port that is none"),
        *(
            pytest.param(b"GET / HTTP/1.1\r\nHost: a.example\r\n" + more + b"\r\n\r\n", id=repr(more)[2:40])
            for more in (
                b"Content-Length: x", b"Content-Length:", b"Content-Length: +5", b"Content-Length: 5, 6",
                b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: " + b"9" * 5000,
                b"Transfer-Encoding: gzip", b"Transfer-Encoding:", b"Transfer-Encoding: xchunked",
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            )
        ),
    ],
)  # fmt: skip
def test_what_some_server_overlooks_does_not_hide_the_host(head: bytes) -> None:
    """Each of these is served by one of nginx, Go and Node.js, or differs from such a one in what decides nothing."""
    assert (
        detect(head)
        == run(singly(head)).detection
        == run(singly(head), heed_needed=True).detection
        == http1("a.example")
    )


@pytest.mark.parametrize(
    "host", [b"[a.example]", "\u00a0a.example".encode(), b"a.example, b.example", b"%61.example", b"a.example:1:2"]
)
def test_what_no_server_reads_as_that_name_is_none(host: bytes) -> None:
    assert detect(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == http1(None)


@pytest.mark.parametrize(
    ("opening", "decided_by"),
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r", 39, id="SSH with a comment"),
        pytest.param(b"SSH-2.0-Go\r", 11, id="SSH"),
        pytest.param(b"EHLO mail.example\r", 18, id="SMTP"),
        pytest.param(b"PING\r", 5, id="Redis, inline"),
        pytest.param(b"*1\r", 3, id="Redis, RESP"),
        pytest.param(b"get key\r", 8, id="memcached"),
        pytest.param(b'CONNECT {"verbose":false}\r', 26, id="NATS"),
        pytest.param(b'CONNECT {"verbose": f', 21, id="NATS with spaces"),
        pytest.param(b"\r\n\r\n\1", 5, id="nothing behind empty lines"),
        pytest.param(b"GET /\r", 6, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/x", 12, id="no version"),
        pytest.param(b"GET / HTTP/1.x", 14, id="half a version"),
        pytest.param(b"GET / HTTP/1.1 x", 16, id="more behind the version"),
        pytest.param(b"GET / HTTP/1.1\t", 15, id="a tab behind the version"),
        pytest.param(b"GET / HTTP/1.1\rX", 16, id="lone CR"),
        pytest.param(b"GET / http", 7, id="small letters"),
        pytest.param(b"GET \t", 5, id="a space and a tab"),
        pytest.param(b"GET /a \t", 8, id="a space and a tab behind the target"),
        pytest.param(b"OPTIONS rtsp://a/b R", 20, id="RTSP"),
        pytest.param(b"INVITE sip:a@b S", 16, id="SIP"),
        pytest.param(b"HTTP/", 5, id="a response"),
        pytest.param(b" GET", 1, id="space first"),
        pytest.param(b"\0\0\0\x08", 1, id="PostgreSQL"),
        pytest.param(b"\x13BitTorrent", 1, id="BitTorrent"),
        pytest.param(b"\x80\x2e\x01\x03\x01", 1, id="hello of SSLv2"),
        pytest.param(b"\x16\x02", 2, id="16 of something else"),
        pytest.param(b"\r\n\x16\x03", 3, id="TLS after an empty line"),
        pytest.param(b"\x4a\0\0\0", 2, id="MongoDB"),
        pytest.param(b"M" * 40, 33, id="a word without end"),
    ],
)
def test_other_protocols_are_told_by_the_earliest_byte(opening: bytes, decided_by: int) -> None:
    assert detect_every_way(opening) == NOT_THIS
    assert run(singly(opening)).fed == decided_by


def test_target_without_end_is_given_up() -> None:
    line = b"GET /" + b"a" * MAX_REQUEST_LINE
    dripped = run(singly(line))
    assert dripped.detection == detect(line) == Detection(Protocol.OPAQUE, Reason.LIMIT)
    assert dripped.fed == len(b"GET ") + MAX_REQUEST_LINE + 1
    longest = line[: len(b"GET ") + MAX_REQUEST_LINE] + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"
    assert detect(longest) == http1("a.example")


def test_head_up_to_the_limit_and_over_it() -> None:
    start, end = b"GET / HTTP/1.1\r\nA: ", b"\r\nHost: a.example\r\n\r\n"
    head = start + b"x" * (MAX_BYTES - len(start) - len(end)) + end
    assert detect(head) == run(cut(head, *range(1000, len(head), 1000))).detection == http1("a.example")
    over = Detection(Protocol.HTTP1, Reason.LIMIT)
    assert detect(b"\r\n" + head) == over
    dripped = run(cut(b"\r\n" + head, *range(1000, len(head), 1000)))
    assert dripped.detection == over
    assert detect_every_way(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 20) == over


def test_work_is_linear_in_the_bytes_of_a_dripping_head() -> None:
    def drip(size: int) -> None:
        assert run(singly(b"GET / HTTP/1.1\r\nHost: a.example\r\nA: " + b"x" * size + b"\r\n\r\n")).detection == http1(
            "a.example"
        )

    small, large = count_calls(lambda: drip(2000)), count_calls(lambda: drip(8000))
    assert large < 4.2 * small
