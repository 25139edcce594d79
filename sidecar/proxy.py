"""One connection: detect, route, dial, relay.

A :class:`Connection` follows the table of :mod:`sidecar.transport.states`. What happens in each state:

* DETECTING: the client's first bytes are read into a small buffer and fed to the detector, until it has decided, has
  seen enough, or the detection timeout ends. They are read, not peeked at: how much can be peeked depends on the
  receive buffer (``net.ipv4.tcp_rmem``, a namespace's own), and a 64 KiB ClientHello in a Pod with a small one would
  never be seen whole. What was read is the first thing that the server gets.
* DIALLING: the class is chosen and the mark set, connect(2) is under way. Further bytes wait in the kernel.
* RELAYING and after: two :class:`~sidecar.transport.relay.Direction` objects own the descriptors.

How connections end, seen by the client: as the server ended it (FIN for FIN, RST for RST); RST when the server cannot
be reached, when nothing moved for the idle timeout, and when a drain's grace is over: a FIN would make something cut
short look complete.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from socket import SocketType
from typing import Final

import structlog

from sidecar.protocols.detect import Detection, Detector, Protocol, Reason
from sidecar.routing.flow import Address, Content, Destination, parse_address
from sidecar.routing.table import RoutingTable
from sidecar.transport.edge import Edge, Original
from sidecar.transport.loop import EXHAUST_EVENTS, FAILURE, READ_EVENTS, EventLoop
from sidecar.transport.observer import ConnectionSummary, Observer, Outcome, Refusal
from sidecar.transport.relay import BUFFER_SIZE, Direction, Turn, Workshop
from sidecar.transport.sockets import SocketAddress, pending_error, reset_on_close, unacknowledged
from sidecar.transport.states import Event, State, next_state
from sidecar.transport.timers import Timers
from tc_core.marks import OWN, ClassIds, class_mark
from tc_core.policy import DEFAULT_CLASS

log = structlog.get_logger(__name__)

FIRST_BYTES_LIMIT: Final = 1 << 17
"""Bytes kept while detecting, at the very most. The detector's own limit is lower; this one does not trust it."""
IDLE_SWEEPS: Final = 8
"""An idle timeout is noticed in steps of an eighth of it: no clock is read and nothing stamped when bytes move."""
WARN_EVERY_S: Final = 10.0
"""Seconds between two warnings about the same kind of local failure."""
UNDETECTED: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
"""For connections whose first bytes were not looked at, because they could not decide anything."""
_ROUTING_CACHE: Final = 4096
_DIALLED: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
_DIAL_OUTCOMES: Final = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ETIMEDOUT: Outcome.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
    errno.ENETUNREACH: Outcome.UNREACHABLE,
    errno.EHOSTDOWN: Outcome.UNREACHABLE,
    errno.ENETDOWN: Outcome.UNREACHABLE,
    errno.ENOPROTOOPT: Outcome.UNREACHABLE,
    errno.EACCES: Outcome.UNREACHABLE,
}
_NEVER_RELAYED: Final = frozenset({*_DIAL_OUTCOMES.values(), Outcome.LOCAL_ERROR})
_REMEDIES: Final = {
    errno.EADDRNOTAVAIL: "No ephemeral port is left for this destination. Widen net.ipv4.ip_local_port_range.",
    errno.EMFILE: "No descriptor is left. Raise the limit of open files (ulimit -n), or lower the connection limit.",
    errno.ENFILE: "The system has no descriptor left. Raise fs.file-max.",
    errno.ENOBUFS: "The kernel has no buffer memory left. Raise net.ipv4.tcp_mem, or lower the connection limit.",
    errno.EPERM: "A firewall rule of this namespace rejects it, or CAP_NET_ADMIN is missing.",
}


class Routing:
    """The routing table and the class ids that are in force, with what is looked up per connection made quick."""

    __slots__ = ("_marks", "_reads_source", "_undecided", "ids", "table")

    def __init__(self, table: RoutingTable, ids: ClassIds) -> None:
        self.table = table
        self.ids = ids
        self._marks = {name: (OWN | class_mark(class_id)).value for name, class_id in ids.items()}
        self._reads_source = table.reads_source
        self._undecided: dict[tuple[Destination, Address | None], bool] = {}

    def undecided(self, destination: Destination, client: SocketAddress) -> bool:
        """Whether the first bytes could still decide."""
        source = self._source(client)
        known = self._undecided.get((destination, source))
        if known is None:
            if len(self._undecided) >= _ROUTING_CACHE:
                self._undecided.clear()
            known = self.table.undecided(destination, source=source)
            self._undecided[destination, source] = known
        return known

    def class_of(self, destination: Destination, client: SocketAddress, detection: Detection) -> str:
        """The name of the class."""
        content = Content(detection.sni, detection.host, detection.alpn)
        return self.table.route(destination, content, source=self._source(client)).class_name

    def _source(self, client: SocketAddress) -> Address | None:
        """The client's address, if any match asks for it: TPROXY leaves it as the application's socket had it."""
        return parse_address(client[0]) if self._reads_source else None

    def mark_of(self, class_name: str) -> int:
        """The whole socket mark of our own packets of a class."""
        return self._marks.get(class_name, self._marks[DEFAULT_CLASS])


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


class Proxy:
    """What all connections share, and the set of those alive."""

    def __init__(
        self,
        *,
        loop: EventLoop,
        timers: Timers,
        edge: Edge,
        routing: Routing,
        observer: Observer,
        detection_timeout: float,
        connect_timeout: float,
        idle_timeout: float,
        on_closed: Callable[[], None],
    ) -> None:
        """Timeouts in seconds. ``on_closed`` is called after each connection that ended."""
        self.loop = loop
        self.timers = timers
        self.edge = edge
        self.routing = routing
        self.observer = observer
        self.on_closed = on_closed
        self.shop = Workshop(loop)
        self.live: set[Connection] = set()
        self.detecting = timers.queue(detection_timeout, Connection.detection_timed_out)
        self.connecting = timers.queue(connect_timeout, Connection.connect_timed_out)
        self.idling = timers.queue(idle_timeout / IDLE_SWEEPS, Connection.idle_sweep)
        self._warned: dict[int, float] = {}

    def adopt(self, client: SocketType, address: SocketAddress) -> None:
        """Take over an accepted connection."""
        original = self.edge.original(client)
        if original is None:
            reset_on_close(client)
            client.close()
            self.observer.refused(Refusal.NOT_DIVERTED)
            log.debug("refused a connection to the listener itself", client=address)
            return
        connection = Connection(self, client, address, original)
        self.live.add(connection)
        try:
            connection.begin()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
            connection.crashed(error)

    def warn(self, number: int, destination: Destination) -> None:
        """Say that this machine could not dial; not more often than is useful."""
        now = self.timers.now()
        if now - self._warned.get(number, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned[number] = now
            text = errno.errorcode.get(number, str(number))
            log.warning("cannot dial", destination=str(destination), error=text, remedy=_REMEDIES.get(number, ""))


class Connection:
    """A client, its server, and where they are in the table of states."""

    __slots__ = (
        "class_name",
        "client",
        "client_address",
        "detection",
        "detector",
        "down",
        "exhaust",
        "fed",
        "first_bytes",
        "opened_at",
        "original",
        "outcome",
        "proxy",
        "quiet_sweeps",
        "readable",
        "state",
        "swept_bytes",
        "up",
        "upstream",
    )

    def __init__(self, proxy: Proxy, client: SocketType, address: SocketAddress, original: Original) -> None:
        self.proxy = proxy
        self.client = client
        self.client_address = address
        self.original = original
        self.opened_at = proxy.timers.now()
        self.state = State.DETECTING
        self.readable = False  # as in Direction, for the time before there is one
        self.exhaust = False
        self.detector: Detector | None = None
        self.first_bytes = bytearray()
        self.fed = 0
        self.detection = UNDETECTED
        self.class_name: str | None = None
        self.upstream: SocketType | None = None
        self.up: Direction | None = None
        self.down: Direction | None = None
        self.swept_bytes = 0
        self.quiet_sweeps = 0
        self.outcome = Outcome.COMPLETE

    # DETECTING -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Wait for the first bytes, or, where they cannot change anything, dial at once."""
        proxy = self.proxy
        destination = self.original.destination
        proxy.loop.watch(self.client.fileno(), self)
        if proxy.routing.undecided(destination, self.client_address):
            self.detector = Detector()
            proxy.detecting.add(self)
        else:
            self._dial()

    def on_events(self, events: int) -> None:
        """Events of the client, before there are directions."""
        if events & READ_EVENTS:
            self.readable = True
            if events & EXHAUST_EVENTS:
                self.exhaust = True
            if self.detector is not None:
                self._read_first_bytes(self.detector)
            elif events & FAILURE:
                self.end(Event.RESET, Outcome.CLIENT_RESET)

    def on_turn(self) -> None:
        """Not used: detection works through what is there at once, it is bounded."""

    def detection_timed_out(self) -> None:
        """The client said too little in time: a server-first protocol, or a slow client."""
        if self.detector is not None:
            self._decided(self.detector.finish(Reason.TIMEOUT))

    def _read_first_bytes(self, detector: Detector) -> None:
        shop = self.proxy.shop
        while self.readable:
            try:
                size = self.client.recv_into(shop.buffer)
            except BlockingIOError:
                self.readable = False
                return
            except OSError:
                self.end(Event.RESET, Outcome.CLIENT_RESET)
                return
            if size == 0:
                # The FIN is relayed later: a socket that has had one goes on reading 0.
                self._decided(detector.finish(Reason.EOF))
                return
            if size < BUFFER_SIZE and not self.exhaust:
                self.readable = False
            self.first_bytes += shop.view[:size]
            detection = self._feed(detector)
            if detection is not None:
                self._decided(detection)
                return

    def _feed(self, detector: Detector) -> Detection | None:
        """Show the detector what is new, once it is enough for it to get on."""
        have = len(self.first_bytes)
        if have < detector.needed and have < FIRST_BYTES_LIMIT:
            return None
        fresh = bytes(self.first_bytes[self.fed :])
        self.fed = have
        detection = detector.feed(fresh)
        if detection is None and have >= FIRST_BYTES_LIMIT:
            return detector.finish(Reason.LIMIT)
        return detection

    def _decided(self, detection: Detection) -> None:
        proxy = self.proxy
        proxy.detecting.discard(self)
        self.detector = None
        self.detection = detection
        proxy.observer.detected(detection, proxy.timers.now() - self.opened_at)
        self._dial()

    # DIALLING ------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        proxy = self.proxy
        self.state = next_state(self.state, Event.DECIDED)
        self.class_name = proxy.routing.class_of(self.original.destination, self.client_address, self.detection)
        proxy.observer.routed(self.class_name, self.detection.protocol)
        try:
            self.upstream = proxy.edge.dial(self.original, proxy.routing.mark_of(self.class_name), self.client)
        except OSError as error:
            self._dial_failed(error.errno or 0)
            return
        proxy.loop.watch(self.upstream.fileno(), Dial(self))
        proxy.connecting.add(self)

    def connect_timed_out(self) -> None:
        """The server did not answer in time."""
        self.end(Event.DIAL_FAILED, Outcome.CONNECT_TIMEOUT)

    def dialled(self, upstream: SocketType, events: int) -> None:
        """connect(2) has ended, well or not."""
        # RST in answer to the SYN is ECONNREFUSED; these two mean that there was a connection.
        number = pending_error(upstream) if events & FAILURE else 0
        if number in (0, errno.ECONNRESET, errno.EPIPE):
            self._relay(upstream, events, number)
        else:
            self._dial_failed(number)

    def _dial_failed(self, number: int) -> None:
        outcome = _DIAL_OUTCOMES.get(number, Outcome.LOCAL_ERROR)
        if outcome is Outcome.LOCAL_ERROR:
            self.proxy.warn(number, self.original.destination)
        self.end(Event.DIAL_FAILED, outcome)

    # RELAYING ------------------------------------------------------------------------------------------------------

    def _relay(self, upstream: SocketType, events: int, number: int) -> None:
        proxy = self.proxy
        proxy.connecting.discard(self)
        self.state = next_state(self.state, Event.CONNECTED)
        proxy.idling.add(self)
        up = self.up = Direction(proxy.shop, self, self.client, upstream)
        down = self.down = Direction(proxy.shop, self, upstream, self.client)
        up.opposite, down.opposite = down, up
        up.readable, up.exhaust = self.readable, self.exhaust
        if self.first_bytes:
            up.held = memoryview(self.first_bytes)
            self.first_bytes = bytearray()
        proxy.loop.rehandle(self.client.fileno(), up)
        proxy.loop.rehandle(upstream.fileno(), down)
        if number:
            down.source_failed(number)
            return
        up.run()
        if down.open and events & READ_EVENTS:
            down.on_events(events)

    def ended(self, direction: Direction, turn: Turn) -> None:
        """A direction came to its end, or a socket failed (see :class:`~sidecar.transport.relay.Turn`)."""
        is_up = direction is self.up
        if turn is Turn.FINISHED:
            direction.shut()
            try:
                direction.sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                # The sink was reset at this very moment.
                turn = direction.sink_failure(error)
        if turn is Turn.FINISHED:
            self.state = next_state(self.state, Event.UP_FINISHED if is_up else Event.DOWN_FINISHED)
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
        if self.state is State.CLOSED:
            self._close(reset=self.outcome is not Outcome.COMPLETE)
        elif self.state is State.LINGERING:
            self._reset_when_delivered(0)

    def news_after_end(self, direction: Direction, events: int) -> None:  # noqa: ARG002 (only one can have news)
        """Something came from the source of a direction that moves nothing any more. It may be the ACK of our FIN."""
        if self.state is State.LINGERING:
            self._reset_when_delivered(events)

    def _reset_when_delivered(self, events: int) -> None:
        """LINGERING: reset the side that is left once it has everything (the ACK of a FIN is an event)."""
        up, down = self.up, self.down
        if up is None or down is None:
            return
        last = self.upstream if up.eof else self.client
        if last is None or events & (FAILURE | select.EPOLLHUP) or unacknowledged(last) == 0:
            self.state = next_state(self.state, Event.DELIVERED)
            self._close(reset=True)

    def idle_sweep(self) -> None:
        """Look, ``IDLE_SWEEPS`` times per idle timeout, whether bytes have moved."""
        moved = self.bytes_up + self.bytes_down
        if moved != self.swept_bytes:
            self.swept_bytes = moved
            self.quiet_sweeps = 0
        else:
            self.quiet_sweeps += 1
        if self.quiet_sweeps < IDLE_SWEEPS:
            self.proxy.idling.add(self)
        else:
            self.end(Event.EXPIRED, Outcome.IDLE)

    # CLOSED --------------------------------------------------------------------------------------------------------

    def end(self, event: Event, outcome: Outcome) -> None:
        """End it now, with a reset to both sides."""
        self.state = next_state(self.state, event)
        self.outcome = outcome
        self._close(reset=True)

    def crashed(self, error: Exception) -> None:
        """A mistake of this program in this connection: give it up, go on with the others."""
        log.error("connection given up", destination=str(self.original.destination), exc_info=error)
        try:
            if self.state is not State.CLOSED:
                self.end(Event.FAULT, Outcome.FAULT)
        except Exception as second:  # the loop relies on this method not raising
            log.error("and could not be cleaned up", exc_info=second)

    def _close(self, *, reset: bool) -> None:
        proxy = self.proxy
        proxy.live.discard(self)
        proxy.detecting.discard(self)
        proxy.connecting.discard(self)
        proxy.idling.discard(self)
        bytes_up, bytes_down = self.bytes_up, self.bytes_down
        for direction in (self.up, self.down):
            if direction is not None:
                direction.release()
        self.up = self.down = self.detector = None
        for sock in (self.client, self.upstream):
            if sock is not None:
                if reset:
                    reset_on_close(sock)
                proxy.loop.bury(sock)
        proxy.on_closed()
        if self.class_name is None or self.outcome in _NEVER_RELAYED:
            proxy.observer.refused(self.outcome)
        if self.class_name is not None:
            summary = ConnectionSummary(
                client=self.client_address,
                destination=self.original.destination,
                class_name=self.class_name,
                detection=self.detection,
                bytes_up=bytes_up,
                bytes_down=bytes_down,
                seconds=proxy.timers.now() - self.opened_at,
                outcome=self.outcome,
            )
            proxy.observer.closed(summary)
            if log.is_enabled_for(logging.DEBUG):
                _log_summary(summary)

    @property
    def bytes_up(self) -> int:
        """Bytes of the client that the server's socket took."""
        return self.up.count if self.up is not None else 0

    @property
    def bytes_down(self) -> int:
        """Bytes of the server that the client's socket took."""
        return self.down.count if self.down is not None else 0

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
            seconds=self.proxy.timers.now() - self.opened_at,
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
