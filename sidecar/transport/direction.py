"""One direction of a relayed connection: read the source, write the sink, hoard nothing.

A :class:`Direction` remembers what edge-triggered epoll told it (*readable*, *writable*) and the few bytes that the
sink did not take. :meth:`Direction.pump` moves bytes until a side blocks, the budget ends, or the direction does:

======================  =======================================================================================
copy (normal)           ``recv_into`` one 64 KiB buffer that all connections share, ``send`` at once; only what the sink
                        refuses is copied out and held (at most 64 KiB), and nothing is read while something is held
splice (bulk)           after two full buffers in a row: socket -> pipe -> socket inside the kernel, payload never
                        becomes a Python object; the pipe is borrowed for as long as there are bytes in it
======================  =======================================================================================

Invariants: at most one of ``held`` and ``pipe`` has bytes; nothing is read while one has; so one direction hoards at
most 1 MiB outside the socket buffers, and an idle one nothing at all. Ends are told apart exactly, because a cut-off
transfer must not look complete: a FIN is a read of 0 bytes; a reset is an error. The kernel reports an error once, and
afterwards the socket reads 0 as if a FIN had come, so whoever takes the error first decides (``sink_failure``).
"""

from __future__ import annotations

import enum
import errno
import os
from socket import MSG_MORE, SocketType
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from datapath.sockets import bound_unsent, pending_error
from sidecar.transport.loop import EDGES, END_EVENTS, ENDED, FAILURE, READ_EVENTS, URGENT, WRITE_EVENTS, EventLoop
from sidecar.transport.pipes import PIPE_SIZE, Pipe, PipePool

if TYPE_CHECKING:
    from sidecar.transport.pacing import Pacer

BUFFER_SIZE: Final = 1 << 16
"""Bytes per read: larger reads fall out of the L2 cache, smaller ones cost more calls."""
BUDGET: Final = 16
"""Reads per turn: 1 MiB of copying, about 0.2 ms, before others get theirs."""
BULK_AFTER: Final = 2
"""Full reads in a row after which a transfer counts as bulk."""
UNSENT_LIMIT: Final = PIPE_SIZE
"""Bytes that the sink's kernel takes in bulk ahead of what it can send. Its own limit (``net.ipv4.tcp_wmem``) is
several times that; what a fast reader has made of it would be hoarded when the reader turns slow."""
_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Turn(enum.IntEnum):
    """How a pump ended."""

    BLOCKED = enum.auto()
    """Nothing to read, or the sink is full: an event will tell."""
    BUDGET_SPENT = enum.auto()
    """There is more to do: queue for another turn."""
    FINISHED = enum.auto()
    """The source's FIN was read, and all before it is written."""
    BROKEN = enum.auto()
    """The sink had finished, and has reset now: it takes nothing more."""
    SOURCE_RESET = enum.auto()
    """The source reset the connection; all that had come before is written or lost."""
    SINK_RESET = enum.auto()
    """The sink reset the connection, not having finished before."""


# As plain globals: looking a member up in an enum class costs more than comparing it.
_BLOCKED, _BUDGET_SPENT, _FINISHED = Turn.BLOCKED, Turn.BUDGET_SPENT, Turn.FINISHED


class Owner(Protocol):
    """The connection that a direction belongs to."""

    class_name: str | None

    def ended(self, direction: Direction, turn: Turn) -> None:
        """A pump ended with FINISHED, BROKEN, SOURCE_RESET or SINK_RESET."""

    def news_after_end(self, direction: Direction, events: int) -> None:
        """Events of the source of a direction that is already broken."""

    def crashed(self, error: Exception) -> None:
        """A handler raised: clean up."""


class Workshop:
    """What all directions of a loop share: the loop itself, the copy buffer, the pipes, limits for what arrives."""

    def __init__(
        self,
        loop: EventLoop,
        pacer: Pacer,
        pipes: PipePool | None = None,
        *,
        times_waits: bool = False,
    ) -> None:
        """``pacer`` has the limits of directions that are held (:mod:`sidecar.transport.paced_direction`).

        ``times_waits``: whether somebody wants :meth:`Direction.waited`, which costs a little.
        """
        self.loop = loop
        self.pacer = pacer
        self.direction = TimedDirection if times_waits else Direction
        self.buffer = bytearray(BUFFER_SIZE)
        self.view = memoryview(self.buffer)
        self.first_bytes = 0
        """Bytes of all connections that await a decision about what they are."""
        self.pipes = pipes if pipes is not None else PipePool()


class Direction:
    """Bytes from ``source`` to ``sink``; the loop's handler of the source's descriptor."""

    __slots__ = (
        "bounded",
        "count",
        "eof",
        "exhaust",
        "fin",
        "full_reads",
        "held",
        "last_read",
        "open",
        "opposite",
        "owner",
        "pipe",
        "queued",
        "readable",
        "shop",
        "sink",
        "sink_watched",
        "source",
        "writable",
    )

    opposite: Direction

    def __init__(self, shop: Workshop, owner: Owner, source: SocketType, sink: SocketType) -> None:
        self.shop = shop
        self.owner = owner
        self.source = source
        self.sink = sink
        self.readable = False  # the kernel may have bytes (or the end) for us
        self.fin = False  # the source's FIN has come: what there is to read now is all there will ever be
        self.exhaust = False  # read until EAGAIN: a short read proves nothing
        self.writable = True  # the sink has not said EAGAIN since its last edge
        self.sink_watched = False  # the loop reports when the sink can be written to again
        self.open = True  # neither finished nor broken nor closed
        self.eof = False  # the source's FIN was read
        self.queued = False  # waiting for a turn
        self.held: memoryview | None = None  # read, and refused by the sink
        self.bounded = False  # the sink takes UNSENT_LIMIT ahead at most
        self.full_reads = 0  # in a row; from BULK_AFTER on the transfer is bulk
        self.pipe: Pipe | None = None
        self.count = 0  # bytes that the sink took
        self.last_read = 0  # bytes that the last read brought

    def on_events(self, events: int) -> None:
        """Events of the source's descriptor: it can be read, or the opposite direction can write to it."""
        opposite = self.opposite
        if events & FAILURE:
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
            if opposite.open and not opposite.queued:
                opposite.run()

    def end_noticed(self, events: int) -> None:
        """Take down what the events say about short reads.

        recv(2) stops at an urgent mark, even if bytes and a FIN are behind it. Once there was one, only EAGAIN counts.
        """
        if events & ENDED:
            self.fin = True
        if events & URGENT:
            self.exhaust = True

    def on_turn(self) -> None:
        """Go on after the budget was spent."""
        self.queued = False
        if self.open:
            self.run()

    def crashed(self, error: Exception) -> None:
        """Hand a fault to the connection."""
        self.owner.crashed(error)

    def source_failed(self, number: int) -> None:
        """The source's socket had the error ``number``, which says whether a FIN came before (see ``sink_failure``)."""
        opposite = self.opposite
        # Whatever the error, the kernel still gives out what it had received.
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
        """Pump, and see to what comes of it."""
        # Nearly always one short read is all there is: that way without the loop of pump().
        turn = self._copy() if self.readable and self.held is None and self.full_reads < BULK_AFTER else None
        if turn is _BLOCKED:
            return
        if turn is None:
            turn = self.pump()
        if turn is _BLOCKED:
            return
        if turn is _BUDGET_SPENT:
            self.queued = True
            self.shop.loop.again(self)
        else:
            self.owner.ended(self, turn)

    def pump(self) -> Turn:
        """Move bytes until a side blocks, the budget is spent or the direction ends."""
        for _ in range(BUDGET):
            if self.held is not None:
                turn = self._flush(self.held)
            elif not self.readable:
                turn = _BLOCKED
            elif self.full_reads >= BULK_AFTER:
                turn = self._splice()
            else:
                turn = self._copy()
            if turn is not None:
                if self.pipe is not None and not self.pipe.inside:
                    self._return_pipe()
                return turn
        return _BUDGET_SPENT

    def waited(self) -> float:
        """Seconds in which there were bytes and the sink took none; 0 where nobody wants to know."""
        return 0.0

    def drain(self) -> None:
        """Move what the source has left, as far as the sink takes it without waiting: the source was reset."""
        self.readable = self.exhaust = True
        while self.open and self.writable and self.pump() is Turn.BUDGET_SPENT:
            pass

    def release(self) -> None:
        """The connection is closed. Cuts the reference cycle, so that nothing waits for the garbage collector."""
        self.shut()
        del self.opposite

    def shut(self) -> None:
        """The end of this direction, whatever the reason: move nothing more, let go of what is held."""
        self.open = False
        self.held = None
        if self.pipe is not None:
            self._return_pipe()

    def _flush(self, held: memoryview) -> Turn | None:
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

    def _copy(self, limit: int = BUFFER_SIZE) -> Turn | None:
        shop = self.shop
        try:
            size = self.last_read = self.source.recv_into(shop.buffer, limit)
        except BlockingIOError:
            self.readable = False
            return _BLOCKED
        except OSError:
            return Turn.SOURCE_RESET
        if size == 0:
            self.eof = True
            return _FINISHED
        short = size < limit and not self.exhaust
        # A short read behind a FIN was the last one. Then the sink's kernel waits for the FIN that follows at once, and
        # sends both in one packet; and the read that would say 0 is saved.
        last = short and self.fin
        try:
            sent = self.sink.send(shop.view[:size], MSG_MORE if last else 0)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self.sink_failure(error)
        self.count += sent
        if sent < size:
            self.held = memoryview(bytes(shop.view[sent:size]))
            return self._sink_full()
        if last:
            self.eof = True
            return _FINISHED
        if size == limit:
            self.full_reads += 1
            return None
        self.full_reads = 0
        if short:
            # A short read emptied the socket; whatever comes now raises a new edge. Saves a call that would say EAGAIN.
            self.readable = False
            return _BLOCKED
        return None

    def _splice(self, limit: int = PIPE_SIZE) -> Turn | None:
        pipe = self.pipe
        if pipe is None:
            pipe = self.shop.pipes.borrow()
            if pipe is None:
                self._end_bulk()
                return None
            self.pipe = pipe
            if not self.bounded:
                self.bounded = True
                bound_unsent(self.sink, UNSENT_LIMIT)
        if pipe.inside == 0:
            try:
                size = self.last_read = os.splice(self.source.fileno(), pipe.write_end, limit, flags=_SPLICE)
            except BlockingIOError:
                # The pipe is empty, so it is the socket that has nothing.
                self.readable = False
                if pipe.moved < BUFFER_SIZE:
                    self._end_bulk()
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
        """Wait for the sink; from its first time on, the loop reports it."""
        self.writable = False
        if not self.sink_watched:
            self.sink_watched = True
            self.shop.loop.rewatch(self.sink.fileno(), EDGES)
        return _BLOCKED

    def _end_bulk(self) -> None:
        """Little comes per wake-up: copying is cheaper. One full read will do to begin again."""
        self.full_reads = BULK_AFTER - 1

    def _return_pipe(self) -> None:
        if self.pipe is not None:
            self.shop.pipes.give_back(self.pipe)
            self.pipe = None

    def sink_failure(self, error: OSError) -> Turn:
        """What the failure of a send says of the sink.

        EPIPE is a reset after the sink's FIN (tcp_reset() in net/ipv4/tcp_input.c, state CLOSE_WAIT): what came before
        the FIN is still to be delivered. Every other error ends the whole connection, unless the FIN was read already.
        """
        if error.errno == errno.EPIPE or self.opposite.eof:
            return Turn.BROKEN
        return Turn.SINK_RESET


class TimedDirection(Direction):
    """A direction that measures how long its sink was full: from a send that took less than there was to the event that
    says that it takes more. What the kernel has taken and not sent is no part of it."""

    __slots__ = ("full_seconds", "full_since")

    def __init__(self, shop: Workshop, owner: Owner, source: SocketType, sink: SocketType) -> None:
        super().__init__(shop, owner, source, sink)
        self.full_seconds = 0.0
        self.full_since = 0.0

    def on_events(self, events: int) -> None:
        """The sink of the opposite direction is the source of this one."""
        opposite = self.opposite
        if events & WRITE_EVENTS and not opposite.writable and isinstance(opposite, TimedDirection):
            opposite.full_seconds += perf_counter() - opposite.full_since
            opposite.full_since = 0.0
        super().on_events(events)

    def waited(self) -> float:
        """Seconds, up to now."""
        return self.full_seconds + (perf_counter() - self.full_since if self.full_since else 0.0)

    def _sink_full(self) -> Turn:
        if not self.full_since:
            self.full_since = perf_counter()
        return super()._sink_full()
