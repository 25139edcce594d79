"""Where the body of an HTTP/1 message ends: ``Content-Length`` bytes, or chunks (RFC 9112 6.3, 7.1).

Chunks are read strictly, since what programs read differently allows smuggling: no bare line feeds, no spaces behind a
size, no field among the trailers that would say where the message ends.
"""

from __future__ import annotations

import enum
import re
from typing import Final

TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"
LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_MAX_LINE: Final = 8 << 10
"""Maximum bytes of a chunk-size line with extensions, or of a trailer field."""
_MAX_TRAILERS: Final = 64 << 10
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00\r\n]*+)?\r\n")
_TRAILER: Final = re.compile(rb"(?!(?i:content-length|transfer-encoding):)%s++:[^\x00\r\n\v\f]*+\r\n" % TOKEN)
"""Not one that would say where the message ends, which is over by then (RFC 9110 6.5.1): some servers refuse that."""


class _Part(enum.Enum):
    """What comes next."""

    BYTES = enum.auto()
    """``left`` bytes more, and that is all."""
    SIZE = enum.auto()
    DATA = enum.auto()
    """``left`` bytes more of a chunk."""
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()


_BYTES: Final = _Part.BYTES  # as a plain global: a look-up in an enum class costs more than the comparison


class IrregularChunkError(Exception):
    """A line between chunks can be read in two ways. ``at``: where what was fed last has this line, or its rest."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Http1Body:
    """The body of one message after the other. ``left``: bytes of which it is known that they belong to the body."""

    __slots__ = ("_line", "_part", "_trailers", "left")

    def __init__(self) -> None:
        self.left = 0
        self._part = _BYTES
        self._line = bytearray()
        self._trailers = 0

    @property
    def ended(self) -> bool:
        """Whether the body is over."""
        return self._part is _BYTES and not self.left

    def begin(self, length: int) -> None:
        """A body of so many bytes begins."""
        self.left = length

    def begin_chunks(self) -> None:
        """A body in chunks begins."""
        self._part = _Part.SIZE
        self._trailers = 0

    def pass_known(self, size: int) -> None:
        """So many bytes, at most ``left``, have passed."""
        self.left -= size
        if not self.left and self._part is _Part.DATA:
            self._part = _Part.CHUNK_END

    def skip(self, data: bytes | bytearray, at: int) -> int:
        """Pass what belongs to the body, from a place on; where it ends, or the data. Raises IrregularChunkError."""
        end = len(data)
        if self._part is _BYTES:
            size = min(self.left, end - at)
            self.left -= size
            return at + size
        while at < end and not self.ended:
            if self.left:
                size = min(self.left, end - at)
                self.pass_known(size)
                at += size
            else:
                at = self._read_line(data, at)
        return at

    def _read_line(self, data: bytes | bytearray, at: int) -> int:
        """Take one line, or as much of it as there is."""
        end = data.find(b"\n", at) + 1
        stop = end or len(data)
        self._line += data[at:stop]
        if len(self._line) > _MAX_LINE:
            raise IrregularChunkError(at)
        if not end:
            return stop
        line = bytes(self._line)
        self._line.clear()
        match self._part:
            case _Part.SIZE:
                chunk = _CHUNK.fullmatch(line)
                if chunk is None:
                    raise IrregularChunkError(at)
                self.left = int(chunk[1], 16)
                self._part = _Part.DATA if self.left else _Part.TRAILERS
            case _Part.CHUNK_END:
                if line != b"\r\n":
                    raise IrregularChunkError(at)
                self._part = _Part.SIZE
            case _:
                self._trailers += len(line)
                if line == b"\r\n":
                    self._part = _BYTES
                elif not _TRAILER.fullmatch(line) or self._trailers > _MAX_TRAILERS:
                    raise IrregularChunkError(at)
        return stop
