"""What all connections of a loop share: the loop, deadlines, the routing in force, limits, and who is told of them.

What one connection does is in :mod:`sidecar.proxy.connection`; who makes connections is the server
(:mod:`sidecar.proxy.server`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from daemon.log import Logger
from datapath.routing.cached import Routing
from sidecar.proxy.dial_errors import DialFailures
from sidecar.proxy.sniffer import PendingDetections
from sidecar.transport.accept import RETRY_S
from sidecar.transport.loop_context import LoopContext
from sidecar.transport.observer import ConnectionSummary, Observer
from sidecar.transport.pacing import Pacer
from sidecar.transport.timers import Timers

log = Logger()


class HasDeadlines(Protocol):
    """A connection, as deadlines see it."""

    def connect_timed_out(self) -> None:
        """The server did not answer in time."""

    def dial_again(self) -> None:
        """There may be something to make a socket of again."""

    def crashed(self, error: Exception) -> None:
        """One of these raised: clean up. Must not raise."""


C = TypeVar("C", bound=HasDeadlines)


class ConnectionContext(Generic[C]):
    """What a connection works with, and the set of those alive."""

    def __init__(
        self,
        *,
        loop_context: LoopContext,
        timers: Timers,
        routing: Routing,
        observer: Observer,
        pacer: Pacer,
        detection_timeout: float,
        connect_timeout: float,
        on_closed: Callable[[], None],
        on_exhausted: Callable[[], None],
    ) -> None:
        """Timeouts in seconds. ``on_closed`` is called after each connection that ended.

        ``on_exhausted`` is called when a connection cannot be dialled yet, because descriptors or memory are used up.
        """
        self.loop = loop_context.loop
        self.loop_context = loop_context
        self.now = timers.now
        self.routing = routing
        self.observer = observer
        self.pacer = pacer
        pacer.follow(routing.limits)
        self.first_bytes = PendingDetections(loop_context, timers, detection_timeout)
        self.live: set[C] = set()
        self.connect_timeout = connect_timeout
        self.connecting = timers.queue(connect_timeout, _connect_timed_out)
        self.waiting = timers.queue(RETRY_S, _dial_again)
        self.failures = DialFailures(timers.now)
        self.on_closed = on_closed
        self.on_exhausted = on_exhausted
        self._logs_connections = log.is_enabled_for("debug")

    def follow(self, routing: Routing) -> None:
        """Put a routing and its limits in force for what is decided from now on."""
        self.routing = routing
        self.pacer.follow(routing.limits)

    def report_closed(self, summary: ConnectionSummary) -> None:
        """Tell the observer and the log of a connection that had a class and has ended."""
        self.observer.closed(summary)
        if self._logs_connections:
            _log_summary(summary)


def _connect_timed_out(connection: HasDeadlines) -> None:
    connection.connect_timed_out()


def _dial_again(connection: HasDeadlines) -> None:
    connection.dial_again()


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
