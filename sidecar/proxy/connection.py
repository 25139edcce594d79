"""One connection: detect, route, dial, relay.

A :class:`RelayedConnection` follows the table of :mod:`sidecar.transport.states`:

* DETECTING: the client's first bytes are read and passed to the detector (:mod:`sidecar.proxy.sniffer`) until it has
  decided, its limit is reached, or the detection timeout expires. They are the first bytes sent to the server.
* DIALLING: the class is chosen, the mark set, and connect(2) in progress. Further bytes wait in the kernel. A
  connection to a server on the same node is established before connect(2) returns, so the first bytes are sent at once;
  otherwise that costs one call that fails with EAGAIN, and the connection waits for its event.
* RELAYING and later: two :class:`~sidecar.transport.direction.Direction` objects own the descriptors.

:class:`~sidecar.proxy.class_tracking.ClassTracking` tracks the class; state shared by all connections is in
:class:`~sidecar.proxy.context.ConnectionContext`.

The client sees the connection end as the server ended it (FIN for FIN, RST for RST). It sees RST if the server cannot
be reached, at the idle timeout, and when the grace period of a drain ends: after a FIN, truncated data would look
complete.
"""

from __future__ import annotations

import errno
import select
import socket
from socket import SocketType
from typing import Final

from daemon.log import Logger
from datapath.protocols.client_hello import ClientHello
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http1_answers import Http1Answers, Over
from datapath.protocols.requests import Beyond, Request
from datapath.protocols.second_hello import SecondHello
from datapath.sockets import SocketAddress, acknowledge, pending_error, reset_on_close, unacknowledged
from sidecar.proxy.class_tracking import Change, ClassTracking
from sidecar.proxy.context import ConnectionContext
from sidecar.proxy.dial_errors import NEVER_RELAYED, Dialling
from sidecar.proxy.sniffer import Sniffer
from sidecar.transport.accept import EXHAUSTED
from sidecar.transport.answer_direction import FollowedAnswers
from sidecar.transport.direction import Direction
from sidecar.transport.kernel_sockets import KernelSockets, OriginalDestination
from sidecar.transport.loop import EDGES, FAILURE, READ_EVENTS
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary, ConnectionView
from sidecar.transport.paced_direction import ClassPace
from sidecar.transport.pair import Pair
from sidecar.transport.request_direction import NOTHING, FollowedRequests, WatchedHello
from sidecar.transport.states import ConnectionEvent, ConnectionState, next_state
from sidecar.transport.turn import Turn
from traffic_policy.policy import Bound

log = Logger()

_CONNECTED_ONCE: Final = frozenset({0, errno.ECONNRESET, errno.EPIPE})
"""Errors of a socket that was connected. RST in answer to the SYN is ECONNREFUSED."""
# As plain globals: a look-up in an enum class costs more than the comparison.
_DETECTING, _DIALLING, _LINGERING, _CLOSED = (
    ConnectionState.DETECTING,
    ConnectionState.DIALLING,
    ConnectionState.LINGERING,
    ConnectionState.CLOSED,
)
_DECIDED, _CONNECTED = ConnectionEvent.DECIDED, ConnectionEvent.CONNECTED
_UP_FINISHED, _DOWN_FINISHED = ConnectionEvent.UP_FINISHED, ConnectionEvent.DOWN_FINISHED
_TLS, _FOUND = Protocol.TLS, Reason.FOUND
_FINISHED, _COMPLETE = Turn.FINISHED, ConnectionOutcome.COMPLETE
_TURNED_AWAY: Final = NEVER_RELAYED | {ConnectionOutcome.AMBIGUOUS}


class RelayedConnection:
    """A client, its server, and their state."""

    __slots__ = (
        "_due",
        "answers",
        "client",
        "client_address",
        "context",
        "first",
        "kernel_sockets",
        "opened_at",
        "original",
        "outcome",
        "pair",
        "state",
        "tracking",
        "upstream",
    )

    def __init__(
        self,
        context: ConnectionContext[RelayedConnection],
        kernel_sockets: KernelSockets,
        client: SocketType,
        address: SocketAddress,
        original: OriginalDestination,
    ) -> None:
        self.context = context
        self.kernel_sockets = kernel_sockets
        self.client = client
        self.client_address = address
        self.original = original
        self.state = ConnectionState.DETECTING
        self.tracking = ClassTracking(context, original.destination, address)
        self.first: Sniffer | None = Sniffer(context.first_bytes, self, client)
        self.upstream: SocketType | None = None
        self.pair: Pair | None = None  # from RELAYING until closed
        self.answers: Http1Answers | None = None  # where requests of HTTP/1 are followed
        self._due = (0, 0)  # when the class of tracking.wanted is due: answers that have come, bytes up
        self.outcome = _COMPLETE
        self.opened_at = context.now()

    @property
    def bytes_up(self) -> int:
        """Bytes of the client that the server's socket accepted."""
        return self.pair.up.count if self.pair is not None else 0

    @property
    def bytes_down(self) -> int:
        """Bytes of the server that the client's socket accepted."""
        return self.pair.down.count if self.pair is not None else 0

    # DETECTING -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the first bytes or, if they cannot change anything, dial at once."""
        context = self.context
        assert self.first is not None
        if context.routing.undecided(self.original.destination, self.client_address):
            self.first.begin()
        else:
            context.loop.watch(self.client.fileno(), self.first)
            acknowledge(self.client)
            self._dial()

    def detected(self, detection: Detection) -> None:
        """Detection has ended."""
        self.tracking.detected(detection, self.context.now() - self.opened_at)
        self._dial()

    def client_reset(self) -> None:
        """The client reset the connection before it was relayed."""
        self.end(ConnectionEvent.RESET, ConnectionOutcome.CLIENT_RESET)

    # DIALLING ------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        self.state = next_state(self.state, _DECIDED)
        self.tracking.choose()
        self._connect()

    def dial_again(self) -> None:
        """Dial again, after descriptors or memory were exhausted."""
        self._connect()

    def _connect(self) -> None:
        context, class_name = self.context, self.tracking.name
        assert class_name is not None
        assert self.first is not None
        first_bytes = self.first.data
        mark = context.routing.mark_of(class_name)
        try:
            upstream = self.kernel_sockets.dial(self.original, mark, self.client, speaks=bool(first_bytes))
        except OSError as error:
            if error.errno in EXHAUSTED and context.now() - self.opened_at < context.connect_timeout:
                context.on_exhausted()
                context.waiting.add(self)
            else:
                self._dial_failed(error.errno or 0)
            return
        self.upstream = upstream
        if first_bytes and not self.tracking.follows():
            try:
                sent = upstream.send(first_bytes)
            except BlockingIOError:
                pass
            except OSError as error:
                context.loop.watch(upstream.fileno(), Dialling(self))
                self._dial_ended(upstream, 0, error.errno or 0)
                return
            else:
                up, down = self._relay(upstream, sent, follows=False)
                context.loop.watch(upstream.fileno(), down)
                if up.readable or up.held is not None:
                    up.run()
                return
        context.loop.watch(upstream.fileno(), Dialling(self), EDGES)
        context.connecting.add(self)

    def connect_timed_out(self) -> None:
        """The server did not answer in time."""
        self.end(ConnectionEvent.DIAL_FAILED, ConnectionOutcome.CONNECT_TIMEOUT)

    def dialled(self, upstream: SocketType, events: int) -> None:
        """connect(2) has ended, successfully or not."""
        self.context.connecting.discard(self)
        self._dial_ended(upstream, events, pending_error(upstream) if events & FAILURE else 0)

    def _dial_ended(self, upstream: SocketType, events: int, number: int) -> None:
        if number not in _CONNECTED_ONCE:
            self._dial_failed(number)
            return
        up, down = self._relay(upstream, 0, follows=self.tracking.follows())
        up.sink_watched = True
        if number:
            down.source_failed(number)
            return
        up.run()
        if down.open and events & READ_EVENTS:
            down.on_events(events)

    def _dial_failed(self, number: int) -> None:
        self.end(ConnectionEvent.DIAL_FAILED, self.context.failures.classify(number, self.original.destination))

    # RELAYING ------------------------------------------------------------------------------------------------------

    def _relay(self, upstream: SocketType, sent: int, *, follows: bool) -> tuple[Direction, Direction]:
        """Hand the descriptors over to two directions. ``sent`` of the first bytes are already sent."""
        context = self.context
        client, first = self.client, self.first
        assert first is not None
        self.state = next_state(self.state, _CONNECTED)
        pair = self.pair = Pair(context.loop_context, self, client, upstream)
        up, down = pair.up, pair.down
        if context.pacer.holds:
            self.set_pace()
            if self.original.destination.bound is Bound.INBOUND:
                # Read before the class was known, so pacing could not delay these bytes; later reads make up for them.
                context.pacer.received_early(self.tracking.name, len(first.data))
        up.readable, up.fin, up.exhaust = first.readable, first.fin, first.exhaust
        up.count = sent
        if follows:
            up.followed = FollowedRequests(self, self.tracking.cutter(), bytes(first.data))
            up.held = NOTHING
            if self.tracking.detection.protocol is Protocol.HTTP1:
                self.answers = Http1Answers()
                down.followed = FollowedAnswers(self, self.answers)
        elif sent < len(first.data):
            up.held = memoryview(first.data)[sent:]
        detection = self.tracking.detection
        if detection.protocol is _TLS and detection.reason is _FOUND:
            self._watch_for_hello(up, bytes(first.data))
        self.first = None
        context.loop.set_handler(client.fileno(), up)
        context.loop.set_handler(upstream.fileno(), down)
        return up, down

    def _watch_for_hello(self, up: Direction, first_bytes: bytes) -> None:
        second = SecondHello()
        hello = second.feed(first_bytes)
        if hello is not None:
            self.hello_again(hello)
        elif not second.done:
            up.followed = WatchedHello(self, second)

    def hello_again(self, hello: ClientHello) -> None:
        """The client's last bytes completed a second ClientHello."""
        if self.tracking.hello_again(hello) is Change.OTHER:
            self.reroute()

    def begins(self, what: Request | Beyond) -> bool:
        """The client's next byte begins a request, or data that cannot be followed; False: do not send it."""
        change, answers = self.tracking.begins(what), self.answers
        if change is Change.REFUSED:
            self.end(ConnectionEvent.CUT, ConnectionOutcome.AMBIGUOUS)
            return False
        if change is Change.OTHER:
            self.reroute()
            self._received_early()
        elif change is Change.LAXER and answers is not None:
            self._due = (answers.asked, self.bytes_up)
            self.settle()
        if answers is not None and isinstance(what, Request) and not answers.expect(what):
            self.answers_over()
        return True

    def _received_early(self) -> None:
        """What has been read already counts as received in the new class."""
        up = self.pair.up if self.pair is not None else None
        if up is not None and up.pace is not None and isinstance(up.followed, FollowedRequests):
            up.pace.moved(up, up.followed.in_hand)

    def settle(self) -> None:
        """Take the class of the last request, if that had to wait, once earlier ones are answered and acknowledged.

        All bytes sent before it must be acknowledged where the client's bytes are shaped, and all of the answers before
        its own where the server's are.
        """
        if self.tracking.wanted is None or self.pair is None or self.answers is None:
            return
        answers_due, sent = self._due
        if self.answers.whole < answers_due:
            return
        bound = self.original.destination.bound
        sending = self.pair.sending(bound)
        if sending.count - unacknowledged(sending.sink) >= (sent if bound is Bound.OUTBOUND else self.answers.end):
            self.tracking.settled()
            self.reroute()

    def answers_over(self) -> None:
        """The server has switched protocols, or the end of its answers is in doubt."""
        pair, answers, tracking = self.pair, self.answers, self.tracking
        if pair is None or answers is None:
            return
        pair.down.followed = None
        tracking.stays()
        # A request behind the one that has switched was none.
        if answers.over is Over.LOST or answers.asked > answers.whole + 1:
            tracking.wanted = None
        if answers.over is Over.SWITCHED and pair.up.open and isinstance(pair.up.followed, FollowedRequests):
            pair.up.followed.switched(pair.up)

    def reroute(self) -> bool:
        """Choose the class again by the routing in force, for further bytes; return whether it changed.

        Raises OSError if the mark cannot be set; then nothing has changed.
        """
        tracking = self.tracking
        if tracking.name is None or self.state is _CLOSED:
            return False
        name = tracking.now()
        if self.upstream is not None:
            # Also if the name is the same: its mark may differ.
            self.kernel_sockets.change_mark(self.upstream, self.context.routing.mark_of(name), self.client)
        return tracking.move(name, (self.bytes_up, self.bytes_down))

    def set_pace(self) -> None:
        """Apply the limits on received bytes, if there are any."""
        if self.pair is not None:
            pacer = self.context.pacer
            receiving = self.pair.receiving(self.original.destination.bound)
            receiving.pace = ClassPace(pacer, self.tracking) if pacer.holds else None

    def ended(self, direction: Direction, turn: Turn) -> None:
        """A direction ended, or a socket failed (see :class:`~sidecar.transport.direction.Turn`)."""
        if self.state is _CLOSED:
            return  # the last bytes of a client that reset contained a refused request
        is_up = self.pair is not None and direction is self.pair.up
        if turn is _FINISHED:
            direction.shut()
            try:
                direction.sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                # The sink was reset in the meantime.
                turn = direction.sink_failure(error)
        if turn is _FINISHED:
            self.state = next_state(self.state, _UP_FINISHED if is_up else _DOWN_FINISHED)
        elif turn is Turn.BROKEN:
            direction.shut()
            self.outcome = ConnectionOutcome.SERVER_RESET if is_up else ConnectionOutcome.CLIENT_RESET
            self.state = next_state(self.state, ConnectionEvent.UP_BROKEN if is_up else ConnectionEvent.DOWN_BROKEN)
        else:
            if turn is Turn.SINK_RESET:
                direction.opposite.drain()
            by_client = is_up == (turn is Turn.SOURCE_RESET)
            self.end(
                ConnectionEvent.RESET, ConnectionOutcome.CLIENT_RESET if by_client else ConnectionOutcome.SERVER_RESET
            )
            return
        if self.state is _CLOSED:
            self._close(reset=self.outcome is not _COMPLETE)
        elif self.state is _LINGERING:
            self._linger()

    def _linger(self) -> None:
        """Reset the remaining side, at once or when it has acknowledged our FIN, which raises an event."""
        left = self._left()
        if left is not None:
            self.context.loop.set_events(left.fileno(), EDGES)
        self._reset_when_delivered(0)

    def _left(self) -> SocketType | None:
        """LINGERING: the side that has received everything and a FIN."""
        return self.upstream if self.pair is not None and self.pair.up.eof else self.client

    def news_after_end(self, direction: Direction, events: int) -> None:  # noqa: ARG002 (only one can have news)
        """Handle an event of the source of a broken direction. It may be the ACK of our FIN."""
        if self.state is _LINGERING:
            self._reset_when_delivered(events)

    def _reset_when_delivered(self, events: int) -> None:
        """LINGERING: reset the remaining side once it has acknowledged everything."""
        left = self._left()
        if left is None or events & (FAILURE | select.EPOLLHUP) or unacknowledged(left) == 0:
            self.state = next_state(self.state, ConnectionEvent.DELIVERED)
            self._close(reset=True)

    @property
    def waits_its_turn(self) -> bool:
        """Whether there are bytes to move and the connection waits for its turn, in its class or in the loop."""
        return self.pair is not None and self.pair.queued

    def idle_sweep(self, sweeps: int) -> None:
        """Check, ``sweeps`` times per idle timeout, whether bytes have moved."""
        if self.pair is not None and self.pair.is_idle(sweeps):
            self.end(ConnectionEvent.EXPIRED, ConnectionOutcome.IDLE)

    # CLOSED --------------------------------------------------------------------------------------------------------

    def end(self, event: ConnectionEvent, outcome: ConnectionOutcome) -> None:
        """End the connection now with a reset to both sides."""
        if self.state is _DIALLING:
            self.context.connecting.discard(self)
            self.context.waiting.discard(self)
        elif self.state is _DETECTING and self.first is not None:
            self.first.stop()
        self.state = next_state(self.state, event)
        self.outcome = outcome
        self._close(reset=True)

    def crashed(self, error: Exception) -> None:
        """Handle a bug of this program in this connection: end it, and keep the others."""
        log.error("connection given up", destination=str(self.original.destination), exc_info=error)
        try:
            if self.state is not _CLOSED:
                self.end(ConnectionEvent.FAULT, ConnectionOutcome.FAULT)
        except Exception as second:  # the loop relies on this method not raising
            log.error("and could not be cleaned up", exc_info=second)

    def _close(self, *, reset: bool) -> None:
        context = self.context
        context.live.discard(self)
        self.first = None
        pair, self.pair = self.pair, None
        if pair is None:
            bytes_up = bytes_down = 0
            waited = 0.0
        else:
            bytes_up, bytes_down = pair.up.count, pair.down.count
            waited = pair.sending(self.original.destination.bound).waited()
            pair.release()
        close_deferred = context.loop.close_deferred
        if reset:
            reset_on_close(self.client)
        close_deferred(self.client)
        if self.upstream is not None:
            if reset:
                reset_on_close(self.upstream)
            close_deferred(self.upstream)
        context.on_closed()
        tracking, outcome = self.tracking, self.outcome
        class_name = tracking.name
        if outcome is not _COMPLETE and (class_name is None or outcome in _TURNED_AWAY):
            context.observer.refused(outcome)
        if class_name is not None:
            context.report_closed(
                ConnectionSummary(
                    self.client_address,
                    self.original.destination,
                    class_name,
                    tracking.detection,
                    bytes_up,
                    bytes_down,
                    context.now() - self.opened_at,
                    outcome,
                    *tracking.counted,
                    waited,
                )
            )

    def view(self) -> ConnectionView:
        """The current state."""
        return ConnectionView(
            client=self.client_address,
            destination=self.original.destination,
            state=self.state,
            class_name=self.tracking.name,
            detection=self.tracking.detection,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            seconds=self.context.now() - self.opened_at,
        )
