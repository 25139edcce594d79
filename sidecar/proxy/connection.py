"""One connection: detect, route, dial, relay.

A :class:`Connection` follows the table of :mod:`sidecar.transport.states`. What happens in each state:

* DETECTING: the client's first bytes are read and shown to the detector (:mod:`sidecar.proxy.sniffer`), until it has
  decided, has seen enough, or the detection timeout ends. What was read is the first thing that the server gets.
* DIALLING: the class is chosen and the mark set, connect(2) is under way. Further bytes wait in the kernel. A server on
  the same node has answered before connect(2) returns, so the first bytes are tried at once; where the network is
  longer that costs one call that says EAGAIN, and the connection waits for its event.
* RELAYING and after: two :class:`~sidecar.transport.direction.Direction` objects own the descriptors.

How connections end, seen by the client: as the server ended it (FIN for FIN, RST for RST); RST when the server cannot
be reached, when nothing moved for the idle timeout, and when a drain's grace is over: a FIN would make something cut
short look complete.
"""

from __future__ import annotations

import errno
import select
import socket
from dataclasses import dataclass
from socket import SocketType
from typing import TYPE_CHECKING, Final

from daemon.log import Logger
from datapath.protocols.detect import Detection, Reason
from datapath.protocols.detect_helpers import awaits_answer
from datapath.routing.flow import Destination
from datapath.sockets import SocketAddress, acknowledge, pending_error, reset_on_close, unacknowledged
from sidecar.proxy.class_tracking import UNDETECTED, Classed
from sidecar.proxy.dial_errors import NEVER_RELAYED
from sidecar.proxy.sniffer import FirstBytes
from sidecar.transport.accept import EXHAUSTED
from sidecar.transport.direction import Direction, Turn
from sidecar.transport.kernel_sockets import Edge, Original
from sidecar.transport.loop import EDGES, FAILURE, READ_EVENTS
from sidecar.transport.observer import ConnectionSummary, Outcome
from sidecar.transport.request_direction import FollowingDirection
from sidecar.transport.states import Event, State, next_state
from traffic_policy.policy import Bound

if TYPE_CHECKING:
    from sidecar.proxy.context import Proxy

log = Logger()

_CONNECTED_ONCE: Final = frozenset({0, errno.ECONNRESET, errno.EPIPE})
"""Errors of a socket that dialled and was connected. RST in answer to the SYN is ECONNREFUSED."""
_DIALLED: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
# As plain globals: looking a member up in an enum class costs more than comparing it.
_DETECTING, _DIALLING, _LINGERING, _CLOSED = State.DETECTING, State.DIALLING, State.LINGERING, State.CLOSED
_DECIDED, _CONNECTED = Event.DECIDED, Event.CONNECTED
_UP_FINISHED, _DOWN_FINISHED = Event.UP_FINISHED, Event.DOWN_FINISHED
_FINISHED, _COMPLETE = Turn.FINISHED, Outcome.COMPLETE
_TURNED_AWAY: Final = NEVER_RELAYED | {Outcome.AMBIGUOUS}
_NOTHING: Final = FirstBytes()
"""In place of first bytes that have been handed on."""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A live connection, for ``/classes`` and diagnosis."""

    client: SocketAddress
    destination: Destination
    state: State
    class_name: str | None
    detection: Detection
    bytes_up: int
    bytes_down: int
    seconds: float


class Connection(Classed):
    """A client, its server, and where they are in the table of states."""

    __slots__ = ("first", "opened_at", "outcome", "quiet_sweeps", "swept_bytes")

    def __init__(
        self, proxy: Proxy, edge: Edge, client: SocketType, address: SocketAddress, original: Original
    ) -> None:
        super().__init__(proxy, edge, client, address, original)
        self.opened_at = proxy.now()
        self.first = FirstBytes()
        self.swept_bytes = 0
        self.quiet_sweeps = 0
        self.outcome = _COMPLETE

    # DETECTING -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the first bytes or, where they cannot change anything, dial at once."""
        proxy = self.proxy
        detects = proxy.routing.undecided(self.original.destination, self.client_address)
        detection = self._read_first_bytes() if detects else UNDETECTED
        if self.state is _CLOSED:
            return
        # After the read, so that what was read raises no event; the kernel reports what has come since.
        proxy.loop.watch(self.client.fileno(), self)
        if not detects:
            acknowledge(self.client)
            self._dial()
        elif detection is not None:
            self.first.decided(proxy.shop)
            self._detected(detection)
        else:
            proxy.detecting.add(self)
            self._wait_for_more()

    def on_events(self, events: int) -> None:
        """Events of the client, before there are directions."""
        self.first.note(events)
        if self.state is not _DETECTING:
            if events & FAILURE:
                self.end(Event.RESET, Outcome.CLIENT_RESET)
        elif events & READ_EVENTS:
            detection = self._read_first_bytes()
            if detection is not None:
                self._wait_no_more()
                self._detected(detection)
            elif self.state is _DETECTING:
                self._wait_for_more()

    def _wait_for_more(self) -> None:
        """The client's next bytes are waited for; not as long if it may wait for us."""
        if self.first.data:
            acknowledge(self.client)
        if self.first.awaits_server:
            self.proxy.greeted.add(self)

    def _wait_no_more(self) -> None:
        self.proxy.detecting.discard(self)
        self.proxy.greeted.discard(self)
        self.first.decided(self.proxy.shop)

    def on_turn(self) -> None:
        """Not used: detection works through what is there at once, it is bounded."""

    def detection_timed_out(self) -> None:
        """The client said too little in time: a server-first protocol, or a slow client."""
        self._wait_no_more()
        self._detected(self.first.finish(Reason.TIMEOUT))

    def _read_first_bytes(self) -> Detection | None:
        """None: more must come, or the client has reset the connection."""
        try:
            return self.first.read(self.client, self.proxy.shop)
        except OSError:
            self.end(Event.RESET, Outcome.CLIENT_RESET)
            return None

    def _detected(self, detection: Detection) -> None:
        if not awaits_answer(self.first.data):
            acknowledge(self.client)
        self.detection = detection
        self.proxy.observer.detected(detection, self.proxy.now() - self.opened_at)
        self._dial()

    # DIALLING ------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        proxy = self.proxy
        routing = proxy.routing
        self.state = next_state(self.state, _DECIDED)
        class_name = self.class_name = routing.class_of(self.original.destination, self.client_address, self.detection)
        proxy.observer.routed(class_name, self.detection.protocol)
        self._connect()

    def dial_again(self) -> None:
        """Once more, after there was nothing left to make a socket of."""
        self._connect()

    def _connect(self) -> None:
        proxy = self.proxy
        assert self.class_name is not None
        first_bytes = self.first.data
        mark = proxy.routing.mark_of(self.class_name)
        try:
            upstream = self.edge.dial(self.original, mark, self.client, speaks=bool(first_bytes))
        except OSError as error:
            if error.errno in EXHAUSTED and proxy.now() - self.opened_at < proxy.connect_timeout:
                proxy.on_exhausted()
                proxy.waiting.add(self)
            else:
                self._dial_failed(error.errno or 0)
            return
        self.upstream = upstream
        if first_bytes and not self.follows():
            try:
                sent = upstream.send(first_bytes)
            except BlockingIOError:
                pass
            except OSError as error:
                proxy.loop.watch(upstream.fileno(), Dial(self))
                self._dial_ended(upstream, 0, error.errno or 0)
                return
            else:
                up, down = self._relay(upstream, sent, follows=False)
                proxy.loop.watch(upstream.fileno(), down)
                if up.readable or up.held is not None:
                    up.run()
                return
        proxy.loop.watch(upstream.fileno(), Dial(self), EDGES)
        proxy.connecting.add(self)

    def connect_timed_out(self) -> None:
        """The server did not answer in time."""
        self.end(Event.DIAL_FAILED, Outcome.CONNECT_TIMEOUT)

    def dialled(self, upstream: SocketType, events: int) -> None:
        """connect(2) has ended, well or not."""
        self.proxy.connecting.discard(self)
        self._dial_ended(upstream, events, pending_error(upstream) if events & FAILURE else 0)

    def _dial_ended(self, upstream: SocketType, events: int, number: int) -> None:
        if number not in _CONNECTED_ONCE:
            self._dial_failed(number)
            return
        up, down = self._relay(upstream, 0, follows=self.follows())
        up.sink_watched = True
        if number:
            down.source_failed(number)
            return
        up.run()
        if down.open and events & READ_EVENTS:
            down.on_events(events)

    def _dial_failed(self, number: int) -> None:
        self.end(Event.DIAL_FAILED, self.proxy.failures.judge(number, self.original.destination))

    # RELAYING ------------------------------------------------------------------------------------------------------

    def _relay(self, upstream: SocketType, sent: int, *, follows: bool) -> tuple[Direction, Direction]:
        """Hand the descriptors over to two directions. ``sent`` of the first bytes are under way already."""
        proxy = self.proxy
        loop = proxy.loop
        client = self.client
        self.state = next_state(self.state, _CONNECTED)
        direction = proxy.shop.direction
        first = self.first
        if follows:
            up: Direction = FollowingDirection(proxy.shop, self, client, upstream, self.cutter())
        else:
            up = direction(proxy.shop, self, client, upstream)
        self.up = up
        down = self.down = direction(proxy.shop, self, upstream, client)
        up.opposite, down.opposite = down, up
        if proxy.shop.pacer.holds:
            self.be_held()
            if self.original.destination.bound is Bound.INBOUND:
                # Read before its class was known, so they could not wait; what comes next does, for these as well.
                proxy.shop.pacer.received_early(self.class_name, len(first.data))
        up.readable, up.fin, up.exhaust = first.readable, first.fin, first.exhaust
        up.count = sent
        if isinstance(up, FollowingDirection):
            up.take(bytes(first.data))
        elif sent < len(first.data):
            up.held = memoryview(first.data)[sent:]
        self.first = _NOTHING
        loop.rehandle(client.fileno(), up)
        loop.rehandle(upstream.fileno(), down)
        return up, down

    def ended(self, direction: Direction, turn: Turn) -> None:
        """A direction came to its end, or a socket failed (see :class:`~sidecar.transport.direction.Turn`)."""
        if self.state is _CLOSED:
            return  # the last bytes of a reset client had a request that is refused
        is_up = direction is self.up
        if turn is _FINISHED:
            direction.shut()
            try:
                direction.sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                # The sink was reset at this very moment.
                turn = direction.sink_failure(error)
        if turn is _FINISHED:
            self.state = next_state(self.state, _UP_FINISHED if is_up else _DOWN_FINISHED)
        elif turn is Turn.BROKEN:
            direction.shut()
            self.outcome = Outcome.SERVER_RESET if is_up else Outcome.CLIENT_RESET
            self.state = next_state(self.state, Event.UP_BROKEN if is_up else Event.DOWN_BROKEN)
        else:
            if turn is Turn.SINK_RESET:
                direction.opposite.drain()
            by_client = is_up == (turn is Turn.SOURCE_RESET)
            self.end(Event.RESET, Outcome.CLIENT_RESET if by_client else Outcome.SERVER_RESET)
            return
        if self.state is _CLOSED:
            self._close(reset=self.outcome is not _COMPLETE)
        elif self.state is _LINGERING:
            self._linger()

    def _linger(self) -> None:
        """Reset the side that is left, at once or when it has acknowledged our FIN, which is an event for writers."""
        left = self._left()
        if left is not None:
            self.proxy.loop.rewatch(left.fileno(), EDGES)
        self._reset_when_delivered(0)

    def _left(self) -> SocketType | None:
        """LINGERING: the side that got everything and then a FIN."""
        return self.upstream if self.up is not None and self.up.eof else self.client

    def news_after_end(self, direction: Direction, events: int) -> None:  # noqa: ARG002 (only one can have news)
        """Something came from the source of a direction that moves nothing any more. It may be the ACK of our FIN."""
        if self.state is _LINGERING:
            self._reset_when_delivered(events)

    def _reset_when_delivered(self, events: int) -> None:
        """LINGERING: reset the side that is left once it has everything."""
        left = self._left()
        if left is None or events & (FAILURE | select.EPOLLHUP) or unacknowledged(left) == 0:
            self.state = next_state(self.state, Event.DELIVERED)
            self._close(reset=True)

    @property
    def waits_its_turn(self) -> bool:
        """Whether there is something to move, and it is not its turn yet: with its class, or with all others."""
        return any(each is not None and each.queued for each in (self.up, self.down))

    def idle_sweep(self, sweeps: int) -> None:
        """Look, ``sweeps`` times per idle timeout, whether bytes have moved."""
        if self.up is None:
            return
        moved = self.bytes_up + self.bytes_down
        if moved != self.swept_bytes or self.waits_its_turn:
            self.swept_bytes = moved
            self.quiet_sweeps = 0
            return
        self.quiet_sweeps += 1
        if self.quiet_sweeps > sweeps:  # one more: the first of them did not see a whole interval
            self.end(Event.EXPIRED, Outcome.IDLE)

    # CLOSED --------------------------------------------------------------------------------------------------------

    def end(self, event: Event, outcome: Outcome) -> None:
        """End it now, with a reset to both sides."""
        if self.state is _DIALLING:
            self.proxy.connecting.discard(self)
            self.proxy.waiting.discard(self)
        elif self.state is _DETECTING:
            self._wait_no_more()
        self.state = next_state(self.state, event)
        self.outcome = outcome
        self._close(reset=True)

    def crashed(self, error: Exception) -> None:
        """A mistake of this program in this connection: give it up, go on with the others."""
        log.error("connection given up", destination=str(self.original.destination), exc_info=error)
        try:
            if self.state is not _CLOSED:
                self.end(Event.FAULT, Outcome.FAULT)
        except Exception as second:  # the loop relies on this method not raising
            log.error("and could not be cleaned up", exc_info=second)

    def _close(self, *, reset: bool) -> None:
        proxy = self.proxy
        proxy.live.discard(self)
        bytes_up = bytes_down = 0
        waited = 0.0
        up, down = self.up, self.down
        if up is not None and down is not None:
            bytes_up, bytes_down = up.count, down.count
            waited = (up if self.original.destination.bound is Bound.OUTBOUND else down).waited()
            up.release()
            down.release()
            self.up = self.down = None
        bury = proxy.loop.bury
        if reset:
            reset_on_close(self.client)
        bury(self.client)
        if self.upstream is not None:
            if reset:
                reset_on_close(self.upstream)
            bury(self.upstream)
        proxy.on_closed()
        class_name, outcome = self.class_name, self.outcome
        if outcome is not _COMPLETE and (class_name is None or outcome in _TURNED_AWAY):
            proxy.observer.refused(outcome)
        if class_name is not None:
            summary = ConnectionSummary(
                self.client_address,
                self.original.destination,
                class_name,
                self.detection,
                bytes_up,
                bytes_down,
                proxy.now() - self.opened_at,
                outcome,
                *self.told,
                waited,
            )
            proxy.observer.closed(summary)
            if proxy.logs_connections:
                _log_summary(summary)

    def view(self) -> ConnectionView:
        """As it is now."""
        return ConnectionView(
            client=self.client_address,
            destination=self.original.destination,
            state=self.state,
            class_name=self.class_name,
            detection=self.detection,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            seconds=self.proxy.now() - self.opened_at,
        )


class Dial:
    """The loop's handler of the upstream descriptor while it is being connected."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_events(self, events: int) -> None:
        """Writable: connected. Error: not."""
        upstream = self.connection.upstream
        if events & _DIALLED and upstream is not None:
            self.connection.dialled(upstream, events)

    def on_turn(self) -> None:
        """Not used."""

    def crashed(self, error: Exception) -> None:
        """Hand a fault to the connection."""
        self.connection.crashed(error)


def _log_summary(summary: ConnectionSummary) -> None:
    """The one line per connection."""
    detection = summary.detection
    log.debug(
        "connection",
        destination=str(summary.destination),
        class_name=summary.class_name,
        protocol=detection.protocol.value,
        name=detection.sni or detection.host,
        bytes_up=summary.bytes_up,
        bytes_down=summary.bytes_down,
        seconds=round(summary.seconds, 6),
        outcome=summary.outcome.value,
    )
