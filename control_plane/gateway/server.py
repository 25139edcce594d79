"""The gateway: listeners, connections, and the thread in which everything happens."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from select import EPOLLIN
from typing import Final

from control_plane.gateway.admission import Admission
from control_plane.gateway.connection import AgentConnection, Surroundings
from control_plane.gateway.limits import GatewayLimits
from control_plane.gateway.rpc import CallHandler
from control_plane.gateway.turns import Turns, TurnTimer
from daemon.log import Logger
from fleet_api.limits import CONNECT

_ACCEPTED_AT_ONCE: Final = 4
"""Connections accepted in one turn from one listener: no more than have a step of their handshake in it."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_DRAIN_STEPS: Final = 20
"""In a second, while connections are told to go, one after the other."""

log = Logger(spacing=1.0)


class Gateway:
    """A server of gRPC by mutual TLS 1.3, in one thread: the caller's (:meth:`run`) or its own (:meth:`start`).

    The handler is called in that thread. All other methods but :meth:`call_later` may be called by any thread.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        ssl_context: ssl.SSLContext,
        handler: CallHandler,
        *,
        streams: frozenset[str] = frozenset({CONNECT}),
        limits: GatewayLimits | None = None,
    ) -> None:
        """``listeners`` are taken over; they listen already.

        ``ssl_context`` is as :func:`~control_plane.gateway.tls.server_context` makes it. It may be replaced at any
        time, and is used for connections that come afterwards.

        ``streams`` are the methods with messages in both directions. All others have one message and one answer.
        """
        self.ssl_context = ssl_context
        self._limits = limits or GatewayLimits()
        self._turns = Turns()
        self._listeners = list(listeners)
        self._admission = Admission(self._limits)
        self._around = Surroundings(
            self._turns, handler, streams, self._limits, self._admission, self._opened, self._closed
        )
        self._connections: dict[AgentConnection, None] = {}
        self._unproven: dict[AgentConnection, None] = {}
        """Those without a certificate, the oldest first."""
        self._by_certificate: dict[bytes, list[AgentConnection]] = {}
        self._accepting = False
        self._stopping = False
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="gateway")
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, after :meth:`stop`."""
        if self._thread is not None:
            self._thread.join(timeout)

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        try:
            self._accept_more()
            self._look_after_all()
            while not self._ended:
                self._turns.turn()
        finally:
            self._close_listeners()
            for connection in tuple(self._connections):
                connection.close()
            self._turns.finish()

    def stop(self, over: float = 0.0) -> None:
        """Accept nobody, tell agents to dial another gateway, spread ``over`` so many seconds, and end.

        Calls with one answer may go on for ``drain_time`` of the limits.
        """
        self._turns.run_soon(lambda: self._drain(over))

    def accept_nobody(self) -> None:
        """From now on; who is connected stays. Before :meth:`stop`, to move agents away."""
        self._turns.run_soon(self._close_listeners)

    def run_soon(self, callback: Callable[[], None]) -> bool:
        """Call it in the gateway's thread, in the order of the calls. False: it has ended, and never will."""
        return self._turns.run_soon(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> TurnTimer:
        """Call it in ``delay`` seconds, unless cancelled. Only for the gateway's thread."""
        return self._turns.call_later(delay, callback)

    def _accept_more(self) -> None:
        """Watch the listeners, if there is room."""
        room = len(self._connections) < self._limits.connections
        if room == self._accepting or self._stopping or not self._listeners:
            return
        self._accepting = room
        for listener in self._listeners:
            if room:
                listener.setblocking(False)
                self._turns.watch(listener.fileno(), EPOLLIN, partial(self._accept, listener))
            else:
                self._turns.forget(listener.fileno())

    def _accept(self, listener: socket.socket, _: int) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                plain, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning("no connection can be accepted", error=str(error))
                    self._rest()
                    return
                continue  # that one has gone already
            self._enter(plain, address[0])
            self._accept_more()
            if not self._accepting:
                return

    def _enter(self, plain: socket.socket, address: str) -> None:
        if not self._admission.enter(address):
            log.warning("too many connections without a certificate", peer=address)
            plain.close()
            return
        try:
            connection = AgentConnection(plain, address, self.ssl_context, self._around)
        except OSError:
            self._admission.leave(address)
            plain.close()
            return
        self._connections[connection] = self._unproven[connection] = None
        if len(self._unproven) > self._limits.unproven:
            log.warning("too many connections without a certificate: the oldest is closed")
            next(iter(self._unproven)).close()

    def _rest(self) -> None:
        """Until descriptors are free, or for a second."""
        for listener in self._listeners:
            self._turns.forget(listener.fileno())
        self._accepting = False

    def _look_after_all(self) -> None:
        now = self._turns.now
        for connection in tuple(self._connections):
            connection.look_after(now)
        self._accept_more()
        self._turns.call_later(self._limits.look, self._look_after_all)

    def _opened(self, connection: AgentConnection) -> None:
        if not connection.peer.certificate:
            return
        self._prove(connection)
        same = self._by_certificate.setdefault(connection.peer.certificate, [])
        same.append(connection)
        if len(same) > self._limits.per_certificate:
            same[0].close()

    def _closed(self, connection: AgentConnection) -> None:
        self._connections.pop(connection, None)
        self._prove(connection)
        same = self._by_certificate.get(connection.peer.certificate)
        if same is not None:
            same.remove(connection)
            if not same:
                del self._by_certificate[connection.peer.certificate]
        self._accept_more()

    def _prove(self, connection: AgentConnection) -> None:
        """It is none of those without a certificate any more, if it was."""
        if connection in self._unproven:
            del self._unproven[connection]
            self._admission.leave(connection.peer.address)

    def _drain(self, over: float) -> None:
        if self._stopping:
            return
        self._close_listeners()
        self._stopping = True
        waiting = deque(self._connections)
        share = max(1, round(len(waiting) / max(1.0, over * _DRAIN_STEPS)))
        self._turns.call_later(over + self._limits.drain_time, self._end)

        def step() -> None:
            for _ in range(min(share, len(waiting))):
                waiting.popleft().drain()
            if waiting:
                self._turns.call_later(1 / _DRAIN_STEPS, step)
            else:
                wait()

        def wait() -> None:
            if self._connections:
                self._turns.call_later(1 / _DRAIN_STEPS, wait)
            else:
                self._end()

        step()

    def _end(self) -> None:
        self._ended = True

    def _close_listeners(self) -> None:
        if self._accepting:
            self._rest()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
