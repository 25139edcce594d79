"""Parser of the first request of an HTTP/2 connection with prior knowledge, for its authority.

The stream is fed to h2 one complete frame at a time, up to the first complete request. So bytes after the request
cannot change the result (fed all at once, h2 would raise for a later bad frame and not return the request), and each
byte is processed once. h2 handles SETTINGS, PRIORITY, padding, CONTINUATION and HPACK. The answers that it prepares
(acknowledgements, GOAWAY) are never sent.

The request's fields are not validated: nginx and Node.js serve requests with fields that RFC 9113 8.2 and 8.3 forbid,
and such a request must not evade the class of its name. Two names are malformed; of ``:authority`` and Host, servers
use ``:authority``.

A client may send its first request directly after the preface (RFC 9113 3.4), and nearly all do. One that waits for the
server's SETTINGS first (gRPC's core library) sends no request until it is connected to the server:
:attr:`Http2Reader.between_frames` reports this, to avoid waiting for the timeout.

h2 is slow, so :func:`whole_request` parses usual requests itself. It returns a result only if h2 would return the same,
which a property test checks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import hpack

from datapath.protocols.result import NeedMore, Reason, Rejected, host_name
from datapath.protocols.sniff import HTTP2_PREFACE

FRAME_HEADER: Final = 9
"""Bytes of a frame header (RFC 9113 4.1)."""
MAX_FRAME: Final = 1 << 14
"""Most payload bytes of a frame as long as the server has not allowed more (RFC 9113 4.2)."""
MAX_FRAMES: Final = 256
"""Frames looked at for the first request. Clients need two to ten; h2 takes 64 CONTINUATION frames for one. The bound
keeps a flood of tiny frames from costing more time than as many bytes of anything else."""


_SETTINGS, _WINDOW_UPDATE, _HEADERS = 0x4, 0x8, 0x1
_END_STREAM, _END_HEADERS, _PRIORITY = 0x1, 0x4, 0x20
"""Types and flags of frames (RFC 9113 6)."""
_MAX_WINDOW: Final = (1 << 31) - 1
_SETTING_BOUNDS: Final = {
    1: (0, 1 << 32),  # HEADER_TABLE_SIZE
    2: (0, 1),  # ENABLE_PUSH
    3: (0, 1 << 32),  # MAX_CONCURRENT_STREAMS
    4: (0, _MAX_WINDOW),  # INITIAL_WINDOW_SIZE
    5: (MAX_FRAME, (1 << 24) - 1),  # MAX_FRAME_SIZE
    6: (0, 1 << 32),  # MAX_HEADER_LIST_SIZE
}
"""Least and greatest value of the settings that clients send (RFC 9113 6.5.2)."""
_MAX_HEADER_LIST: Final = 1 << 16
"""Bytes of decoded fields, as with h2."""
_FIELD_NAME: Final = re.compile(rb"[!-9;-@\[-~]+")
_FIELD_VALUE: Final = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])")
"""RFC 9113 8.2.1."""
_PSEUDO_FIELDS: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_LOOK_CLOSER: Final = frozenset(
    b"host connection proxy-connection keep-alive transfer-encoding upgrade te content-length".split()
)
"""Fields that can make a request invalid."""


@dataclass(frozen=True, slots=True)
class Http2Request:
    """``host`` in comparable form (:mod:`traffic_policy.names`); None when absent or unusable."""

    host: str | None


def whole_request(data: bytes) -> Http2Request | None:
    """The first request of a stream, which begins with the preface, if all of it is there and it is as usual.

    None: that takes an :class:`Http2Reader`, and perhaps more bytes.
    """
    at = len(HTTP2_PREFACE)
    window = 65_535
    while True:
        body = at + FRAME_HEADER
        end = body + int.from_bytes(data[at : at + 3], "big")
        if end > len(data) or end - body > MAX_FRAME or body > len(data):
            return None
        kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : body], "big")
        if kind == _HEADERS:
            usual = at > len(HTTP2_PREFACE) and stream & 1 and stream <= _MAX_WINDOW
            return _usual_request(data[body:end], flags, stream) if usual else None
        if stream or flags:
            return None
        if kind == _SETTINGS:
            if not _valid_settings(data[body:end]):
                return None
        elif kind == _WINDOW_UPDATE and end - body == 4:
            more = int.from_bytes(data[body:end], "big")
            window += more
            if not more or window > _MAX_WINDOW:
                return None
        else:
            return None
        at = end


def _valid_settings(body: bytes) -> bool:
    if len(body) % 6:
        return False
    for at in range(0, len(body), 6):
        least, most = _SETTING_BOUNDS.get(int.from_bytes(body[at : at + 2], "big"), (1, 0))
        if not least <= int.from_bytes(body[at + 2 : at + 6], "big") <= most:
            return False
    return True


def _usual_request(block: bytes, flags: int, stream: int) -> Http2Request | None:
    """A request with an authority and nothing that needs a closer look; None if it is another, or none."""
    if flags | _END_STREAM | _PRIORITY != _END_HEADERS | _END_STREAM | _PRIORITY:
        return None
    if flags & _PRIORITY:
        if len(block) < 5 or int.from_bytes(block[:4], "big") & _MAX_WINDOW == stream:
            return None
        block = block[5:]
    try:
        fields = hpack.Decoder(_MAX_HEADER_LIST).decode(block, raw=True)
    except (hpack.HPACKError, IndexError):
        return None
    pseudo: dict[bytes, bytes] = {}
    ordinary = sized = False
    for name, value in fields:
        if name in _PSEUDO_FIELDS:
            if ordinary or name in pseudo:
                return None
            pseudo[name] = value
        elif name in _LOOK_CLOSER:
            ordinary = True
            # As in every gRPC request, and in an upload.
            if name == b"content-length" and value.isdigit() and not sized and not flags & _END_STREAM:
                sized = True
            elif name != b"te" or value != b"trailers":
                return None
        elif _FIELD_NAME.fullmatch(name):
            ordinary = True
        else:
            return None
        if not _FIELD_VALUE.fullmatch(value):
            return None
    if len(pseudo) < len(_PSEUDO_FIELDS) or not pseudo[b":path"] or pseudo[b":method"] == b"CONNECT":
        return None
    return Http2Request(host_name(pseudo[b":authority"]))


class Http2Reader:
    """Reads the first request of a stream that begins with the HTTP/2 preface.

    ``limit`` is the number of stream bytes that it will be fed at most; a frame that goes past it is not waited for.
    """

    __slots__ = ("_frame", "_frame_size", "_frames", "_limit", "_malformed", "_position", "_stream")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._position = 0
        self._frame = bytearray()
        self._frame_size = len(HTTP2_PREFACE)  # the first thing given to h2 is the preface
        self._frames = 0
        from datapath.protocols.h2_stream import H2Stream, MalformedStreamError  # 11 ms and half a MiB

        self._stream, self._malformed = H2Stream(), MalformedStreamError

    @property
    def between_frames(self) -> bool:
        """Whether the preface and whole frames have come, and nothing of a further one."""
        return self._frames > 0 and not self._frame

    def feed(self, data: bytes) -> Http2Request | NeedMore | Rejected:
        """Process new bytes. Those after the request are ignored. Must not be called after a final outcome."""
        at = 0
        while at < len(data):
            piece = data[at : at + self._frame_size - len(self._frame)]
            self._frame += piece
            at += len(piece)
            self._position += len(piece)
            verdict: Http2Request | Rejected | None = None
            if len(self._frame) == FRAME_HEADER == self._frame_size:
                verdict = self._check_header()
            if verdict is None and len(self._frame) == self._frame_size:
                verdict = self._frame_complete()
            if verdict is not None:
                return verdict
        return NeedMore(self._frame_size - len(self._frame))

    def _check_header(self) -> Rejected | None:
        """The header says how long the frame will be."""
        length = int.from_bytes(self._frame[:3], "big")
        if length > MAX_FRAME:
            return Rejected(Reason.MALFORMED, f"a frame has {length} bytes, more than {MAX_FRAME}")
        if self._frames == MAX_FRAMES or self._position + length > self._limit:
            return Rejected(Reason.LIMIT, f"there is no request in {self._limit} bytes and {MAX_FRAMES} frames")
        self._frames += 1
        self._frame_size += length
        return None

    def _frame_complete(self) -> Http2Request | Rejected | None:
        """Show h2 the preface or the frame that is now whole."""
        frame = bytes(self._frame)
        self._frame.clear()
        self._frame_size = FRAME_HEADER
        try:
            fields = self._stream.receive(frame)
        except self._malformed as error:
            return Rejected(Reason.MALFORMED, f"the HTTP/2 stream is malformed: {error}")
        return None if fields is None else _request(fields)


def _request(fields: Sequence[tuple[bytes, bytes]]) -> Http2Request | Rejected:
    """``:authority``, else the Host field that an HTTP/1 gateway passed on (RFC 9113 8.3.1)."""
    for wanted in (b":authority", b"host"):
        found = [value for name, value in fields if name == wanted]
        if len(found) > 1:
            return Rejected(Reason.MALFORMED, f"the HTTP/2 request has {len(found)} fields {wanted.decode()}")
        if found:
            return Http2Request(host_name(found[0]))
    return Http2Request(None)
