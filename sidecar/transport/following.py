"""The client's direction of an HTTP connection whose requests are followed: cut at each request, and told of it.

Bytes are copied, never spliced: each request has to be seen before its first byte goes on. What has been cut and not
been sent waits in order, and nothing is read meanwhile, so a direction hoards at most one read and one head.
"""

from __future__ import annotations

from collections import deque
from socket import SocketType
from typing import Final, Protocol

from sidecar.protocols.requests import Beyond, Cutter, Piece, Request
from sidecar.transport.relay import BUFFER_SIZE, Owner, TimedDirection, Turn, Workshop

_BLOCKED, _FINISHED = Turn.BLOCKED, Turn.FINISHED
_NOTHING: Final = memoryview(b"")


class Follower(Owner, Protocol):
    """The connection: who wants to know where requests begin."""

    def begins(self, what: Request | Beyond) -> bool:
        """The next byte that is sent begins this. False: it is not to be sent, the connection has ended."""


class FollowingDirection(TimedDirection):
    """See above. :meth:`Direction.run` and the rest work on what this one gives them in ``held``."""

    __slots__ = ("_cutter", "_follower", "_waiting")

    def __init__(
        self, shop: Workshop, follower: Follower, source: SocketType, sink: SocketType, cutter: Cutter
    ) -> None:
        super().__init__(shop, follower, source, sink)
        self._follower = follower
        self._cutter = cutter
        self._waiting: deque[Piece] = deque()

    def take(self, data: bytes) -> None:
        """Bytes that were read before there was a direction; they go at the next :meth:`run`."""
        self._waiting.extend(self._cutter.feed(data))
        if self._waiting:
            self.held = _NOTHING

    def shut(self) -> None:
        """Also what waits."""
        super().shut()
        self._waiting.clear()

    def _copy(self, limit: int = BUFFER_SIZE) -> Turn | None:
        shop = self.shop
        try:
            size = self.last_read = self.source.recv_into(shop.buffer, limit)
        except BlockingIOError:
            self.readable = False
            return _BLOCKED
        except OSError:
            return Turn.SOURCE_RESET
        if size:
            self._waiting.extend(self._cutter.feed(bytes(shop.view[:size])))
            # A short read emptied the socket; but behind a FIN no event would tell of the end.
            if size < limit and not self.exhaust and not self.fin:
                self.readable = False
        elif rest := self._cutter.finish():
            self._waiting.append(Piece(rest))
        else:
            self.eof = True
            return _FINISHED
        if self._waiting:
            self.held = _NOTHING
        return None

    def _flush(self, held: memoryview) -> Turn | None:
        turn = super()._flush(held) if held else None
        if turn is not None:
            return turn
        self.held = None
        if self._waiting:
            piece = self._waiting.popleft()
            if piece.begins is not None and not self._follower.begins(piece.begins):
                return _BLOCKED  # and never again: it is closed
            self.held = memoryview(piece.data)
        return None
