"""Frames of HTTP/2 as bytes (RFC 9113 4 and 6)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 3.4)."""
FRAME_HEADER: Final = struct.Struct(">HBBBL")
"""Upper 16 bits of the length, lower 8 bits, type, flags, stream."""
MAX_FRAME: Final = 1 << 14
"""Bytes of payload that every peer takes, and the most that we take. We send no longer ones."""
MAX_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = (1 << 16) - 1

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20


class ErrorCode(IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Http2Error(Exception):
    """The connection must end, by GOAWAY with this code and the message as its reason (RFC 9113 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Setting(IntEnum):
    """RFC 9113 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame_header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of ``length`` bytes."""
    return FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream)


def make_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    return frame_header(len(payload), kind, flags, stream) + payload


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """RFC 9113 6.5."""
    return make_frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", key, value) for key, value in settings.items()))


def window_update(stream: int, increment: int) -> bytes:
    """RFC 9113 6.9."""
    return make_frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """RFC 9113 6.4."""
    return make_frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, reason: str = "") -> bytes:
    """RFC 9113 6.8. ``last`` is the last stream that was answered."""
    return make_frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode())
