"""One direction of a relayed connection: reads the source, writes the sink, with bounded buffering.

A :class:`Direction` keeps the state reported by edge-triggered epoll (*readable*, *writable*) and the bytes that the
sink did not accept. :meth:`Direction.pump` moves bytes until a side blocks, the budget is spent, or the direction ends:

======================  =======================================================================================
copy (normal)           ``recv_into`` one 64 KiB buffer that all connections share, ``send`` at once; only bytes that
                        the sink refuses are copied out and held (at most 64 KiB), and nothing is read meanwhile
splice (bulk)           after two full buffers in a row: socket -> pipe -> socket inside the kernel, payload never
                        becomes a Python object; the pipe is borrowed for as long as it contains bytes
======================  =======================================================================================

Two optional parts cost nothing if absent: ``pace`` decides when the direction may read, and how much
(:mod:`sidecar.transport.paced_direction`); ``followed`` cuts the copied bytes at requests
(:mod:`sidecar.transport.request_direction`), or reads answers along (:mod:`sidecar.transport.answer_direction`).

Invariants: at most one of ``held`` and ``pipe`` has bytes, and nothing is read while one has. So a direction buffers at
most 1 MiB outside the socket buffers, and nothing while idle. The kinds of end are distinguished exactly, because a
truncated transfer must not look complete: a FIN is a read of 0 bytes, a reset is an error. The kernel reports an error
once, and afterwards the socket reads 0 as if a FIN had come, so the first to see the error must act on it
(``sink_failure``).
"""

from __future__ import annotations

import errno
import math
import os
from socket import MSG_MORE, SocketType
from time import perf_counter
from typing import ClassVar, Final, Protocol

from datapath.sockets import limit_unsent, pending_error
from sidecar.transport.loop import EDGES, END_EVENTS, ENDED, FAILURE, READ_EVENTS, URGENT, WRITE_EVENTS
from sidecar.transport.loop_context import BUFFER_SIZE, LoopContext
from sidecar.transport.pipes import PIPE_SIZE, Pipe
from sidecar.transport.turn import Turn

BUDGET: Final = 16
"""Reads per turn: 1 MiB of copying, about 0.2 ms, before other connections get their turn."""
BULK_AFTER: Final = 2
"""Full reads in a row after which a transfer counts as bulk."""
UNSENT_LIMIT: Final = PIPE_SIZE
"""Bytes that the sink's kernel accepts in bulk beyond what it can send. Its own limit (``net.ipv4.tcp_wmem``) is
several times that; a buffer grown for a fast reader would stay full when the reader turns slow."""
CUTTING_S: Final = 0.02
"""Limit for the bytes that a client had sent before it reset a connection whose requests are cut; a body of a MiB takes
a tenth."""
_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


# As plain globals: a look-up in an enum class costs more than the comparison.
_BLOCKED, _BUDGET_SPENT, _FINISHED = Turn.BLOCKED, Turn.BUDGET_SPENT, Turn.FINISHED


class DirectionOwner(Protocol):
    """The connection that a direction belongs to."""

    def ended(self, direction: Direction, turn: Turn) -> None:
        """A pump ended with FINISHED, BROKEN, SOURCE_RESET or SINK_RESET."""

    def news_after_end(self, direction: Direction, events: int) -> None:
        """Events of the source of a direction that is already broken."""

    def crashed(self, error: Exception) -> None:
        """A handler raised: clean up."""


class Pace(Protocol):
    """Reads for a direction no faster than its limits allow."""

    def read(self, direction: Direction) -> Turn | None:
        """Copy or splice once; or wait, and continue when ``direction.on_turn`` is called."""

    def moved(self, direction: Direction, early: int) -> None:
        """Another class has come, to which ``early`` bytes that have been read belong: wait if those are too many."""


class FollowedStream(Protocol):
    """Moves bytes for a direction, and sees them. Nothing is read while the direction holds bytes."""

    cuts: ClassVar[bool]
    """Whether bytes are cut, which takes time."""

    def copy(self, direction: Direction, limit: int) -> Turn | None:
        """Read up to ``limit`` bytes."""

    def splice(self, direction: Direction, limit: int) -> Turn | None:
        """The same in bulk; called after two full reads in a row."""

    def flush(self, direction: Direction) -> Turn | None:
        """Send the held bytes; then the direction may hold a next piece."""

    def clear(self) -> None:
        """Drop everything."""


class Direction:
    """Bytes from ``source`` to ``sink``; the loop's handler of the source's descriptor."""

    __slots__ = (
        "bounded",
        "count",
        "eof",
        "exhaust",
        "fin",
        "followed",
        "full_reads",
        "full_seconds",
        "full_since",
        "held",
        "last_read",
        "loop_context",
        "open",
        "opposite",
        "owner",
        "pace",
        "pipe",
        "queued",
        "readable",
        "sink",
        "sink_watched",
        "source",
        "writable",
    )

    opposite: Direction

    def __init__(self, loop_context: LoopContext, owner: DirectionOwner, source: SocketType, sink: SocketType) -> None:
        self.loop_context = loop_context
        self.owner = owner
        self.source = source
        self.sink = sink
        self.readable = False  # the kernel may have bytes (or the end)
        self.fin = False  # the source's FIN has arrived: no bytes will follow those in the kernel
        self.exhaust = False  # read until EAGAIN: a short read proves nothing
        self.writable = True  # no EAGAIN from the sink since its last edge
        self.sink_watched = False  # the loop reports when the sink becomes writable
        self.open = True  # neither finished nor broken nor closed
        self.eof = False  # the source's FIN was read
        self.queued = False  # waiting for a turn
        self.held: memoryview | None = None  # read, and refused by the sink
        self.bounded = False  # the sink takes UNSENT_LIMIT ahead at most
        self.full_reads = 0  # in a row; from BULK_AFTER on the transfer is bulk
        self.full_seconds = 0.0  # seconds in which the sink was full, up to full_since
        self.full_since = 0.0  # on the clock of perf_counter; 0: not full
        self.pipe: Pipe | None = None
        self.count = 0  # bytes that the sink accepted
        self.last_read = 0  # bytes of the last read
        self.pace: Pace | None = None  # None: reads are not limited
        self.followed: FollowedStream | None = None  # None: nobody looks at the bytes

    def on_events(self, events: int) -> None:
        """Events of the source's descriptor: it is readable, or the opposite direction can write to it."""
        opposite = self.opposite
        if events & FAILURE:
            opposite.sink_has_room()
            self.source_failed(pending_error(self.source))
            return
        if not self.open:
            self.owner.news_after_end(self, events)
        elif events & READ_EVENTS:
            self.readable = True
            if events & END_EVENTS:
                self.end_noticed(events)
            if self.writable and not self.queued:
                self.run()
        if events & WRITE_EVENTS and not opposite.writable:
            opposite.writable = True
            opposite.sink_has_room()
            if opposite.open and not opposite.queued:
                opposite.run()

    def end_noticed(self, events: int) -> None:
        """Record from the events whether short reads are conclusive.

        recv(2) stops at an urgent mark, even if bytes and a FIN follow. After one, only EAGAIN counts.
        """
        self.fin = self.fin or bool(events & ENDED)
        self.exhaust = self.exhaust or bool(events & URGENT)

    def on_turn(self) -> None:
        """Continue after the budget was spent."""
        self.queued = False
        if self.open:
            self.run()

    def crashed(self, error: Exception) -> None:
        """Pass a fault to the connection."""
        self.owner.crashed(error)

    def source_failed(self, number: int) -> None:
        """Handle the error ``number`` of the source's socket, which shows whether a FIN preceded it (see
        ``sink_failure``)."""
        opposite = self.opposite
        # Whatever the error, the kernel still delivers the bytes it had received.
        self.readable = self.exhaust = True
        if number not in (0, errno.EPIPE) and not self.eof:
            self.drain()
            self.owner.ended(self, Turn.SOURCE_RESET)
            return
        if opposite.open:
            if number:
                self.owner.ended(opposite, Turn.BROKEN)
        elif not self.open:
            self.owner.news_after_end(self, FAILURE)
        if self.open and self.writable and not self.queued:
            self.run()

    def run(self) -> None:
        """Pump, and handle the result."""
        # Nearly always a single short read suffices: handle it without the loop of pump().
        if self.readable and self.held is None and self.full_reads < BULK_AFTER and self.pace is None:
            followed = self.followed
            turn = self.copy_unseen(BUFFER_SIZE) if followed is None else followed.copy(self, BUFFER_SIZE)
            if turn is _BLOCKED:
                return
        else:
            turn = None
        if turn is None:
            turn = self.pump()
        if turn is _BLOCKED:
            return
        if turn is _BUDGET_SPENT:
            self.continue_soon()
        else:
            self.owner.ended(self, turn)

    def continue_soon(self) -> None:
        """Run in the next round."""
        if not self.queued:
            self.queued = True
            self.loop_context.loop.call_soon(self)

    def pump(self) -> Turn:
        """Move bytes until a side blocks, the budget is spent or the direction ends."""
        for _ in range(BUDGET):
            if self.held is not None:
                turn = self.flush(self.held) if self.followed is None else self.followed.flush(self)
            elif not self.readable:
                turn = _BLOCKED
            elif self.pace is not None:
                turn = self.pace.read(self)
            elif self.full_reads >= BULK_AFTER:
                turn = self.splice(PIPE_SIZE)
            else:
                turn = self.copy(BUFFER_SIZE)
            if turn is not None:
                if self.pipe is not None and not self.pipe.inside:
                    self._return_pipe(self.pipe)
                return turn
        return _BUDGET_SPENT

    def waited(self) -> float:
        """Seconds so far in which the sink was full: from a partial send to the event that reports room. The time in
        which bytes wait in the kernel's send buffer does not count."""
        return self.full_seconds + (perf_counter() - self.full_since if self.full_since else 0.0)

    def sink_has_room(self) -> None:
        """The sink's event has arrived: it is no longer full."""
        if self.full_since:
            self.full_seconds += perf_counter() - self.full_since
            self.full_since = 0.0

    def drain(self) -> None:
        """The source was reset: move its remaining bytes at once, as far as the sink accepts them without waiting.

        Cutting requests is limited to some milliseconds: a client could leave a MiB that takes seconds.
        """
        self.readable = self.exhaust = True
        self.pace = None
        cuts = self.followed is not None and self.followed.cuts
        until = perf_counter() + CUTTING_S if cuts else math.inf
        while self.open and self.writable and self.pump() is Turn.BUDGET_SPENT and perf_counter() < until:
            pass

    def release(self) -> None:
        """The connection is closed. Breaks the reference cycle, so that the garbage collector is not needed."""
        self.shut()
        del self.opposite

    def shut(self) -> None:
        """End this direction, for any reason: move nothing more, drop held bytes."""
        self.open = False
        self.held = None
        if self.followed is not None:
            self.followed.clear()
        if self.pipe is not None:
            self._return_pipe(self.pipe)

    def flush(self, held: memoryview) -> Turn | None:
        """Send the held bytes."""
        try:
            sent = self.sink.send(held)
        except BlockingIOError:
            return self._sink_full()
        except OSError as error:
            return self.sink_failure(error)
        self.count += sent
        if sent < len(held):
            self.held = held[sent:]
            return self._sink_full()
        self.held = None
        return None

    def copy(self, limit: int) -> Turn | None:
        """Read once, up to ``limit`` bytes, and send them."""
        return self.copy_unseen(limit) if self.followed is None else self.followed.copy(self, limit)

    def copy_unseen(self, limit: int) -> Turn | None:
        """The same, whether the direction is followed or not; ``last_read`` bytes are then in the loop's buffer."""
        loop_context = self.loop_context
        try:
            size = self.last_read = self.source.recv_into(loop_context.buffer, limit)
        except BlockingIOError:
            self.readable = False
            return _BLOCKED
        except OSError:
            return Turn.SOURCE_RESET
        if size == 0:
            self.eof = True
            return _FINISHED
        short = size < limit and not self.exhaust
        # A short read after a FIN was the last one. Then the sink's kernel waits for the FIN that follows at once, and
        # sends both in one packet; and the read that would return 0 is saved.
        last = short and self.fin
        try:
            sent = self.sink.send(loop_context.view[:size], MSG_MORE if last else 0)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self.sink_failure(error)
        self.count += sent
        if sent < size:
            self.held = memoryview(bytes(loop_context.view[sent:size]))
            return self._sink_full()
        if last:
            self.eof = True
            return _FINISHED
        if size == limit:
            self.full_reads += 1
            return None
        self.full_reads = 0
        if short:
            # A short read emptied the socket; later bytes raise a new edge. This saves a call that would fail with
            # EAGAIN.
            self.readable = False
            return _BLOCKED
        return None

    def splice(self, limit: int) -> Turn | None:
        """Read once, up to ``limit`` bytes, into a pipe, or send what it contains."""
        return self.splice_unseen(limit) if self.followed is None else self.followed.splice(self, limit)

    def splice_unseen(self, limit: int) -> Turn | None:
        """The same, whether the direction is followed or not."""
        pipe = self.pipe
        if pipe is None:
            pipe = self.loop_context.pipes.borrow()
            if pipe is None:
                self.end_bulk()
                return None
            self.pipe = pipe
            if not self.bounded:
                self.bounded = True
                limit_unsent(self.sink, UNSENT_LIMIT)
        if pipe.inside == 0:
            try:
                size = self.last_read = os.splice(self.source.fileno(), pipe.write_end, limit, flags=_SPLICE)
            except BlockingIOError:
                # The pipe is empty, so EAGAIN came from the socket.
                self.readable = False
                if pipe.moved < BUFFER_SIZE:
                    self.end_bulk()
                pipe.moved = 0
                return _BLOCKED
            except OSError:
                return Turn.SOURCE_RESET
            if size == 0:
                self.eof = True
                return _FINISHED
            pipe.inside = size
            pipe.moved += size
        try:
            sent = os.splice(pipe.read_end, self.sink.fileno(), pipe.inside, flags=_SPLICE)
        except BlockingIOError:
            return self._sink_full()
        except OSError as error:
            return self.sink_failure(error)
        pipe.inside -= sent
        self.count += sent
        return None

    def _sink_full(self) -> Turn:
        """Wait for the sink; from the first time on, the loop watches it."""
        self.writable = False
        if not self.full_since:
            self.full_since = perf_counter()
        if not self.sink_watched:
            self.sink_watched = True
            self.loop_context.loop.set_events(self.sink.fileno(), EDGES)
        return _BLOCKED

    def end_bulk(self) -> None:
        """Little arrives per wake-up: copying is cheaper. One full read resumes bulk mode."""
        self.full_reads = BULK_AFTER - 1

    def _return_pipe(self, pipe: Pipe) -> None:
        self.loop_context.pipes.give_back(pipe)
        self.pipe = None

    def sink_failure(self, error: OSError) -> Turn:
        """What a failed send means for the sink.

        EPIPE is a reset after the sink's FIN (tcp_reset() in net/ipv4/tcp_input.c, state CLOSE_WAIT): bytes before the
        FIN must still be delivered. Every other error ends the whole connection, unless the FIN was already read.
        """
        if error.errno == errno.EPIPE or self.opposite.eof:
            return Turn.BROKEN
        return Turn.SINK_RESET
