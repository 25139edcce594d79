"""All connections together: adopting new ones, their common deadlines, and what they share.

What one connection does is in :mod:`sidecar.proxy.connection`.
"""

from __future__ import annotations

from collections.abc import Callable
from socket import SocketType
from typing import Final

from daemon.log import Logger
from datapath.routing.cached import Routing
from datapath.sockets import SocketAddress, reset_on_close
from sidecar.proxy.connection import Connection
from sidecar.proxy.dial_errors import DialFailures
from sidecar.transport.accept import RETRY_S
from sidecar.transport.direction import Workshop
from sidecar.transport.kernel_sockets import Edge
from sidecar.transport.loop import EventLoop
from sidecar.transport.observer import Observer, Refusal
from sidecar.transport.pacing import Pacer
from sidecar.transport.timers import Timers

log = Logger()

IDLE_SWEEPS: Final = 8
"""An idle timeout is noticed in steps of an eighth of it: no clock is read and nothing stamped when bytes move."""
_GREETED_S: Final = 0.02
"""A client that has greeted by HTTP/2 and asks for nothing may wait for the server; else its request is on its way."""


class Proxy:
    """What all connections share, and the set of those alive."""

    def __init__(
        self,
        *,
        loop: EventLoop,
        timers: Timers,
        routing: Routing,
        observer: Observer,
        detection_timeout: float,
        connect_timeout: float,
        idle_timeout: float,
        on_closed: Callable[[], None],
        pacer: Pacer,
        on_exhausted: Callable[[], None] = lambda: None,
        times_waits: bool = False,
    ) -> None:
        """Timeouts in seconds. ``on_closed`` is called after each connection that ended. ``pacer``: see Workshop.

        ``on_exhausted`` is called when a connection cannot be dialled yet, because descriptors or memory are used up.
        ``times_waits``: whether the observer wants to know how long bytes waited.
        """
        self.loop = loop
        self.now = timers.now
        self.routing = routing
        self.observer = observer
        self.on_closed = on_closed
        self.on_exhausted = on_exhausted
        self.shop = Workshop(loop, pacer, times_waits=times_waits)
        self.live: set[Connection] = set()
        self.detecting = timers.queue(detection_timeout, Connection.detection_timed_out)
        self.connect_timeout = connect_timeout
        self.greeted = timers.queue(min(_GREETED_S, detection_timeout), Connection.detection_timed_out)
        self.connecting = timers.queue(connect_timeout, Connection.connect_timed_out)
        self.waiting = timers.queue(RETRY_S, Connection.dial_again)
        self.failures = DialFailures(timers.now)
        self.logs_connections = log.is_enabled_for("debug")
        self._sweeps = timers.queue(idle_timeout / IDLE_SWEEPS, Proxy._sweep)
        self._sweeping = False

    def adopt(self, edge: Edge, client: SocketType, address: SocketAddress) -> None:
        """Take over a connection that was accepted at this edge."""
        original = edge.original(client)
        if original is None:
            reset_on_close(client)
            client.close()
            self.observer.refused(Refusal.NOT_DIVERTED)
            log.debug("refused a connection to the listener itself", client=address)
            return
        connection = Connection(self, edge, client, address, original)
        self.live.add(connection)
        if not self._sweeping:
            self._sweeping = True
            self._sweeps.add(self)
        try:
            connection.begin()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
            connection.crashed(error)

    def _sweep(self) -> None:
        """Ask all connections whether they have been idle for too long.

        All at once, so that a connection costs no entry in a queue of its own: ten thousand take about 2 ms, once per
        eighth of the timeout.
        """
        for connection in list(self.live):
            try:
                connection.idle_sweep(IDLE_SWEEPS)
            except Exception as error:  # noqa: BLE001 (as above)
                connection.crashed(error)
        self._sweeping = bool(self.live)
        if self._sweeping:
            self._sweeps.add(self)

    def crashed(self, error: Exception) -> None:
        """The sweep itself failed: a mistake of this program, to be seen."""
        raise error
