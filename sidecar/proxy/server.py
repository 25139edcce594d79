"""The proxy server: listeners, limits, drain. :mod:`sidecar.transport.loop` moves the bytes.

``run`` is the server's lifetime. At its end the caller removes the capture, so that new connections go direct, then
calls ``stop_accepting`` and ``drain``.
"""

from __future__ import annotations

import fcntl
import gc
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from daemon.descriptors import raise_descriptor_limit
from daemon.log import Logger
from datapath.connection_list import ConnectionPage, LiveConnection, Order, select
from datapath.routing.cached import Routing
from datapath.shared_counters import CounterRow, SharedCounters
from datapath.sockets import SocketAddress, reset_on_close
from sidecar.observability.access_log import AccessLog, AccessLogSettings, LoggingObserver
from sidecar.proxy.connection import RelayedConnection
from sidecar.proxy.context import ConnectionContext
from sidecar.proxy.idle_eviction import CROWDED, IdleEviction, IdleSweep
from sidecar.proxy.memory_trim import MemoryTrimmer, trim_memory
from sidecar.transport.accept import RETRY_S, Acceptor
from sidecar.transport.inbound import InboundSockets
from sidecar.transport.kernel_sockets import BACKLOG, KernelSockets, TransparentSockets
from sidecar.transport.loop import EventLoop
from sidecar.transport.loop_context import LoopContext
from sidecar.transport.observer import (
    ConnectionOutcome,
    ConnectionSummary,
    ConnectionView,
    NullObserver,
    Observer,
    Refusal,
)
from sidecar.transport.pacing import Pacer
from sidecar.transport.pipes import MAX_PIPES
from sidecar.transport.states import ConnectionEvent
from sidecar.transport.timers import Timers
from traffic_policy.errors import ConfigError
from traffic_policy.units import Duration

__all__ = [
    "ConnectionOutcome",
    "ConnectionSummary",
    "ConnectionView",
    "NullObserver",
    "Observer",
    "ProxyServer",
    "Refusal",
    "Routing",
    "ServerSettings",
    "tune_garbage_collector",
]

log = Logger()

RESERVED_DESCRIPTORS: Final = 2 * MAX_PIPES + 128
"""Descriptors reserved for other uses: splice pipes, listeners, admin server, netlink, logs, imports."""
DESCRIPTORS_PER_CONNECTION: Final = 2
REROUTED_AT_ONCE: Final = 256
"""Connections moved to a new policy per step: about a millisecond."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The server's settings. ``inbound_port`` is where inbound connections arrive; None: they are not captured."""

    port: int
    inbound_port: int | None = None
    ipv4: bool = True
    ipv6: bool = True
    max_connections: int = 10_000
    detection_timeout: Duration = field(default=Duration(1 * 10**9))
    connect_timeout: Duration = field(default=Duration(10 * 10**9))
    idle_timeout: Duration = field(default=Duration(3600 * 10**9))
    access_log: AccessLogSettings | None = None

    @property
    def families(self) -> Sequence[int]:
        """Address families to listen on. Raises ConfigError if there is none."""
        chosen = [family for family, on in ((socket.AF_INET, self.ipv4), (socket.AF_INET6, self.ipv6)) if on]
        if not chosen:
            raise ConfigError("Neither IPv4 nor IPv6 is on, so there is nothing to listen on. Switch one of them on.")
        return chosen


def fitting_connections(wanted: int, descriptor_limit: int) -> int:
    """How many of ``wanted`` connections fit under a limit of open files (at least one)."""
    return max(1, min(wanted, (descriptor_limit - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION))


def make_room_for_descriptors(count: int) -> None:
    """Grow the kernel's table of open files to this number of entries, of 8 bytes each.

    The kernel doubles the table when it is full. In a process of several threads it then waits for an RCU grace period
    (expand_fdtable() in fs/file.c, synchronize_rcu()), during which no connection moves.
    """
    descriptor = os.eventfd(0)
    with suppress(OSError):  # beyond the limit, or no memory: then it grows on demand
        os.close(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, count - 1))
    os.close(descriptor)


def tune_garbage_collector() -> None:
    """Exempt existing objects from garbage collection (they are permanent) and raise the thresholds.

    Connections leave no reference cycles, but netlink messages do, some hundred objects per reading of the counters. So
    the first threshold is raised only moderately; the older generations are collected as rarely as before.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 500, 50)


class ProxyServer:
    """Accepts captured connections and proxies them until cancelled."""

    def __init__(
        self,
        settings: ServerSettings,
        routing: Routing,
        observer: Observer | None = None,
        *,
        kernel_sockets: KernelSockets | None = None,
        inbound: KernelSockets | None = None,
        received_counters: CounterRow | None = None,
    ) -> None:
        """``kernel_sockets`` and ``inbound`` implement listening and dialling; by default with TPROXY.

        ``received_counters`` is where this process records the bytes it receives; one of its own by default.
        """
        self.settings = settings
        self.max_connections = settings.max_connections
        self._doors: list[tuple[KernelSockets, int]] = [
            (kernel_sockets if kernel_sockets is not None else TransparentSockets(), settings.port)
        ]
        if settings.inbound_port is not None:
            self._doors.append((inbound if inbound is not None else InboundSockets(), settings.inbound_port))
        self._observer = observer if observer is not None else NullObserver()
        self._access_log: AccessLog | None = None
        if settings.access_log is not None:
            self._access_log = AccessLog(settings.access_log, self._observer.lost_lines)
            self._observer = LoggingObserver(self._observer, self._access_log)
        self._timers = Timers()
        self._loop = EventLoop(self._timers)
        self._retries = self._timers.queue(RETRY_S, Acceptor.resume)
        self._acceptors: list[Acceptor] = []
        self._emptied = trio.Event()
        self._life = trio.CancelScope()
        self._context = ConnectionContext[RelayedConnection](
            loop_context=LoopContext(self._loop),
            timers=self._timers,
            routing=routing,
            observer=self._observer,
            pacer=Pacer(self._timers, received_counters or SharedCounters().row(0)),
            detection_timeout=settings.detection_timeout.seconds,
            connect_timeout=settings.connect_timeout.seconds,
            on_closed=self._connection_closed,
            on_exhausted=self._nothing_left,
        )
        live = self._context.live
        self._idle = IdleSweep(self._timers, live, settings.idle_timeout.seconds)
        self._idle_eviction = IdleEviction(self._timers, live, lambda: self.max_connections, self._resume)
        self._memory_trimmer = MemoryTrimmer(self._timers, trim_memory)

    @property
    def routing(self) -> Routing:
        """The routing in force; :meth:`follow` replaces it."""
        return self._context.routing

    @property
    def active(self) -> int:
        """The number of live connections."""
        return len(self._context.live)

    @property
    def wakeups(self) -> int:
        """Wake-ups of the relay loop; an idle proxy has none."""
        return self._loop.wakeups

    @property
    def events(self) -> int:
        """The number of epoll events handled."""
        return self._loop.events

    def snapshot(self) -> list[ConnectionView]:
        """The live connections."""
        return [connection.view() for connection in self._context.live]

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The number of live connections, and ``limit`` of them. Does not block; other servers have to query first."""
        live = self._context.live
        chosen = select(live, limit, order, begun=lambda c: c.opened_at, size=lambda c: c.bytes_up + c.bytes_down)
        return ConnectionPage(len(live), [_told(each.view()) for each in chosen])

    async def run(self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled, then reset the remaining connections. Reports the addresses as started when
        listening.

        Raises PortInUseError, PrivilegeError, ConfigError, before anything is accepted.
        """
        self.max_connections = fitting_connections(self.settings.max_connections, raise_descriptor_limit())
        if self.max_connections < self.settings.max_connections:
            log.warning(
                "fewer connections than configured fit under the limit of open files",
                configured=self.settings.max_connections,
                possible=self.max_connections,
                remedy="Raise the hard limit (ulimit -Hn).",
            )
        make_room_for_descriptors(self.max_connections * DESCRIPTORS_PER_CONNECTION + RESERVED_DESCRIPTORS)
        try:
            for kernel_sockets, port in self._doors:
                adopt = partial(self._adopt, kernel_sockets)
                for listener in kernel_sockets.listen(port, self.settings.families):
                    self._acceptors.append(
                        Acceptor(
                            self._loop, listener, adopt, self._has_room, self._idle_eviction.make_room, self._exhausted
                        )
                    )
            task_status.started([acceptor.listener.getsockname()[:2] for acceptor in self._acceptors])
            with self._life:
                await self._loop.run()
        finally:
            self._close_listeners()
            self.cut()
            self._context.loop_context.pipes.close()
            self._loop.close()
            if self._access_log is not None:
                self._access_log.close()

    async def follow(self, routing: Routing) -> None:
        """Put a routing in force for new and existing connections.

        No connection is closed. Further bytes of an existing connection are in the class of the new routing.
        """
        self._context.follow(routing)
        live = list(self._context.live)
        moved = 0
        failure: OSError | None = None
        for at in range(0, len(live), REROUTED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            for connection in live[at : at + REROUTED_AT_ONCE]:
                connection.set_pace()
                try:
                    moved += connection.reroute()
                except OSError as error:
                    failure = error
        if moved:
            log.info("live connections changed their class", count=moved)
        if failure is not None:
            log.warning("live connections stay in the classes they had", error=failure.strerror)

    def stop_accepting(self) -> None:
        """Accept the connections in the backlogs, as far as there is room, and close the listeners."""
        for acceptor in self._acceptors:
            acceptor.accept(BACKLOG)  # bounded: a client that keeps connecting must not delay the end
        self._close_listeners()

    async def drain(self, grace: Duration) -> int:
        """Stop accepting, wait until every connection has ended, reset the rest after ``grace`` seconds, and end
        ``run``.

        Returns the number of connections that were reset.
        """
        self.stop_accepting()
        with trio.move_on_after(grace.seconds):
            while self._context.live:
                self._emptied = trio.Event()
                await self._emptied.wait()
        left = self.cut()
        self._life.cancel()
        return left

    def cut(self) -> int:
        """Reset all connections; return their number."""
        connections = list(self._context.live)
        for connection in connections:
            connection.end(ConnectionEvent.CUT, ConnectionOutcome.CUT)
        return len(connections)

    def _adopt(self, kernel_sockets: KernelSockets, client: socket.SocketType, address: SocketAddress) -> None:
        """Take over a connection accepted by this listener."""
        original = kernel_sockets.original_destination(client)
        if original is None:
            reset_on_close(client)
            client.close()
            self._observer.refused(Refusal.NOT_DIVERTED)
            log.debug("refused a connection to the listener itself", client=address)
            return
        connection = RelayedConnection(self._context, kernel_sockets, client, address, original)
        self._context.live.add(connection)
        self._idle.begin()
        try:
            connection.begin()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end all others)
            connection.crashed(error)

    def _has_room(self) -> bool:
        taken = len(self._context.live)
        if taken >= self.max_connections * CROWDED:
            self._idle_eviction.begin()
        return taken < self.max_connections

    def _resume(self) -> None:
        for acceptor in self._acceptors:
            acceptor.resume()

    def _nothing_left(self) -> None:
        """A connection could not be dialled for lack of resources: pause accepting for a moment."""
        for acceptor in self._acceptors:
            acceptor.pause()
            self._retries.add(acceptor)

    def _exhausted(self, acceptor: Acceptor, refusal: Refusal) -> None:
        """accept(2) failed for lack of resources: retry when a connection closes, or a little later."""
        self._observer.refused(refusal)
        self._retries.add(acceptor)

    def _connection_closed(self) -> None:
        if not len(self._context.waiting):  # those have priority
            self._resume()
        self._memory_trimmer.closed(len(self._context.live), self._context.first_bytes.size)
        if not self._context.live and not self._emptied.is_set():
            self._emptied.set()

    def _close_listeners(self) -> None:
        for acceptor in self._acceptors:
            self._retries.discard(acceptor)
            acceptor.close()
        self._acceptors.clear()


def _told(view: ConnectionView) -> LiveConnection:
    undetected = view.class_name is None
    return LiveConnection(
        view.class_name,
        view.client[:2],
        (str(view.destination.address), view.destination.port),
        view.destination.bound.value,
        view.detection.sni or view.detection.host,
        None if undetected else view.detection.protocol.value,
        view.state.name.lower().replace("_", "-"),
        view.seconds,
        view.bytes_up,
        view.bytes_down,
    )
