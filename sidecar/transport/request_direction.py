"""The part of a client's direction that follows HTTP requests: the stream is cut at each, and the connection told.

:class:`sidecar.transport.direction.RequestStream` says what a direction asks of it.

Bytes are copied, never spliced: each request has to be seen before its first byte goes on. What has been cut and not
been sent waits in order, and nothing is read meanwhile, so a direction hoards at most one read and one head.

**What a client can make of that.** Cutting 64 KiB takes 50 us where they are a body, and 100 ms where they are
thousands of requests, which all other connections would wait for. So a direction reads little at first, more as long as
that is quickly cut, less where it is not, and its turn is over when cutting took long. And frames of HTTP/2 that
neither ask nor carry anything have a limit; beyond it the stream is no longer followed, as if it were ambiguous.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Final, Protocol

from datapath.protocols.proxy_header import FIRST_BYTES, header_size
from datapath.protocols.requests import AMBIGUOUS, Beyond, Cutter, Piece, Request
from sidecar.transport.direction import Direction
from sidecar.transport.loop_context import BUFFER_SIZE
from sidecar.transport.turn import Turn

_BLOCKED, _FINISHED = Turn.BLOCKED, Turn.FINISHED
NOTHING: Final = memoryview(b"")
"""Held by a direction, it says that there are pieces to be flushed."""
_LEAST_READ: Final = 1 << 10
_FIRST_READ: Final = 1 << 13
_QUICK_S: Final = 0.0003
_LONG_S: Final = 0.001
"""Cutting what was read is to take between these times; others wait for it."""
_MAX_IDLE_WORK: Final = 10_000
"""In a second (see :attr:`Cutter.idle_work`): a thousand cancelled requests, or ten thousand PINGs. Programs that
measure the way by PINGs send one per round trip; floods send a hundred thousand and more."""


class Follower(Protocol):
    """The connection: who wants to know where requests begin."""

    def begins(self, what: Request | Beyond) -> bool:
        """The next byte that is sent begins this. False: it is not to be sent, the connection has ended."""


class FollowedRequests:
    """See above."""

    __slots__ = ("_at_most", "_cutter", "_early", "_follower", "_idle_before", "_second", "_waiting")

    def __init__(self, follower: Follower, cutter: Cutter, early: bytes) -> None:
        """``early``: what was read before there was a direction; it goes when its ``held`` is first flushed."""
        self._follower = follower
        self._cutter = cutter
        self._waiting: deque[Piece] = deque()
        if early[:1] in FIRST_BYTES and (size := header_size(early)):
            self._waiting.append(Piece(early[:size]))  # of the PROXY protocol: belongs to no request
            early = early[size:]
        self._early = early  # not cut yet
        self._at_most = _FIRST_READ  # bytes per read
        self._second = 0.0  # when the second began in which idle work is counted
        self._idle_before = 0

    @property
    def at_most(self) -> int:
        """Bytes that the next read may bring."""
        return self._at_most

    def clear(self) -> None:
        """Let go of what waits."""
        self._waiting.clear()
        self._early = b""

    def copy(self, direction: Direction, limit: int) -> Turn | None:
        """Read and cut; what was cut waits for :meth:`flush`."""
        loop_context = direction.loop_context
        try:
            limit = min(limit, self._at_most)
            size = direction.last_read = direction.source.recv_into(loop_context.buffer, limit)
        except BlockingIOError:
            direction.readable = False
            return _BLOCKED
        except OSError:
            return Turn.SOURCE_RESET
        took = 0.0
        if size:
            # A short read emptied the socket; but behind a FIN no event would tell of the end.
            if size < limit and not direction.exhaust and not direction.fin:
                direction.readable = False
            took = self._cut(bytes(loop_context.view[:size]))
        elif rest := self._cutter.finish():
            self._waiting.append(Piece(rest))
        else:
            direction.eof = True
            return _FINISHED
        if self._waiting:
            direction.held = NOTHING
        return Turn.BUDGET_SPENT if took > _LONG_S else None

    def _cut(self, data: bytes) -> float:
        """Cut what was read, and choose how much to read next; the seconds that it took."""
        cutter = self._cutter
        began = perf_counter()
        self._waiting.extend(cutter.feed(data))
        now = perf_counter()
        took = now - began
        if took > _LONG_S:
            self._at_most = max(_LEAST_READ, self._at_most // 2)
        elif took < _QUICK_S and len(data) == self._at_most:
            self._at_most = min(BUFFER_SIZE, self._at_most * 2)
        if cutter.idle_work - self._idle_before > _MAX_IDLE_WORK:
            if now - self._second < 1.0:
                self._waiting.append(Piece(cutter.finish(), AMBIGUOUS))
            self._second, self._idle_before = now, cutter.idle_work
        elif now - self._second >= 1.0:
            self._second, self._idle_before = now, cutter.idle_work
        return took

    def flush(self, direction: Direction) -> Turn | None:
        """Send what is held, then hold the next piece, if its beginning may go."""
        held = direction.held
        turn = direction.flush(held) if held else None
        if turn is not None:
            return turn
        direction.held = None
        if self._waiting:
            piece = self._waiting.popleft()
            if piece.begins is not None and not self._follower.begins(piece.begins):
                return _BLOCKED  # and never again: it is closed
            direction.held = memoryview(piece.data)
        elif early := self._early:
            self._early = early[self._at_most :]
            direction.held = NOTHING
            return Turn.BUDGET_SPENT if self._cut(early[: self._at_most]) > _LONG_S else None
        return None
