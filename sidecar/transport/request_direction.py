"""The part of a client's direction that follows HTTP requests: it cuts the stream at each and notifies the connection.

It implements :class:`sidecar.transport.direction.FollowedStream`.

Bytes are copied, never spliced: each request must be seen before its first byte is sent. Pieces that have been cut but
not sent wait in order, and nothing is read meanwhile, so a direction buffers at most one read and one head.

**Abuse.** Cutting 64 KiB takes microseconds for a body, but 100 ms for thousands of requests, which would delay all
other connections. So a direction reads little at first, more while cutting is fast, less when it is slow, and its turn
ends when cutting took long. HTTP/2 frames that neither request nor carry anything are limited; beyond the limit the
stream is no longer followed, as if it were ambiguous.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import ClassVar, Final, Protocol

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.http1_requests import SwitchedCutter
from datapath.protocols.proxy_header import FIRST_BYTES, header_size
from datapath.protocols.requests import AMBIGUOUS, Beyond, Cutter, Piece, Request
from datapath.protocols.second_hello import SecondHello
from sidecar.transport.direction import Direction
from sidecar.transport.loop_context import BUFFER_SIZE
from sidecar.transport.turn import Turn

_BLOCKED, _FINISHED = Turn.BLOCKED, Turn.FINISHED
NOTHING: Final = memoryview(b"")
"""Held by a direction to mark that there are pieces to be flushed."""
_LEAST_READ: Final = 1 << 10
_FIRST_READ: Final = 1 << 13
_QUICK_S: Final = 0.0003
_LONG_S: Final = 0.001
"""Cutting one read should take between these times, in seconds; other connections wait meanwhile."""
_MAX_IDLE_WORK: Final = 10_000
"""Per second (see :attr:`Cutter.idle_work`): a thousand cancelled requests, or ten thousand PINGs. Programs that
measure the round-trip time send one PING per round trip; floods send a hundred thousand and more."""


class Follower(Protocol):
    """The connection, which is notified where requests begin."""

    def begins(self, what: Request | Beyond) -> bool:
        """The next byte to be sent begins this request. False: do not send it, the connection has ended."""

    def settle(self) -> None:
        """Bytes may have been acknowledged: take the class of the last request, if that had to wait."""


class FollowedRequests:
    """Follows the requests of one direction (see the module)."""

    cuts: ClassVar[bool] = True

    __slots__ = ("_at_most", "_cutter", "_early", "_follower", "_idle_before", "_second", "_waiting")

    def __init__(self, follower: Follower, cutter: Cutter, early: bytes) -> None:
        """``early``: bytes read before the direction existed; they are sent when its ``held`` is first flushed."""
        self._follower = follower
        self._cutter: Cutter = cutter
        self._waiting: deque[Piece] = deque()
        if early[:1] in FIRST_BYTES and (size := header_size(early)):
            self._waiting.append(Piece(early[:size]))  # of the PROXY protocol: belongs to no request
            early = early[size:]
        self._early = early  # not cut yet
        self._at_most = _FIRST_READ  # bytes per read
        self._second = 0.0  # start of the second in which idle work is counted
        self._idle_before = 0

    @property
    def at_most(self) -> int:
        """Maximum number of bytes for the next read."""
        return self._at_most

    @property
    def in_hand(self) -> int:
        """Bytes that were read and are not held by the direction yet."""
        return sum(len(piece.data) for piece in self._waiting) + len(self._early)

    def clear(self) -> None:
        """Drop the waiting pieces."""
        self._waiting.clear()
        self._early = b""

    def copy(self, direction: Direction, limit: int) -> Turn | None:
        """Read and cut; the pieces wait for :meth:`flush`."""
        self._follower.settle()
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
            # A short read emptied the socket; but after a FIN no event would report the end.
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

    def splice(self, direction: Direction, limit: int) -> Turn | None:
        """Never called: no read counts as full."""
        return self.copy(direction, limit)

    def switched(self, direction: Direction) -> None:
        """The server has switched protocols. What has been cut already stays as it is."""
        held = self._cutter.finish()
        self._cutter = SwitchedCutter()
        self._idle_before = 0
        if held:
            self._waiting.extend(self._cutter.feed(held))
        if self._waiting and direction.held is None:
            direction.held = NOTHING
            direction.continue_soon()

    def _cut(self, data: bytes) -> float:
        """Cut the bytes read, and choose the size of the next read; return the seconds it took."""
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
        """Send the held bytes, then hold the next piece, if it may be sent."""
        held = direction.held
        turn = direction.flush(held) if held else None
        if turn is not None:
            return turn
        direction.held = None
        if self._waiting:
            piece = self._waiting.popleft()
            if piece.begins is not None and not self._follower.begins(piece.begins):
                return _BLOCKED  # permanently: the direction is closed
            direction.held = memoryview(piece.data)
            if direction.queued and direction.pace is not None:
                return _BLOCKED  # it waits for its turn in another class
        elif early := self._early:
            self._early = early[self._at_most :]
            direction.held = NOTHING
            return Turn.BUDGET_SPENT if self._cut(early[: self._at_most]) > _LONG_S else None
        return None


class HelloFollower(Protocol):
    """The connection, which is notified of a second ClientHello."""

    def hello_again(self, hello: ClientHello) -> None:
        """The last bytes completed it."""


class WatchedHello:
    """Watches a direction for a second ClientHello (:mod:`datapath.protocols.second_hello`): mostly one read.

    After that the direction is on its own.
    """

    cuts: ClassVar[bool] = False

    __slots__ = ("_follower", "_second")

    def __init__(self, follower: HelloFollower, second: SecondHello) -> None:
        self._follower = follower
        self._second = second

    def copy(self, direction: Direction, limit: int) -> Turn | None:
        """Copy once, and look at the bytes."""
        direction.last_read = 0
        turn = direction.copy_unseen(limit)
        hello = self._second.feed(bytes(direction.loop_context.view[: direction.last_read]))
        if self._second.done:
            direction.followed = None
        if hello is not None:
            self._follower.hello_again(hello)
        return turn

    def splice(self, direction: Direction, limit: int) -> Turn | None:
        """Bulk that may still be early data: copied, to be seen."""
        return self.copy(direction, min(limit, BUFFER_SIZE))

    def flush(self, direction: Direction) -> Turn | None:
        """Send the held bytes."""
        held = direction.held
        return direction.flush(held) if held else None

    def clear(self) -> None:
        """Nothing waits here."""
