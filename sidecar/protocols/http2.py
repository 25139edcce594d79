"""The first request of an HTTP/2 connection with prior knowledge, read by h2: which authority is it for?

How it works: the stream is given to h2 one whole frame at a time, up to the first complete request. So what comes
behind the request cannot change the answer (h2 given everything at once would raise for a later bad frame and keep the
request to itself), and each byte is handled once. SETTINGS, PRIORITY, padding, CONTINUATION, HPACK and the validity of
the request are h2's. It also prepares answers (acknowledgements, GOAWAY); they are never sent: nothing is altered here.

A client may send its first request right behind the preface (RFC 9113 3.4), and nearly all do. One that waits for the
server's SETTINGS first says nothing more before it is connected: for it, detection ends by the timeout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError

from sidecar.protocols.opening import HTTP2_PREFACE
from sidecar.protocols.outcome import NeedMore, Reason, Rejected, host_name

FRAME_HEADER: Final = 9
"""Bytes of a frame header (RFC 9113 4.1)."""
MAX_FRAME: Final = 1 << 14
"""Most payload bytes of a frame as long as the server has not allowed more (RFC 9113 4.2)."""
MAX_FRAMES: Final = 256
"""Frames looked at for the first request. Clients need two to ten; h2 takes 64 CONTINUATION frames for one. The bound
keeps a flood of tiny frames from costing more time than as many bytes of anything else."""


@dataclass(frozen=True, slots=True)
class Http2Request:
    """``host`` in comparable form (:mod:`tc_core.names`); None when absent or unusable."""

    host: str | None


class Http2Reader:
    """Reads the first request of a stream that begins with the HTTP/2 preface.

    ``limit`` is the number of stream bytes that it will be fed at most; a frame that goes past it is not waited for.
    """

    __slots__ = ("_connection", "_frame", "_frame_size", "_frames", "_limit", "_position")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._position = 0
        self._frame = bytearray()
        self._frame_size = len(HTTP2_PREFACE)  # the first thing given to h2 is the preface
        self._frames = 0
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._connection.initiate_connection()

    def feed(self, data: bytes) -> Http2Request | NeedMore | Rejected:
        """Take the new bytes. Those behind the request are passed over. Not to be called again after a final one."""
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
            events = self._connection.receive_data(frame)
        except ProtocolError as error:
            return Rejected(Reason.MALFORMED, f"the HTTP/2 stream is malformed: {error}")
        self._connection.clear_outbound_data_buffer()
        for event in events:
            if isinstance(event, RequestReceived):
                return Http2Request(_host(event))
        return None


def _host(request: RequestReceived) -> str | None:
    """``:authority``, else the Host field that an HTTP/1 gateway passed on (RFC 9113 8.3.1)."""
    fields = {bytes(name): bytes(value) for name, value in request.headers}
    authority = fields.get(b":authority", fields.get(b"host"))
    return None if authority is None else host_name(authority)
