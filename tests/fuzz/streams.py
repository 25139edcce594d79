"""Harnesses for what a client says first: ClientHello, HTTP/1 and HTTP/2, and the cutters of requests.

A harness takes bytes and raises when something is not as promised. What is promised is the same for all of them: an
answer never depends on how the bytes were cut, never comes from bytes behind those that decided, and is no other than
that of a careful server (OpenSSL, h11, h2) that accepts the same bytes. In brief (:mod:`tests.fuzz.shares`) the bytes
are given at once and nobody else reads them.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import h11
import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError

from datapath.protocols.detect import MAX_BYTES, Detection, Detector, Protocol, Reason, detect_at_once
from datapath.protocols.http1_answers import Http1Answers, Over
from datapath.protocols.http1_requests import MAX_HEAD, Http1Cutter
from datapath.protocols.http2_requests import MAX_BLOCK, Http2Cutter
from datapath.protocols.requests import Beyond, Cutter, Request
from datapath.protocols.result import host_name
from datapath.protocols.sniff import HTTP2_PREFACE
from tests.fuzz.shares import is_chosen
from traffic_policy.names import normalise_host

_BEHIND = b"\x16\x03\x01\x00\x00\x00GET \xff\r\n\r\n"
"""What no reader could swallow, to stand behind the bytes that decide."""
_FRAME_HEADER = 9
_MOST_HELD = MAX_BLOCK + 66 * _FRAME_HEADER
"""What the cutter of HTTP/2 may hold back: a block, and the headers of its frames."""

_BY_H2 = 4
"""Of the inputs for HTTP/2, one in so many goes through the whole detector in brief, too."""

Begun = list[tuple[int, str | Beyond | None]]
"""Places in a stream, and what begins there."""


def places(data: bytes) -> list[int]:
    """Where to cut ``data``: in one of some manners, which the bytes themselves choose, so that a find is repeatable."""
    chance = zlib.crc32(data)
    manner, number = chance & 15, chance >> 4
    size = len(data)
    if manner == 0 and size <= 600:
        return list(range(1, size))
    if manner < 8:
        return [number % (size + 1)]
    if manner < 12:
        return sorted((number % (size + 1), (number >> 10) % (size + 1), (number >> 16) % (size + 1)))
    step = 1 + size // 40 + number % 61
    return list(range(step, size, step))


def pieces(data: bytes, at: list[int]) -> Iterator[bytes]:
    """The bytes between these places, in order."""
    start = 0
    for place in (*at, len(data)):
        yield data[start:place]
        start = place


# detection ---------------------------------------------------------------------------------------------------------


def detection(stream: bytes, *, full: bool = True) -> Detection | None:
    """What the detector says of a stream, having made sure that it makes sense, and in full that it always says it."""
    detector = Detector()
    whole = detector.feed(stream)
    if whole is None:
        assert detector.seen == len(stream) < detector.needed <= MAX_BYTES, (detector.seen, detector.needed)
    else:
        _makes_sense(whole)
    if full:
        _same_in_pieces(stream, whole)
    return whole


def _makes_sense(answer: Detection) -> None:
    for name in (answer.sni, answer.host):
        assert name is None or normalise_host(name) == name, f"{name!r} is not in comparable form"
    if answer.reason is not Reason.FOUND:
        assert (answer.sni, answer.host, answer.alpn, answer.ech) == (None, None, (), False), answer


def _same_in_pieces(stream: bytes, whole: Detection | None) -> None:
    """Raise when a stream in pieces, or with bytes behind it, has another answer than at once."""
    detector, fed, answer = Detector(), 0, None
    for piece in pieces(stream, places(stream)):
        needed = detector.needed
        assert detector.seen < needed <= MAX_BYTES, (detector.seen, needed)
        fed += len(piece)
        answer = detector.feed(piece)
        assert detector.seen <= min(fed, MAX_BYTES), "more bytes were looked at than given"
        if answer is not None:
            assert fed >= needed, "an answer came before `needed` said that one could"
            break
    assert answer == whole, f"in pieces {answer}, at once {whole}"
    if answer is None:
        ended = detector.finish(Reason.EOF)
        assert (ended.reason, ended.sni, ended.host, ended.alpn) == (Reason.EOF, None, None, ())
    else:
        assert Detector().feed(stream[:fed] + _BEHIND) == answer, "bytes behind the answer changed it"


# TLS ---------------------------------------------------------------------------------------------------------------


def client_hello(data: bytes, *, full: bool = True) -> None:
    """The first byte says what the others are: a stream, a hello's body, its extensions, or a server name.

    OpenSSL reads the same stream as a server. Where it takes a hello and tells the name in it, so must we, or say that
    it is no name.
    """
    if not data:
        return
    kind, size, rest = data[0] & 3, data[0] >> 2, data[1:]
    if kind == 0:
        stream = rest
    else:
        if kind == 3:
            rest = _vector(2, b"\0" + _vector(2, rest[: 1 << 14]))
            rest = b"\0\0" + _vector(2, rest) + _USUAL_EXTENSIONS
        if kind >= 2:
            rest = (
                b"\x03\x03" + b"R" * 32 + b"\0" + b"\0\x06\x13\x01\xc0\x2f\0\x2f" + b"\x01\0" + _vector(2, rest[:65535])
            )
        stream = in_records(b"\x01" + _vector(3, rest), size)
    answer = detection(stream, full=full)
    if full:
        compare_with_openssl(stream, answer)


_USUAL_EXTENSIONS = bytes.fromhex("000a00040002001d000d000400020804")
"""supported_groups and signature_algorithms, which OpenSSL asks for."""


def in_records(message: bytes, size: int) -> bytes:
    """A handshake message in records of ``size`` bytes; 0: as large as they may be."""
    step = size or 1 << 14
    return b"".join(b"\x16\x03\x01" + _vector(2, message[at : at + step]) for at in range(0, len(message), step))


def compare_with_openssl(stream: bytes, answer: Detection | None) -> None:
    """Raise when OpenSSL, as a server, takes a hello out of the stream and reads another name in it than we do."""
    if stream[:1] != b"\x16":
        return  # hellos in the form of SSLv2 have no names
    for name in _names_by_openssl(stream):
        assert answer is not None, "OpenSSL has read a hello, and we wait for more"
        if answer.reason is Reason.LIMIT:
            return
        assert (answer.protocol, answer.reason) == (Protocol.TLS, Reason.FOUND), f"OpenSSL takes it: {answer}"
        assert answer.sni == (None if name is None else _reported(name)), (answer.sni, name)


def _reported(name: str) -> str | None:
    """A server name as it is reported: addresses too, and without what is behind a colon, which nginx leaves out."""
    address = re.fullmatch(r"\[([^%]*)\](:\d{0,5})?|([^%]*:[^%]*)", name, re.ASCII)
    try:
        return ipaddress.IPv6Address(address[1] or address[3] or "").compressed if address else _host(name)
    except ValueError:
        return _host(name)


def _host(name: str) -> str | None:
    host, _, behind = name.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,254}", host) or any(c <= " " or c in "/\x7f" for c in behind):
        return None
    return normalise_host(host)


def _names_by_openssl(stream: bytes) -> list[str | None]:
    context, found = _openssl()
    found.clear()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(stream)
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # names that are not ASCII never get to the callback
    try:
        server.do_handshake()
    except ssl.SSLError:
        pass  # it has no certificate, so it always ends like this; names come before
    finally:
        sys.unraisablehook = hook
    return found[:1]


@cache
def _openssl() -> tuple[ssl.SSLContext, list[str | None]]:
    found: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is to be compared, too
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.sni_callback = lambda _server, name, _context: found.append(name)
    return context, found


def _vector(length_size: int, data: bytes) -> bytes:
    return len(data).to_bytes(length_size, "big") + data


# requests ----------------------------------------------------------------------------------------------------------


def begun(make: Callable[[], Cutter], stream: bytes, at: list[int], most_held: int) -> Begun:
    """Where requests begin, by a cutter that was fed in pieces; it must give every byte back and hold few."""
    cutter = make()
    found: Begun = []
    given = fed = 0
    for part in filter(None, pieces(stream, at)):
        fed += len(part)
        for piece in cutter.feed(part):
            assert piece.data, "an empty piece"
            assert piece.data == stream[given : given + len(piece.data)], "the bytes are not those that were fed"
            if piece.begins is not None:
                found.append((given, piece.begins.host if isinstance(piece.begins, Request) else piece.begins))
            given += len(piece.data)
        assert given <= fed, "more bytes were given back than fed"
        assert fed - given <= most_held + len(part), f"{fed - given} bytes are held back"
    assert cutter.finish() == stream[given:], "bytes were lost at the end"
    beyond = [index for index, (_, what) in enumerate(found) if isinstance(what, Beyond)]
    assert beyond in ([], [len(found) - 1]), "something was told behind the end of following"
    return found


def cut_both_ways(make: Callable[[], Cutter], stream: bytes, most_held: int) -> Begun:
    """The same, whole and in pieces, which must agree.

    But for where doubt begins: a line between chunks is passed on as it comes, so of a doubtful one a part may be gone.
    """
    whole, cut = (begun(make, stream, at, most_held) for at in ([], places(stream)))
    same = len(whole) == len(cut)
    for (place, what), (other_place, other) in zip(whole, cut, strict=False):
        in_one_line = isinstance(what, Beyond) and b"\n" not in stream[place : other_place - 1]
        same = same and what == other and (place == other_place or (place < other_place and in_one_line))
    assert same, f"in pieces {cut}, at once {whole}"
    return whole


def _answers(data: bytes, at: list[int]) -> tuple[int, int, Over | None]:
    """What is known of a server's stream that comes in pieces, after a few requests."""
    answers = Http1Answers()
    for method, upgrade in ((b"GET", False), (b"HEAD", False), (b"GET", True), (b"CONNECT", False)):
        answers.expect(Request(None, method, upgrade))
    for part in pieces(data, at):
        passed = min(len(part), answers.left)
        if passed:
            answers.skip(passed)
        answers.feed(part[passed:])
        if answers.over is not None:
            break
    assert answers.end <= len(data)
    assert answers.left >= 0
    return answers.whole, answers.end, answers.over


def http1(data: bytes, *, full: bool = True) -> None:
    """A stream of HTTP/1: its first head by the detector, all requests by the cutter, both beside h11; and answers."""
    assert not full or _answers(data, places(data)) == _answers(data, []), "answers differ by how they are cut"
    answer = detection(data, full=full)
    if not full:
        begun(Http1Cutter, data, [], MAX_HEAD)
        return
    if answer is not None and answer.protocol is Protocol.HTTP1:
        _compare_head(data.lstrip(b"\r\n"), answer)
    found = cut_both_ways(Http1Cutter, data, MAX_HEAD)
    requests = [(at, what) for at, what in found if not isinstance(what, Beyond)]
    for index, (at, host) in enumerate(requests[:3]):
        following = requests[index + 1][0] if index + 1 < len(requests) else None
        _compare_request(data, at, host, following)


def _h11(data: bytes) -> h11.Connection:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    return connection


def host_by_h11(event: h11.Request) -> str | None:
    """The host by the rules of RFC 9112 3.2, from what h11 read."""
    hosts = [value for name, value in event.headers if name == b"host"]
    if event.method == b"CONNECT":
        return host_name(event.target)
    scheme, found, rest = event.target.partition(b"://")
    if found and scheme[:1].isalpha() and scheme.replace(b"+", b"").replace(b"-", b"").replace(b".", b"").isalnum():
        authority = min((rest.partition(mark)[0] for mark in (b"/", b"?", b"#")), key=len)
        return host_name(authority.rpartition(b"@")[2])
    return host_name(hosts[0]) if hosts else None


def _compare_head(data: bytes, answer: Detection) -> None:
    try:
        event = _h11(data).next_event()
    except h11.RemoteProtocolError:
        return  # other servers may take it, and so may we
    if isinstance(event, h11.Request):
        assert answer == Detection(Protocol.HTTP1, Reason.FOUND, host=host_by_h11(event)), answer


def _compare_request(stream: bytes, at: int, host: str | None, following: int | None) -> None:
    """h11 must read the same request at that place, and see its end where we see the next one's beginning.

    What h11 refuses we must not claim to understand.
    """
    connection = _h11(stream[at:])
    told = False
    try:
        while True:
            event: Any = connection.next_event()
            if isinstance(event, h11.Request):
                told = True
                assert host_by_h11(event) == host, "h11 reads another host"
            elif isinstance(event, h11.EndOfMessage):
                end = len(stream) - len(connection.trailing_data[0])
                if following is not None:
                    assert not stream[end:following].strip(b"\r\n"), f"h11 sees the end at {end}, not {following}"
                    assert end <= following, f"h11 sees the end at {end}, behind {following}"
                return
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                assert following is None, "h11 waits for more of a request that we have seen the end of"
                return
    except h11.RemoteProtocolError as error:
        if told and following is None:
            return  # in a body whose end we have not seen either
        raise AssertionError(f"h11 refuses a request that we follow: {error}") from None


def http2(data: bytes, *, full: bool = True) -> None:
    """The first byte says what the others are: a stream, frames behind the preface, or a request's fields as lines."""
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    if kind == 1:
        rest = HTTP2_PREFACE + b"\0\0\0\x04\0\0\0\0\0" + rest
    elif kind == 2:
        rest = HTTP2_PREFACE + b"\0\0\0\x04\0\0\0\0\0" + _headers(rest)
    # What is not as usual is read by h2, which takes longer than all else.
    answer = detection(rest, full=full) if full or is_chosen(data, _BY_H2) else detect_at_once(rest)
    if not rest.startswith(HTTP2_PREFACE):
        return
    assert answer is None or answer.protocol is Protocol.HTTP2
    if not full:
        begun(Http2Cutter, rest, [], _MOST_HELD)
        return
    ours = [what for _, what in cut_both_ways(Http2Cutter, rest, _MOST_HELD)]
    for index, theirs in enumerate(_hosts_by_h2(rest)):
        if index < len(ours) and isinstance(ours[index], Beyond):
            break  # stricter
        assert index < len(ours), "h2 has read a request that we did not see"
        assert ours[index] == theirs, f"h2 reads {theirs}, we {ours[index]}"


def _headers(lines: bytes) -> bytes:
    """Requests by HEADERS frames: a field on each line, ``name value``; an empty line begins another request."""
    encoder, frames = hpack.Encoder() if len(lines) & 1 else None, b""
    for number, block in enumerate(lines[:4000].split(b"\n\n")[:4]):
        fields = [line.partition(b" ")[::2] for line in block.split(b"\n")]
        if encoder is not None:
            coded = encoder.encode(fields, huffman=bool(len(block) & 1))
        else:
            coded = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in fields)
        coded = coded[: 1 << 14]
        frames += len(coded).to_bytes(3, "big") + b"\x01\x05" + (2 * number + 1).to_bytes(4, "big") + coded
    return frames


def _literal(text: bytes) -> bytes:
    """A string of HPACK without Huffman's code (RFC 7541 5.2), which takes hpack a third of the whole time."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    return bytes([127, size - 127 & 127 | 128, size - 127 >> 7]) + text


def _hosts_by_h2(stream: bytes) -> list[str | None]:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    hosts: list[str | None] = []
    at = len(HTTP2_PREFACE)
    try:
        connection.receive_data(stream[:at])
        while at + _FRAME_HEADER <= len(stream):
            end = at + _FRAME_HEADER + int.from_bytes(stream[at : at + 3], "big")
            if end > len(stream) or end - at > (1 << 14) + _FRAME_HEADER:
                break
            for event in connection.receive_data(stream[at:end]):
                if isinstance(event, RequestReceived):
                    fields = {bytes(name): bytes(value) for name, value in event.headers}
                    authority = fields.get(b":authority", fields.get(b"host"))
                    hosts.append(None if authority is None else host_name(authority))
            at = end
    except ProtocolError:
        pass  # what came before was read
    return hosts
