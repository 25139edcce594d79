"""The first request of an HTTP/2 connection that goes on before it is there: its authority, told of when it comes.

A client may wait for the server's SETTINGS before it makes a request (RFC 9113 3.4 lets it begin at once, but gRPC's
core library, that of C++, Python, Ruby and others, does wait). Nothing can be known of it before there is a server.
"""

from __future__ import annotations

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http2_requests import Http2Cutter
from datapath.protocols.requests import Piece, Request


def is_unnamed(detection: Detection) -> bool:
    """Whether it is HTTP/2, and its first request is still to come."""
    return detection.protocol is Protocol.HTTP2 and detection.reason is Reason.TIMEOUT


class FirstRequestCutter:
    """Cuts the stream where its first request begins, and passes everything behind that as it comes.

    What cannot be decoded tells of nothing, and passes as well.
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
