"""Blocks of fields that come in one frame or several, and their decoding (RFC 9113 4.3). No I/O."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

from control_plane.gateway.frames import MAX_FRAME, ErrorCode, Http2Error

MAX_FIELDS: Final = 8 << 10
"""Bytes of a request's fields, each with 32 more (RFC 9113 6.5.2). So there are 256 fields at most."""
MAX_BLOCK: Final = MAX_FRAME
"""Bytes of fields as they are sent, in all frames."""

_SHORT: Final = 512
"""Bytes of blocks that are remembered."""

Fields = list[tuple[bytes, bytes]]


@lru_cache(maxsize=256)
def _first_fields(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Of a block that is the first of its connection: it depends on nothing before. Raises HPACKError."""
    return _decoded(Decoder(MAX_FIELDS), block)


def _decoded(decoder: Decoder, block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True))


class FieldBlocks:
    """Those of one connection, one after the other. Later ones refer to earlier ones.

    Agents begin all alike, and most send one block: it is decoded once for all, and a connection has no decoder before
    its second.
    """

    __slots__ = ("_block", "_decoder", "_first", "ends_stream", "number")

    def __init__(self) -> None:
        self.number = 0
        """The stream whose block is incomplete. 0: none is."""
        self.ends_stream = False
        """Whether that block is the end of its request."""
        self._block = b""
        self._first: bytes | None = None
        """The block that a decoder would have to know, while there is none."""
        self._decoder: Decoder | None = None

    @property
    def size(self) -> int:
        """Bytes that the block has until now."""
        return len(self._block)

    def begin(self, number: int, fragment: bytes, *, ends_stream: bool) -> None:
        """What HEADERS had."""
        self.number = number
        self.ends_stream = ends_stream
        self._block = fragment

    def go_on(self, fragment: bytes) -> None:
        """What CONTINUATION had. Raises :class:`Http2Error`."""
        if not self.number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block += fragment
        if len(self._block) > MAX_BLOCK:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "there are too many fields")

    def finish(self) -> Fields:
        """The fields of a block that is complete. Raises :class:`Http2Error`."""
        self.number = 0
        block, self._block = self._block, b""
        try:
            if self._decoder is None and self._first is None and len(block) <= _SHORT:
                self._first = block
                return list(_first_fields(block))
            if self._decoder is None:
                self._decoder = Decoder(MAX_FIELDS)
                if self._first is not None:
                    _decoded(self._decoder, self._first)
                    self._first = None
            return list(_decoded(self._decoder, block))
        except OversizedHeaderListError:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "there are too many fields") from None
        except HPACKError:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, "the fields cannot be decoded") from None
