"""docs/explanation/evasion.md: each of its rows is a trick that is played here, and has the class that the page says."""

from __future__ import annotations

import re
from collections.abc import Callable

import hpack
import pytest
from captured import Talk, flows
from evasion_page import POLICY, rows
from first_bytes import alpn, extension, hello, records, server_names, sni
from test_http2_at_once import GET, SETTINGS, frame, request

from datapath.protocols.http1_requests import Http1Cutter, SwitchedCutter
from datapath.protocols.http2_requests import Http2Cutter
from datapath.protocols.requests import AMBIGUOUS, Cutter, Request
from datapath.protocols.sniff import HTTP2_PREFACE
from datapath.routing.flow import Content, Destination
from datapath.routing.table import RoutingTable
from podlane.classify.verdicts import FlowClassifier, Verdict
from traffic_policy.policy_file import parse_policy

JUDGE = FlowClassifier(parse_policy(POLICY))
API, BACKUP = b"api.example.com", b"backup.example.com"


def head(*fields: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def tls(*names: bytes, more: bytes = b"") -> bytes:
    return records(hello(*map(sni, names), more))


def h2(fields: list[tuple[bytes, bytes]]) -> bytes:
    return HTTP2_PREFACE + SETTINGS + request(fields)


def fields(authority: bytes | None, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    named = [(b":authority", authority)] if authority is not None else []
    return [*(f for f in GET if f[0] != b":authority"), *named, *more]


TLS: dict[str, bytes] = {
    "SNI and inner Host differ": tls(API) + b"\x17\x03\x03\0\x40" + b"sealed" * 10,
    "domain fronting": tls(API, more=alpn(b"h2")),
    "ECH": tls(API, more=extension(0xFE0D, b"\0" + b"inner" * 40)),
    "no SNI": tls(),
    "an address as SNI": tls(b"192.0.2.1"),
    "a hyphen at the edge of a label": tls(b"a-.xn--bcher-kva.example"),
    "upper case": tls(b"API.Example.COM"),
    "trailing dot": tls(API + b"."),
    "A-label": tls(b"xn--bcher-kva.example"),
    "U-label in SNI": tls("bücher.example".encode()),
    "port in SNI": tls(API + b":443"),
    "brackets around a name in SNI": tls(b"[" + API + b"]"),
    "NUL in a name": tls(API + b"\0.evil.example"),
    "space in a name": tls(b"api.example.com "),
    "a name of 254 characters": tls(b"a." * 120 + b"api.example.com"[1:]),
    "an empty name": tls(b""),
    "two names in SNI": records(hello(server_names((0, API), (0, BACKUP)))),
    "SNI twice": tls(BACKUP, API),
    "another extension twice": tls(API, more=extension(0x0A0A) + extension(0x0A0A)),
    "hello in many records": records(hello(sni(API)), (1,)),
    "empty records": b"\x16\x03\x01\0\0" * 8 + tls(API),
    "another version in the record": records(hello(sni(API)), version=0x0300),
    "a version that nobody knows": records(hello(sni(API), version=0x1800)),
    "alert before the hello": records(b"\x01\x64", kind=0x15) + tls(API),
    "hello of SSLv2": b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + b"\0\0\x2f" * 7 + b"C" * 16,
    "hello over 64 KiB": records(hello(sni(API), extension(21, bytes(60_000)), suites=b"\x13\x01" * 4_000)),
    "garbage before the hello": b"\0\0\0\0" + tls(API),
    "PROXY protocol first": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n" + tls(API),
    "PROXY protocol 2 first": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + tls(API),
    "PROXY protocol twice": 2 * b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n" + tls(API),
    "PROXY protocol of 5,000 bytes": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x13\x78" + bytes(4984) + tls(API),
    "TLS begun later (STARTTLS)": b"EHLO me\r\nSTARTTLS\r\n" + tls(API),
}  # fmt: skip

HTTP: dict[str, bytes] = {
    "Host in two fields": head(b"Host: " + API, b"Host: " + BACKUP),
    "absolute-form and another Host": head(b"Host: " + API, target=b"http://backup.example.com/x"),
    "userinfo in the target": head(b"Host: x.example", target=b"http://backup.example.com:1@api.example.com/"),
    "userinfo in Host": head(b"Host: backup.example.com@api.example.com"),
    "CONNECT": head(b"Host: " + BACKUP, target=API + b":443", method=b"CONNECT"),
    "an address as Host": head(b"Host: 192.0.2.1:80"),
    "no Host": head(version=b"1.0"),
    "no Host in HTTP/1.1": head(),
    "HTTP/0.9": b"GET /\r\n",
    "upper case in Host": head(b"hOST: API.Example.COM"),
    "trailing dot in Host": head(b"Host: api.example.com."),
    "port in Host": head(b"Host: api.example.com:8443"),
    "port that is none": head(b"Host: api.example.com:8x"),
    "two ports": head(b"Host: api.example.com:80:443"),
    "brackets around a name": head(b"Host: [api.example.com]"),
    "U+00A0 before the name": head("Host: \u00a0api.example.com".encode()),
    "U-label": head("Host: bücher.example".encode()),
    "U-label and A-label mixed": head("Host: xn--bcher-kva.bücher.example".encode()),
    "full-width letters": head("Host: ａpi.example.com".encode()),
    "percent-encoded": head(b"Host: %61pi.example.com"),
    "NUL in Host": head(b"Host: api.example.com\0"),
    "space in Host": head(b"Host: api.example.com x"),
    "tabs around Host": head(b"Host:\t api.example.com \t"),
    "a Host of 300 characters": head(b"Host: " + b"a." * 143 + b"api.example.com"),
    "space before the colon": head(b"Host : api.example.com"),
    "bytes above 7f in the target": head(b"Host: " + API, target="/bücher".encode()),
    "a line that is no field": head(b"nonsense", b"Host: " + API),
    "a Content-Length that is none": head(b"Host: " + API, b"Content-Length: x"),
    "a Transfer-Encoding that nobody knows": head(b"Host: " + API, b"Transfer-Encoding: x"),
    "several spaces in the request line": head(b"Host: " + API).replace(b" /", b"   /").replace(b" HTTP", b"  HTTP"),
    "spaces behind the version": head(b"Host: " + API, version=b"1.1  "),
    "tabs in the request line": head(b"Host: " + API).replace(b"GET ", b"GET\t"),
    "HTTP/1.10": head(b"Host: " + API, version=b"1.10"),
    "HTTP/2.0 in the form of HTTP/1": head(b"Host: " + API).replace(b"HTTP/1.1", b"HTTP/2.0"),
    "RTSP/1.0 for HTTP/1.1": head(b"Host: " + API, method=b"OPTIONS").replace(b"HTTP/1.1", b"RTSP/1.0"),
    "fields in HTTP/0.9": head(b"Host: " + API).replace(b" HTTP/1.1", b""),
    "a method of 40 letters": head(b"Host: " + API, method=b"G" * 40),
    "folded Host": head(b"Host:", b" api.example.com"),
    "bare line feeds": head(b"Host: " + API).replace(b"\r", b""),
    "empty lines first": b"\r\n\r\n" + head(b"Host: " + API),
    "a thousand empty lines first": b"\r\n" * 1000 + head(b"Host: " + API),
    "Host in a trailer": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: api.example.com\r\n\r\n",
    "a head over 65 KiB": head(b"X: " + b"y" * 70_000, b"Host: " + API),
    ":authority": h2(fields(API)),
    ":authority and another Host": h2(fields(API, (b"host", BACKUP))),
    "fields that HTTP/2 forbids": h2(fields(API, (b"connection", b"close"), (b"x y", b" z"))),
    "two fields :authority": h2(fields(API, (b":authority", BACKUP))),
    "HTTP/2 with Host alone": h2(fields(None, (b"host", API))),
    "HTTP/2 without a name": h2(fields(None)),
    ":authority with userinfo": h2(fields(b"x@api.example.com")),
    "HTTP/2 in CONTINUATION frames": HTTP2_PREFACE + SETTINGS + frame(1, hpack.Encoder().encode(fields(API))[:5], 1, 1)
    + frame(9, hpack.Encoder().encode(fields(API))[5:], 4, 1),
    "RST_STREAM before the request": HTTP2_PREFACE + SETTINGS + frame(3, bytes(4), 0, 1) + request(fields(API)),
    "garbage before the request": b"\0" + head(b"Host: " + API),
}  # fmt: skip


def verdict(first: bytes, port: int) -> Verdict:
    """What ``podlane classify`` says of a connection whose client says this first, in segments."""
    talk = Talk(dport=port).open()
    for at in range(0, len(first), 1400):
        talk.up(first[at : at + 1400])
    talk.close()
    (flow,), _ = flows(talk.packets)
    return JUDGE.verdict(flow)


@pytest.mark.parametrize(("heading", "port", "tricks"), [("TLS", 443, TLS), ("HTTP", 80, HTTP)], ids=["TLS", "HTTP"])
def test_each_trick_gets_the_class_that_the_page_says(heading: str, port: int, tricks: dict[str, bytes]) -> None:
    assert {name: verdict(first, port).class_name for name, first in tricks.items()} == rows(heading)


# --- requests after the first --------------------------------------------------------------------------------------------

A, B = head(b"Host: " + API), head(b"Host: " + BACKUP)
POST = b"POST / HTTP/1.1\r\nHost: api.example.com\r\n%b\r\n%b"
SECOND = frame(1, hpack.Encoder().encode(fields(BACKUP)), 5, 3)

FOLLOWED: dict[str, tuple[Callable[[], Cutter], bytes]] = {
    "another Host on the same connection": (Http1Cutter, A + B),
    "duplicate Host in the second request": (Http1Cutter, A + HTTP["Host in two fields"] + A),
    "Content-Length beside Transfer-Encoding": (
        Http1Cutter, POST % (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n") + A
    ),
    "a request hidden in a body": (Http1Cutter, POST % (b"Content-Length: %d\r\n" % len(B), B) + A),
    "bare line feeds, followed": (Http1Cutter, HTTP["bare line feeds"] + A),
    "another :authority on the same connection": (Http2Cutter, h2(fields(API)) + SECOND),
    "Host beside another :authority": (Http2Cutter, HTTP[":authority and another Host"] + SECOND),
    "a request behind CONNECT": (Http1Cutter, HTTP["CONNECT"] + B),
    "other bytes behind CONNECT": (Http1Cutter, HTTP["CONNECT"] + tls(BACKUP)),
    "bare line feeds behind Upgrade": (
        Http1Cutter, head(b"Host: " + API, b"Upgrade: websocket", b"Connection: upgrade") + HTTP["bare line feeds"]
    ),
    "behind a switch": (SwitchedCutter, B),
    "HTTP/2 behind a switch": (SwitchedCutter, h2(fields(API)) + SECOND),
}  # fmt: skip


def followed(make: Callable[[], Cutter], stream: bytes) -> list[str]:
    """The classes that a followed connection goes through."""
    table = RoutingTable.from_policy(parse_policy(re.sub("(?m)^total:", "requests: follow\ntotal:", POLICY)))
    where = Destination.parse("192.0.2.1", 80)
    assert table.requests_may_differ(where)
    begun = [piece.begins for piece in make().feed(stream) if piece.begins is not None]
    return [
        table.route(where, Content(host=what.host)).class_name if isinstance(what, Request)
        else table.strictest(where) if what is AMBIGUOUS else "the same"
        for what in begun
    ]  # fmt: skip


def test_each_trick_of_later_requests_gets_the_classes_that_the_page_says() -> None:
    said = rows("Requests after the first")
    assert set(said) == set(FOLLOWED)
    for name, (make, stream) in FOLLOWED.items():
        classes = [c for c in followed(make, stream) if c != "the same"]
        assert ", ".join(dict.fromkeys(classes)) == said[name], name


# --- on the wire ---------------------------------------------------------------------------------------------------------


def test_of_bytes_that_come_twice_the_first_count() -> None:
    talk = Talk(dport=443).open()
    start = talk.client_next
    first, again = tls(API), tls(BACKUP)
    talk.up(first[:60])
    talk.client_next = start
    talk.up(again[:60])
    talk.up(first[60:])
    (flow,), _ = flows(talk.packets)
    told = rows("On the wire")["bytes sent twice, with another name"]
    assert JUDGE.verdict(flow).class_name == told.partition(", ")[0] == "api", "as with a relay"
