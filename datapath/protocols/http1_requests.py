"""Splits the client's stream of an HTTP/1 connection at request boundaries, unaltered, with the host of each request.

A request is a head and a body whose length the head determines (RFC 9112 6.3): none, ``Content-Length`` bytes, or
chunks (RFC 9112 7.1). :class:`Http1Cutter` returns every byte, in pieces; a piece that begins a request carries it. A
head is returned once it is complete, since only then its host is known.

**Strict parsing.** A stream that two programs can parse differently allows request smuggling. So the rules are stricter
than those for the first head (:mod:`datapath.protocols.http1`): after bare line feeds, folded fields, Content-Length
together with Transfer-Encoding, several hosts or lengths, codings other than chunked, or an irregular chunk the rest of
the stream is :data:`AMBIGUOUS`. Its bytes pass unaltered, but without request boundaries.

After ``Upgrade`` or ``CONNECT`` the client may switch protocols (RFC 9110 7.8, 9.3.6), if the server accepts. Bytes
that then begin no request are that protocol: :data:`SWITCHED`.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from datapath.protocols.http1 import Http1Request, read_head
from datapath.protocols.requests import AMBIGUOUS, SWITCHED, Piece, Request
from datapath.protocols.sniff import MAX_METHOD

MAX_HEAD: Final = 64 << 10
"""Maximum bytes of a head, which are held until it is complete; servers accept 8 to 32 KiB."""
_MAX_LINE: Final = 8 << 10
"""Maximum bytes of a chunk-size line with extensions, or of a trailer field."""
_MAX_TRAILERS: Final = 64 << 10

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"
_STRICT_HEAD: Final = re.compile(
    rb"(%(token)s++) [\x21-\x7e]++ HTTP/1\.([01])\r\n((?:%(token)s++:[^\x00\r\n\v\f]*+\r\n)*+)\r\n" % {b"token": _TOKEN}
)
"""Method, minor version, field lines; only what all programs parse alike."""
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)++")
_BEGINNING: Final = re.compile(rb"(%s{1,%d}+)(.?)" % (_TOKEN, MAX_METHOD), re.DOTALL)
_FRAMING: Final = re.compile(rb"(?im)^(host|content-length|transfer-encoding|upgrade):[ \t]*+(.*?)[ \t]*+\r$")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00\r\n]*+)?\r\n")
_TRAILER: Final = re.compile(rb"(?!(?i:content-length|transfer-encoding):)%s++:[^\x00\r\n\v\f]*+\r\n" % _TOKEN)
"""Not one that would say where the request ends, which is over by then (RFC 9110 6.5.1): some servers refuse that."""
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


class _Part(enum.Enum):
    """What comes next in the stream."""

    HEAD = enum.auto()
    BODY = enum.auto()
    """``_left`` bytes more, and then a head."""
    CHUNK_SIZE = enum.auto()
    CHUNK_DATA = enum.auto()
    """``_left`` bytes more of a chunk, and then its line end."""
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()
    REST = enum.auto()
    """Whatever it is."""


class _AmbiguousError(Exception):
    """The stream can be parsed in two ways."""


def _may_be_a_head(beginning: bytes | bytearray) -> bool:
    if beginning in (b"", b"\r"):
        return True
    found = _BEGINNING.match(beginning)
    return found is not None and found[2] in (b"", b" ")


class Http1Cutter:
    """Splits one connection's stream, from its first byte on. Pieces of any size may be fed."""

    idle_work: Final = 0
    """There is none: whatever an HTTP/1 client sends belongs to a request."""

    __slots__ = ("_after_connect", "_left", "_line", "_may_switch", "_part", "_searched", "_trailers")

    def __init__(self) -> None:
        self._part = _Part.HEAD
        self._line = bytearray()  # of a head (held back), or of a line between chunks (given back already)
        self._searched = 0  # no blank line of the head ends before this place
        self._left = 0
        self._trailers = 0
        self._may_switch = False
        self._after_connect = False

    def feed(self, data: bytes) -> list[Piece]:
        """All bytes that were fed and can be given back, in order. What is held back is the beginning of a head."""
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            try:
                at = self._head(data, at, pieces) if self._part is _Part.HEAD else self._rest(data, at, pieces)
            except _AmbiguousError:
                self._part = _Part.REST
                pieces.append(Piece(data[at:], AMBIGUOUS))
                break
        return pieces

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
        held = bytes(self._line) if self._part is _Part.HEAD else b""
        self._line.clear()
        self._part = _Part.REST
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
        self._part = _Part.REST
        pieces.append(Piece(held, SWITCHED if self._may_switch else AMBIGUOUS))

    def _begin(self, text: bytes) -> Request | None:
        """A whole head: its request, if where that ends is beyond doubt; then the part that follows is set."""
        strict = _STRICT_HEAD.fullmatch(text)
        request = read_head(text) if strict else None
        if strict is None or not isinstance(request, Http1Request):
            return None
        method, minor, fields = strict.groups()
        if self._after_connect and method != b"CONNECT":
            return None  # of whatever is spoken in the tunnel
        found: dict[bytes, list[bytes]] = {}
        for name, value in _FRAMING.findall(fields):
            found.setdefault(name.lower(), []).append(value)
        lengths, codings = found.get(b"content-length", []), found.get(b"transfer-encoding", [])
        if len(lengths) + len(codings) > 1 or len(found.get(b"host", [])) > 1:
            return None
        if codings and (codings[0].lower() != b"chunked" or minor == b"0"):
            return None
        if lengths and not _LENGTH.fullmatch(lengths[0]):
            return None
        self._may_switch = b"upgrade" in found or method == b"CONNECT"
        self._after_connect = method == b"CONNECT"
        if codings:
            self._part = _Part.CHUNK_SIZE
            self._trailers = 0
        else:
            self._left = int(lengths[0]) if lengths else 0
            self._part = _Part.BODY if self._left else _Part.HEAD
        return Request(request.host)

    # bodies --------------------------------------------------------------------------------------------------------

    def _rest(self, data: bytes, at: int, pieces: list[Piece]) -> int:
        """Pass on what belongs to a body."""
        start = at
        while at < len(data):
            match self._part:
                case _Part.HEAD:
                    break
                case _Part.REST:
                    at = len(data)
                case _Part.BODY | _Part.CHUNK_DATA:
                    size = min(self._left, len(data) - at)
                    self._left -= size
                    at += size
                    if not self._left:
                        self._part = _Part.HEAD if self._part is _Part.BODY else _Part.CHUNK_END
                case _:
                    try:
                        at = self._chunk_line(data, at)
                    except _AmbiguousError:
                        if at > start:
                            pieces.append(Piece(data[start:at]))
                        self._part = _Part.REST
                        pieces.append(Piece(data[at:], AMBIGUOUS))
                        return len(data)
        pieces.append(Piece(data[start:at]))
        return at

    def _chunk_line(self, data: bytes, at: int) -> int:
        """Take one line, or as much of it as there is."""
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > _MAX_LINE:
            raise _AmbiguousError
        if end < 0:
            return stop
        line = bytes(self._line)
        self._line.clear()
        match self._part:
            case _Part.CHUNK_SIZE:
                chunk = _CHUNK.fullmatch(line)
                if chunk is None:
                    raise _AmbiguousError
                self._left = int(chunk[1], 16)
                self._part = _Part.CHUNK_DATA if self._left else _Part.TRAILERS
            case _Part.CHUNK_END:
                if line != b"\r\n":
                    raise _AmbiguousError
                self._part = _Part.CHUNK_SIZE
            case _:
                self._trailers += len(line)
                if line == b"\r\n":
                    self._part = _Part.HEAD
                elif not _TRAILER.fullmatch(line) or self._trailers > _MAX_TRAILERS:
                    raise _AmbiguousError
        return stop
