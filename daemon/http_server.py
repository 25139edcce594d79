"""A small HTTP/1.1 server on trio and h11, with or without TLS, with limits on all resources and graceful shutdown.

HTTP/1.1 suffices: API servers use it for webhooks behind a Service (k8s.io/apiserver, pkg/util/webhook/client.go), and
so do kubelets and Prometheus.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from daemon.http import Handler, HttpRequest, HttpResponse, Refuse, RequestError
from daemon.http_connection import HttpConnection, HttpLimits, Shared, Stream
from daemon.http_handshakes import Handshakes
from daemon.log import Logger
from daemon.turns import LoopTurns, TurnStream

ALPN: Final = ("http/1.1",)
"""ALPN protocols of a server with TLS (RFC 7301)."""
_HANDSHAKE_RECORD: Final = b"\x16"
"""The type of a connection's first record (RFC 8446 section 5.1)."""
_CERTIFIED: Final = 0.05
"""Seconds of good answers that a client with a certificate is taken to have had: so it comes before those who are new,
and stays there if it goes on like this."""
_TOLD_EVERY: Final = 60.0
"""Seconds between two log lines about refused connections."""

log = Logger()
log_some = Logger(spacing=1.0)
"""For what clients cause."""


class HttpServer:
    """Serves handlers by path. ``tls`` returns the context for each new connection; None: plain HTTP. Connections with
    an earlier context end with their next response.

    ``refuse`` makes the responses to requests that cannot be answered. Clients have turns by their addresses; ``turns``
    are its own.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        limits: HttpLimits,
        *,
        refuse: Refuse = HttpResponse.text,
        tls: Callable[[], ssl.SSLContext] | None = None,
        turns: LoopTurns | None = None,
    ) -> None:
        self._handlers = handlers
        self._limits = limits
        self._refuse = refuse
        self._tls = tls
        self._turns = turns or LoopTurns()
        self._shared = Shared(limits, self._respond, refuse, tls)
        self._open: dict[trio.CancelScope, _Client] = {}
        """Connections, by their cancel scope."""
        self._silent: dict[trio.CancelScope, None] = {}
        """Those that have asked for nothing, the oldest first; some have asked since."""
        self._peers = defaultdict[str, _Peer](_Peer)
        self._handshakes = Handshakes(limits.handshakes, limits.handshakes_per_peer)
        self._accepting = trio.CancelScope()
        self._ended = trio.Event()
        self._refused = 0
        self._tell_at = 0.0

    @property
    def connections(self) -> int:
        return len(self._open)

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Accept and serve until :meth:`drain`; then until the last connection has ended. Closes the listeners."""
        async with trio.open_nursery() as keepers:
            keepers.start_soon(self._turns.run)
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)
            keepers.cancel_scope.cancel()

    def leave(self) -> None:
        """Keep serving, but end each connection with its response, so that clients open the next one to another server.

        Go's client does not repeat a POST that it sent while its connection was being closed.
        """
        self._shared.leaving = True

    async def drain(self, grace: float) -> int:
        """Accept no more, answer pending requests, close. Return the number of connections cut after ``grace``
        seconds."""
        self._accepting.cancel()
        self._shared.leaving = self._shared.draining = True
        for client in self._open.values():
            if client.connection is not None:
                client.connection.drain()
        with trio.move_on_after(grace):
            await self.until_empty()
        for scope in self._open:
            scope.cancel()
        return len(self._open)

    async def until_empty(self) -> None:
        while self._open:
            self._ended = trio.Event()
            await self._ended.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        scope = trio.CancelScope()
        peer = _peer_of(stream)
        if peer is None or not self._room_for(peer):
            await trio.aclose_forcefully(stream)
            return
        client = self._open[scope] = _Client(peer)
        share = self._turns.share(peer)
        self._peers[peer].connections += 1
        self._silent[scope] = self._peers[peer].silent[scope] = None
        secured: Stream | None = None
        try:
            with scope:
                secured = await self._secured(TurnStream(stream, share), stream.socket, peer)
                if secured is not None:
                    client.connection = HttpConnection(secured, self._shared, peer)
                    await client.connection.run()
        except Exception as error:
            # One connection's error must not end the server.
            log_some.error("a connection failed", exc_info=error)
        finally:
            self._forget(scope)
            share.settle(useful=False)
            await trio.aclose_forcefully(stream)
            if isinstance(secured, trio.SSLStream):
                _free(secured)

    def _room_for(self, peer: str) -> bool:
        """Whether a connection of this peer may be served; if need be, one that has asked for nothing makes room."""
        crowded = peer in self._peers and self._peers[peer].connections >= self._limits.per_peer
        if not crowded and len(self._open) < self._limits.connections:
            return True
        self._tell_refused(peer)
        silent = self._peers[peer].silent if crowded else self._silent
        while silent:
            scope = next(iter(silent))
            if self._open[scope].silent:
                scope.cancel()
                self._forget(scope)
                return True
            del silent[scope]
        return False

    def _forget(self, scope: trio.CancelScope) -> None:
        """Count a connection no more."""
        client = self._open.pop(scope, None)
        if client is not None:
            peer = self._peers[client.peer]
            peer.connections -= 1
            peer.silent.pop(scope, None)
            self._silent.pop(scope, None)
            if not peer.connections:
                del self._peers[client.peer]
            self._ended.set()

    async def _secured(self, stream: TurnStream, opened: trio.socket.SocketType, peer: str) -> Stream | None:
        """The stream after the TLS handshake; None if that failed."""
        if self._tls is None:
            return stream
        try:
            with trio.fail_after(self._limits.handshake) as scope:
                # Whoever says nothing costs no more than a socket, and what is no TLS a look at a byte.
                if await opened.recv(1, socket.MSG_PEEK) != _HANDSHAKE_RECORD:
                    raise trio.BrokenResourceError("its first byte is not that of a TLS handshake")
                async with self._handshakes.place(peer, stream.share.client, scope):
                    return await self._shaken(stream, self._tls(), peer)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            reason = str(error.__cause__ or error) or type(error).__name__
            log_some.info("a TLS handshake failed", reason=reason)
            return None

    async def _shaken(self, stream: TurnStream, context: ssl.SSLContext, peer: str) -> Stream:
        """The stream after the handshake. A client with a certificate has turns of its own: it may share its address
        with others."""
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            with stream.share.later():
                await secure.do_handshake()
        except BaseException:  # also if it is cancelled: what OpenSSL holds for it would stay behind
            _free(secure)
            raise
        if shown := secure.getpeercert(binary_form=True):
            name = f"{peer} {hashlib.sha256(shown).hexdigest()}"
            stream.share.move(self._turns.order.client(name, credit=_CERTIFIED))
        return secure

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        with trio.move_on_after(self._limits.respond):
            try:
                return await self._handle(request)
            except RequestError as error:
                return replace(self._refuse(error.status, str(error)), headers=error.headers)
            except Exception as error:
                log_some.error("a request could not be answered", path=request.path, exc_info=error)
                return self._refuse(500, "This answer failed; the log says why.")
        log_some.error("a request took too long", path=request.path, seconds=self._limits.respond)
        return self._refuse(504, f"There was no answer within {self._limits.respond:g} s.")

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        if "websocket" in request.headers.get("upgrade", "").lower():
            raise RequestError(400, "There are no WebSockets here. Send the request without Upgrade.")
        handler = self._handlers.get(request.path)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise RequestError(404, f"There is no {request.path[:200]} here. Ask for {known}.")
        return await handler(request)

    def _tell_refused(self, peer: str) -> None:
        self._refused += 1
        if trio.current_time() >= self._tell_at:
            log.warning(
                "connections are closed: there are too many", closed=self._refused, open=len(self._open), last=peer
            )
            self._refused, self._tell_at = 0, trio.current_time() + _TOLD_EVERY


@dataclass(slots=True)
class _Peer:
    """A client's address: how many connections it has, and those that have asked for nothing, as in the server."""

    connections: int = 0
    silent: dict[trio.CancelScope, None] = field(default_factory=dict)


class _Client:
    """A connection with its peer's address."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.connection: HttpConnection | None = None
        """None: the TLS handshake is in progress."""

    @property
    def silent(self) -> bool:
        """Whether it has not asked for anything yet."""
        return self.connection is None or not self.connection.asked


def _free(stream: trio.SSLStream[TurnStream]) -> None:
    """Return the memory of a stream that nobody uses any more: 50 KiB and more. It refers to itself, so that it would
    wait for the garbage collector, which does not know how large it is."""
    vars(stream).clear()


def _peer_of(stream: trio.SocketStream) -> str | None:
    """The client's address; None if it has already disconnected."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return None
