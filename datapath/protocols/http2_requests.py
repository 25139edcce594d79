"""Splits the client's stream of an HTTP/2 connection at requests, unaltered, with the authority of each request.

Frames pass as they arrive (RFC 9113 4.1), except that those of a field block (HEADERS, and CONTINUATION up to
END_HEADERS) are held until the block is complete. Blocks are decoded by HPACK in order, since each may refer to earlier
ones (RFC 7541 2.2), and returned with the authority of the request. Trailers are blocks without an authority.

All streams of a connection share one socket, so they are not distinguished. A block that cannot be decoded, or frames
in an order that RFC 9113 6.10 forbids, make the rest :data:`AMBIGUOUS`, as for HTTP/1.
"""

from __future__ import annotations

from typing import Final

import hpack

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http2 import FRAME_HEADER
from datapath.protocols.requests import AMBIGUOUS, Piece, Request
from datapath.protocols.result import host_name
from datapath.protocols.sniff import HTTP2_PREFACE

MAX_BLOCK: Final = 64 << 10
"""Bytes of a field block that are held back until it is whole, and of its fields when decoded."""
_MAX_TABLE: Final = 64 << 10
"""Bytes of HPACK's table. A server may allow its clients more than the usual 4,096, and tells only them."""
_MAX_FRAGMENTS: Final = 64
"""CONTINUATION frames of one block, as with h2: a flood of empty ones would be held back for ever."""
_NO_BLOCK: Final = object()
_DATA, _HEADERS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0x0, 0x1, 0x6, 0x8, 0x9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
_PING_WORK, _OTHER_WORK = 1, 10
"""See :attr:`Cutter.idle_work`: RST_STREAM means that a request was decoded in vain. Clients send WINDOW_UPDATE for
what they receive, and PING to measure how far away the server is."""


class _AmbiguousError(Exception):
    """Cannot be read as RFC 9113 has it."""


class Http2Cutter:
    """Cuts one connection's stream, from the preface on. Feed it in whatever pieces the bytes come."""

    __slots__ = ("_block", "_decoder", "_done", "_fragments", "_held", "_left", "_lost", "_stream", "idle_work")

    def __init__(self) -> None:
        self._left = len(HTTP2_PREFACE)  # bytes to pass: of the preface, later of a frame that tells nothing
        self._held = b""  # what is not given back yet: the frames of a block, a frame that is not whole
        self._done = 0  # how much of it has been read already
        self._block = bytearray()  # the fragments of the block
        self._fragments = 0  # how many those are
        self._stream = 0  # whose it is; 0: there is none
        self._lost = False
        self.idle_work = 0
        self._decoder = hpack.Decoder(MAX_BLOCK)
        self._decoder.max_allowed_table_size = _MAX_TABLE

    def feed(self, data: bytes) -> list[Piece]:
        """All bytes that were fed and can be given back, in order."""
        if self._lost:
            return [Piece(data)]
        pieces: list[Piece] = []
        data, at, start = self._held + data, self._done, 0
        while at < len(data):
            if self._left:
                passing = min(self._left, len(data) - at)
                self._left -= passing
                at += passing
                continue
            if len(data) < at + FRAME_HEADER:
                break
            in_block = self._stream != 0
            try:
                end, begins = self._frame(data, at)
            except _AmbiguousError:
                self._lost = True
                self._held = b""
                if start < at and not in_block:
                    pieces.append(Piece(data[start:at]))
                    start = at
                return [*pieces, Piece(data[start:], AMBIGUOUS)]
            if end is None:
                break
            if self._stream or begins is not _NO_BLOCK:
                if start < at and not in_block:
                    pieces.append(Piece(data[start:at]))
                    start = at
                if not self._stream:
                    pieces.append(Piece(data[start:end], begins if isinstance(begins, Request) else None))
                    start = end
            at = end
        if not self._stream and start < at:
            pieces.append(Piece(data[start:at]))
            start = at
        self._held, self._done = data[start:], at - start
        return pieces

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
        held, self._held = self._held, b""
        self._lost = True
        return held

    def _frame(self, data: bytes, at: int) -> tuple[int | None, Request | object | None]:
        """Read the frame at a place; where what was read of it ends (None: more must come), and what it completes.

        That is a request, trailers (None) or no block.
        """
        size = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        body = at + FRAME_HEADER
        stream = int.from_bytes(data[at + 5 : body], "big") & 0x7FFF_FFFF
        if self._stream and (kind != _CONTINUATION or stream != self._stream):
            raise _AmbiguousError
        if kind not in (_HEADERS, _CONTINUATION):
            if kind == _PING:
                self.idle_work += _PING_WORK
            elif kind != _WINDOW_UPDATE and (kind != _DATA or not size | flags & _END_STREAM):
                self.idle_work += _OTHER_WORK
            self._left = size
            return body, _NO_BLOCK
        if not self._stream and (kind == _CONTINUATION or not stream):
            raise _AmbiguousError
        self._fragments += 1
        if size + len(self._block) > MAX_BLOCK or self._fragments > _MAX_FRAGMENTS:
            raise _AmbiguousError
        if len(data) < body + size:
            self._fragments -= 1
            return None, _NO_BLOCK
        self._block += _fragment(data[body : body + size], flags if kind == _HEADERS else 0)
        if flags & _END_HEADERS:
            return body + size, self._decode()
        self._stream = stream
        return body + size, _NO_BLOCK

    def _decode(self) -> Request | None:
        """The field block is whole: the request that it is, None for trailers."""
        block = bytes(self._block)
        self._block.clear()
        self._stream = self._fragments = 0
        try:
            fields = list(self._decoder.decode(block, raw=True))
        except (hpack.HPACKError, IndexError):
            raise _AmbiguousError from None
        said = {name: [bytes(v) for n, v in fields if n == name] for name in (b":method", b":authority", b"host")}
        if any(len(values) > 1 for values in said.values()):
            raise _AmbiguousError
        if not said[b":method"]:
            return None
        hosts = {host_name(value) for value in (*said[b":authority"], *said[b"host"])}
        if len(hosts) > 1:
            raise _AmbiguousError  # RFC 9113 8.3.1
        return Request(hosts.pop() if hosts else None)


def _fragment(payload: bytes, flags: int) -> bytes:
    """The part of the field block in a HEADERS frame (RFC 9113 6.2)."""
    start, padding = 0, 0
    if flags & _PADDED:
        if not payload:
            raise _AmbiguousError
        start, padding = 1, payload[0]
    if flags & _PRIORITY:
        start += 5
    if start + padding > len(payload):
        raise _AmbiguousError
    return payload[start : len(payload) - padding]


def is_unnamed(detection: Detection) -> bool:
    """Whether it is HTTP/2, and its first request is still to come."""
    return detection.protocol is Protocol.HTTP2 and detection.reason is Reason.TIMEOUT


class FirstRequestCutter:
    """Cuts the stream where its first request begins, and passes everything behind that as it comes.

    For a connection that goes on before that request is there: a client may wait for the server's SETTINGS (RFC 9113
    3.4 lets it begin at once, but gRPC's core library, that of C++, Python, Ruby and others, does wait). What cannot be
    decoded tells of nothing, and passes as well.
    """

    __slots__ = ("_cutter",)

    def __init__(self) -> None:
        self._cutter: Http2Cutter | None = Http2Cutter()

    @property
    def idle_work(self) -> int:
        """As in :class:`~datapath.protocols.requests.Cutter`, until that request has come; what passes is no work."""
        return self._cutter.idle_work if self._cutter is not None else 0

    def feed(self, data: bytes) -> list[Piece]:
        """All bytes that were fed and can be given back, in order."""
        cutter = self._cutter
        if cutter is None:
            return [Piece(data)]
        pieces = cutter.feed(data)
        for index, piece in enumerate(pieces):
            if piece.begins is not None:
                self._cutter = None
                rest = b"".join(each.data for each in pieces[index:]) + cutter.finish()
                return [*pieces[:index], Piece(rest, piece.begins if isinstance(piece.begins, Request) else None)]
        return pieces

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
        return self._cutter.finish() if self._cutter is not None else b""
