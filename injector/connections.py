"""Listening, and the life of a connection: TLS, HTTP/1.1 or HTTP/2 as the client chose, and a graceful end.

The protocols are Hypercorn's, the loop around them is ours. Its own (0.18) is not for a server that must not fail: data
for a stream that was answered early end the whole process with a KeyError, an idle or stopping HTTP/2 connection is
closed under the client's next request, and certificates are read once. Here an error ends one connection, and HTTP/2
clients are told to go elsewhere (GOAWAY) before a connection ends, so that they lose no request.
"""

from __future__ import annotations

import errno
import math
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import h2.events
import h2.exceptions
import trio
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from hyperframe.frame import GoAwayFrame

from daemon.log import Logger
from injector.errors import ListenError
from injector.exchange import Application

_MAX_CONNECTIONS: Final = 1000
"""API servers have a few each; above this a connection is closed at once, to keep descriptors for others."""
_HANDSHAKE_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 120.0
"""An idle connection is closed after this; longer than Go's clients keep one (90 s), so that they close it first."""
_GOODBYE_SECONDS: Final = 1.0
"""How long HTTP/2 clients have to read that they shall open no more streams before new ones are refused."""
_LAST_STREAM: Final = 2**31 - 1
"""In a GOAWAY: every stream that comes meanwhile will still be answered (RFC 9113 section 6.8)."""

log = Logger()


async def open_listeners(address: str, port: int, setting: str) -> list[trio.SocketListener]:
    """Listen on an address, all of them when it is empty. Raises :class:`ListenError` naming the setting."""
    try:
        return await trio.open_tcp_listeners(port, host=address or None)
    except OSError as error:
        place = f"port {port}" if not address else f"{address} port {port}"
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{place} is taken. Choose another with --{setting}.") from None
        raise ListenError(
            f"The server cannot listen on {place}: {error.strerror or error}. Choose another with --{setting}, "
            "or an address of this machine with --address."
        ) from None


class Server:
    """Serves one application. ``tls`` gives the context for each new connection; None: plain HTTP."""

    def __init__(self, application: Application, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self._application = application
        self._tls = tls
        self._config = _config()
        self._http1, self._http2 = WorkerContext(None), WorkerContext(None)
        self._connections: set[_Connection] = set()
        self._accepting = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Accept and serve until :meth:`drain`; then until the last connection has ended."""
        async with trio.open_nursery() as nursery:
            with self._accepting:
                await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)
            for listener in listeners:
                await listener.aclose()

    def leave(self) -> None:
        """Go on serving, but have HTTP/1 clients open their next connection elsewhere, if they are led there.

        API servers ask Services by HTTP/1.1 (k8s.io/apiserver, pkg/util/webhook/client.go), and Go's client does not
        repeat a POST that it sent while its connection was being closed.
        """
        self._application.leaving = True

    async def drain(self, grace: float) -> int:
        """Accept no more, answer what has come, close. Gives how many connections were cut after ``grace`` seconds."""
        self._accepting.cancel()
        for connection in list(self._connections):
            await connection.say_goodbye()
        await self._http1.terminated.set()
        with trio.move_on_after(grace):
            with trio.move_on_after(_GOODBYE_SECONDS):
                await self.until_empty()
            await self._http2.terminated.set()
            await self.until_empty()
        cut = len(self._connections)
        for connection in self._connections:
            connection.scope.cancel()
        return cut

    async def until_empty(self) -> None:
        """Wait until no connection is open."""
        while self._connections:
            self._ended = trio.Event()
            await self._ended.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS or self._accepting.cancel_called:
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(self._application, self._config, self._http1, self._http2)
        self._connections.add(connection)
        try:
            with connection.scope:
                await connection.serve(stream, self._tls)
        except Exception as error:  # noqa: BLE001 (one connection's trouble is not the server's)
            log.warning("a connection failed", error=repr(error))
        finally:
            self._connections.discard(connection)
            self._ended.set()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


class _Connection(TCPServer):
    """Hypercorn's server of one connection, given a protocol of our own."""

    def __init__(self, application: Application, config: Config, http1: WorkerContext, http2: WorkerContext) -> None:
        self.scope = trio.CancelScope()
        self._application = application
        self._settings = config
        self._contexts = http1, http2
        self._speaks_http2: _Http2 | None = None

    async def serve(self, stream: trio.SocketStream, tls: Callable[[], ssl.SSLContext] | None) -> None:
        secure: trio.SSLStream[trio.SocketStream] | None = None
        chosen = None
        if tls is not None:
            secure = trio.SSLStream(stream, tls(), server_side=True, https_compatible=True)
            try:
                with trio.fail_after(_HANDSHAKE_SECONDS):
                    await secure.do_handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                log.info("a TLS handshake failed", reason=str(error.__cause__ or error) or type(error).__name__)
                return
            chosen = secure.selected_alpn_protocol()
        context = self._contexts[chosen == "h2"]
        super().__init__(self._application, self._settings, context, {}, secure or stream)  # type: ignore[arg-type]
        with suppress(OSError):  # such as a client that is gone before its address is asked for
            await self._speak(stream, chosen, encrypted=secure is not None)
        await self._close()

    async def _speak(self, stream: trio.SocketStream, chosen: str | None, *, encrypted: bool) -> None:
        socket = stream.socket
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        async with TaskGroup() as tasks:
            self._task_group = tasks
            self.protocol = ProtocolWrapper(
                self.app, self.config, self.context, tasks, ConnectionState({}), encrypted, client, server,
                self.protocol_send, chosen,
            )  # fmt: skip
            if chosen == "h2":
                self._speaks_http2 = self.protocol.protocol = _Http2.replacing(self.protocol.protocol)
            await self.protocol.initiate()
            await self.idle_task.restart(tasks, self._idle_timeout)
            await self._read_data()
            await self.idle_task.stop()  # or the connection would stay for as long as an idle one is kept

    async def say_goodbye(self) -> None:
        """Ask an HTTP/2 client to use another connection from now on."""
        if self._speaks_http2 is not None:
            await self._speaks_http2.say_goodbye()

    async def _initiate_server_close(self) -> None:
        await self.say_goodbye()
        await super()._initiate_server_close()


class _Http2(H2Protocol):
    """Hypercorn's HTTP/2, but data for a stream that has been answered already is thrown away and does no harm."""

    @classmethod
    def replacing(cls, made: Any) -> _Http2:
        """The same as ``made``, which has not begun yet."""
        return cls(
            made.app, made.config, made.context, made.task_group, made.connection_state, made.ssl, made.client,
            made.server, made.send,
        )  # fmt: skip

    async def say_goodbye(self) -> None:
        """GOAWAY for streams that are not open yet. h2 cannot send one and stay open, so the frame is made here."""
        await self.send(RawData(GoAwayFrame(0, last_stream_id=_LAST_STREAM, error_code=0).serialize()))

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                continue
            await super()._handle_events([event])
        await self._flush()


class _Log:
    """Hypercorn's log lines as our own."""

    def __init__(self, _config: Config) -> None:
        pass

    async def access(self, *_args: object) -> None:
        """The application logs what it answers itself."""

    def __getattr__(self, level: str) -> Callable[..., Any]:
        return partial(self._write, level)

    async def _write(self, level: str, message: str, *args: object, **_extra: object) -> None:
        getattr(log, level)(message % args if args else message)


def _config() -> Config:
    config = Config()
    config.logger_class = _Log  # type: ignore[assignment]
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = _KEPT_SECONDS
    # A connection that reached the limit would be closed under the requests that it still carries.
    config.keep_alive_max_requests = 2**62
    # Unlimited: a full queue would block the whole connection. Bodies are limited by whoever reads them.
    config.max_app_queue_size = math.inf  # type: ignore[assignment]
    return config
