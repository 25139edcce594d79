"""Splits the client's stream of an HTTP/1 connection at request boundaries, unaltered, with the host of each request.

A request is a head and a body whose length the head determines (RFC 9112 6.3): none, ``Content-Length`` bytes, or
chunks (RFC 9112 7.1). :class:`Http1Cutter` returns every byte, in pieces; a piece that begins a request carries it. A
head is returned once it is complete, since only then its host is known.

**Strict parsing.** A stream that two programs can parse differently allows request smuggling. So the rules are stricter
than those for the first head (:mod:`datapath.protocols.http1`): after bare line feeds, folded fields, Content-Length
together with Transfer-Encoding, several hosts or lengths, codings other than chunked, or an irregular chunk the rest of
the stream is :data:`AMBIGUOUS`. Its bytes pass unaltered, but without request boundaries.

After ``Upgrade`` or ``CONNECT`` (RFC 9110 7.8, 9.3.6) the client's bytes are requests, or :data:`AMBIGUOUS`, until the
server's answer switches protocols (:mod:`datapath.protocols.http1_answers`): a server that has not switched reads on.
From the switch on the stream is for a :class:`SwitchedCutter`.
"""

from __future__ import annotations

import re
from typing import Final

from datapath.protocols.http1 import Http1Request, read_head
from datapath.protocols.http1_body import LENGTH, TOKEN, Http1Body, IrregularChunkError
from datapath.protocols.http2_requests import Http2Cutter
from datapath.protocols.requests import AMBIGUOUS, Cutter, Piece, Request
from datapath.protocols.result import host_name
from datapath.protocols.sniff import HTTP2_PREFACE, MAX_METHOD, MAX_REQUEST_LINE

MAX_HEAD: Final = 64 << 10
"""Maximum bytes of a head, which are held until it is complete; servers accept 8 to 32 KiB."""

_STRICT_HEAD: Final = re.compile(
    rb"(%(token)s{1,%(max_method)d}+) ([\x21-\x7e]++) HTTP/1\.([01])\r\n((?:%(token)s++:[^\x00\r\n\v\f]*+\r\n)*+)\r\n"
    % {b"token": TOKEN, b"max_method": MAX_METHOD}
)
"""Method, target, minor version, field lines; only what all programs parse alike."""
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)++")
_BEGINNING: Final = re.compile(rb"(%s{1,%d}+)(.?)" % (TOKEN, MAX_METHOD), re.DOTALL)
_FRAMING: Final = re.compile(rb"(?m)^((?i:host|content-length|transfer-encoding|upgrade)):[ \t]*+([^\r]*+)\r$")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


def _may_be_a_head(beginning: bytes | bytearray) -> bool:
    if beginning in (b"", b"\r"):
        return True
    found = _BEGINNING.match(beginning)
    return found is not None and found[2] in (b"", b" ")


class Http1Cutter:
    """Splits one connection's stream, from its first byte on. Pieces of any size may be fed."""

    idle_work: Final = 0
    """There is none: whatever an HTTP/1 client sends belongs to a request."""

    __slots__ = ("_body", "_line", "_lost", "_searched")

    def __init__(self) -> None:
        self._body = Http1Body()
        self._line = bytearray()  # of a head (held back)
        self._searched = 0  # no blank line of the head ends before this place
        self._lost = False  # the rest is whatever it is

    def feed(self, data: bytes) -> list[Piece]:
        """All bytes that were fed and can be given back, in order. What is held back is the beginning of a head."""
        if self._lost:
            return [Piece(data)]
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            at = self._head(data, at, pieces) if self._body.ended else self._rest(data, at, pieces)
        return pieces

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
        held = bytes(self._line)
        self._line.clear()
        self._lost = True
        return held

    # heads ---------------------------------------------------------------------------------------------------------

    def _head(self, data: bytes, at: int, pieces: list[Piece]) -> int:
        if self._line:
            self._line += data[at:]
            whole, start = bytes(self._line), 0
        else:
            whole, start = data, at
        # Empty lines before a request line belong to no request (RFC 9112 2.2) and pass at once.
        empty = _EMPTY_LINES.match(whole, start)
        if empty is not None:
            pieces.append(Piece(empty[0]))
            start, self._searched = empty.end(), 0
        blank = _BLANK_LINE.search(whole, start + self._searched)
        self._line.clear()
        if blank is None:
            self._line += whole[start:]
            self._searched = max(0, len(self._line) - 2)
            if len(self._line) > MAX_HEAD or not _may_be_a_head(self._line):
                self._give_up(bytes(self._line), pieces)
            return len(data)
        self._searched = 0
        request = self._begin(whole[start : blank.end()]) if blank.end() - start <= MAX_HEAD else None
        if request is None:
            self._give_up(whole[start:], pieces)
            return len(data)
        pieces.append(Piece(whole[start : blank.end()], request))
        return len(data) - (len(whole) - blank.end())

    def _give_up(self, held: bytes, pieces: list[Piece]) -> None:
        self._line.clear()
        self._lost = True
        pieces.append(Piece(held, AMBIGUOUS))

    def _begin(self, text: bytes) -> Request | None:
        """A whole head: its request, if where that ends is beyond doubt; then the part that follows is set."""
        strict = _STRICT_HEAD.fullmatch(text)
        if strict is None:
            return None
        method, target, minor, fields = strict.groups()
        found: dict[bytes, list[bytes]] = {}
        for name, value in _FRAMING.findall(fields):
            found.setdefault(name.lower(), []).append(value.rstrip(b" \t"))
        hosts = found.get(b"host", [])
        if target[0] == 0x2F and method != b"CONNECT" and len(target) <= MAX_REQUEST_LINE:
            # The usual case. So strict a head needs not be read again: read_head() would say the same.
            if len(hosts) > 1 or (not hosts and minor == b"1"):
                return None
            host = host_name(hosts[0]) if hosts else None
        else:
            request = read_head(text)
            if not isinstance(request, Http1Request):
                return None
            host = request.host
        lengths, codings = found.get(b"content-length", []), found.get(b"transfer-encoding", [])
        if len(lengths) + len(codings) > 1:
            return None
        if codings and (codings[0].lower() != b"chunked" or minor == b"0"):
            return None
        if lengths and not LENGTH.fullmatch(lengths[0]):
            return None
        if codings:
            self._body.begin_chunks()
        elif lengths:
            self._body.begin(int(lengths[0]))
        return Request(host, method, b"upgrade" in found)

    # bodies --------------------------------------------------------------------------------------------------------

    def _rest(self, data: bytes, at: int, pieces: list[Piece]) -> int:
        """Pass on what belongs to a body."""
        try:
            end = self._body.skip(data, at)
        except IrregularChunkError as error:
            if error.at > at:
                pieces.append(Piece(data[at : error.at]))
            self._give_up(data[error.at :], pieces)
            return len(data)
        pieces.append(Piece(data[at:end]))
        return end


class SwitchedCutter:
    """The client's stream after the server has switched protocols: HTTP/2 is followed, anything else passes.

    ``Upgrade: h2c`` (RFC 7540 3.2) leads to HTTP/2 with its preface, whatever the answer calls it.
    """

    __slots__ = ("_cutter", "_held")

    def __init__(self) -> None:
        self._held: bytes | None = b""  # as much of the preface as has come; None: that has been decided
        self._cutter: Cutter | None = None  # None: passes

    @property
    def idle_work(self) -> int:
        """As in :class:`~datapath.protocols.requests.Cutter`."""
        return self._cutter.idle_work if self._cutter is not None else 0

    def feed(self, data: bytes) -> list[Piece]:
        """All bytes that were fed and can be given back, in order."""
        if self._held is not None:
            data = self._held + data
            if len(data) < len(HTTP2_PREFACE) and HTTP2_PREFACE.startswith(data):
                self._held = data
                return []
            self._held = None
            if data.startswith(HTTP2_PREFACE):
                self._cutter = Http2Cutter()
        return self._cutter.feed(data) if self._cutter is not None else [Piece(data)]

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
        if self._cutter is not None:
            return self._cutter.finish()
        held, self._held = self._held or b"", None
        return held
