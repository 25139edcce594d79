"""State shared by all connections of a loop: the loop, deadlines, the routing in force, limits, and the observers.

A connection is in :mod:`sidecar.proxy.connection`; the server that makes connections is :mod:`sidecar.proxy.server`.
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
    """A connection, as the deadlines use it."""

    def connect_timed_out(self) -> None:
        """The server did not answer in time."""

    def dial_again(self) -> None:
        """Descriptors or memory may be available again."""

    def crashed(self, error: Exception) -> None:
        """A callback raised: clean up. Must not raise."""


C = TypeVar("C", bound=HasDeadlines)


class ConnectionContext(Generic[C]):
    """The environment of a connection, and the set of live connections."""

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
        """Timeouts are in seconds. ``on_closed`` is called after each connection that ended.

        ``on_exhausted`` is called when a connection cannot be dialled yet because descriptors or memory are exhausted.
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
        """Put a routing and its limits in force for further decisions."""
        self.routing = routing
        self.pacer.follow(routing.limits)

    def report_closed(self, summary: ConnectionSummary) -> None:
        """Report the end of a connection that had a class to the observer and the log."""
        self.observer.closed(summary)
        if self._logs_connections:
            _log_summary(summary)


def _connect_timed_out(connection: HasDeadlines) -> None:
    connection.connect_timed_out()


def _dial_again(connection: HasDeadlines) -> None:
    connection.dial_again()


def _log_summary(summary: ConnectionSummary) -> None:
    """Log the one line per connection."""
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
