"""A small HTTP/1.1 client on trio and h11 with keep-alive connections, for talking to one API server.

httpx is not used: h11 and trio are dependencies anyway, and its pool and codecs would take much memory.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import h11
import trio

_CHUNK: Final = 64 * 1024
_MAX_ANSWER: Final = 8 * 2**20
"""Limit of an answer's body in bytes; the largest object that an API server stores is 1.5 MiB, more in JSON and
base64."""
_MAX_IDLE: Final = 4
_MAX_LINE: Final = _MAX_ANSWER
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and probes (tcp(7)): a stream on which nothing comes is known to be broken after a minute."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer's status code and body."""

    status: int
    body: bytes


class HttpError(Exception):
    """There was no answer, or no valid HTTP; the message has the reason."""


class HttpLines:
    """An answer that is read while it comes, line by line."""

    def __init__(self, connection: h11.Connection, stream: Stream) -> None:
        """The answer's head has been read from ``stream`` by ``connection``."""
        self._connection, self._stream = connection, stream
        self._held = bytearray()
        self._searched = 0
        self._ended = False

    async def line(self) -> bytes | None:
        """The next line without its end; None after the last one. Raises :class:`HttpError`."""
        while (end := self._held.find(b"\n", self._searched)) < 0:
            self._searched = len(self._held)
            if self._ended:
                rest, self._searched = bytes(self._held), 0
                self._held.clear()
                return rest or None
            if len(self._held) > _MAX_LINE:
                raise HttpError(f"a line of the answer is longer than {_MAX_LINE} bytes")
            await self._receive()
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        self._searched = 0
        return line

    async def rest(self) -> bytes:
        """All that comes until the end. Raises :class:`HttpError`."""
        lines = []
        while (line := await self.line()) is not None:
            lines.append(line)
        return b"\n".join(lines)

    async def _receive(self) -> None:
        try:
            event = await _next_event(self._connection, self._stream)
        except (h11.ProtocolError, trio.BrokenResourceError, OSError):
            raise HttpError("the connection broke") from None
        if isinstance(event, h11.Data):
            self._held += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._ended = True
        elif isinstance(event, h11.ConnectionClosed):
            raise HttpError("the connection broke")


class HttpClient:
    """Requests to one host. ``tls`` returns the context for each new connection, None for plain HTTP."""

    def __init__(self, host: str, port: int, tls: Callable[[], ssl.SSLContext] | None, server_name: str) -> None:
        self._host, self._port = host, port
        self._tls = tls
        self._server_name = server_name
        self._idle: list[tuple[h11.Connection, Stream]] = []

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> HttpAnswer:
        """Send a request, on an idle connection if there is one. Raises :class:`HttpError`; has no timeout of its own.

        The server may have closed an idle connection. If it ends before its answer the request is repeated once on a
        new connection, which is safe for all requests here: writes carry a resourceVersion.
        """
        while self._idle:
            connection, stream = self._idle.pop()
            with suppress(OSError, HttpError, h11.ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
                return await self._exchange(connection, stream, method, target, headers or {}, body)
        stream = await self._opened()
        try:
            return await self._exchange(h11.Connection(h11.CLIENT), stream, method, target, headers or {}, body)
        except h11.ProtocolError as error:
            raise HttpError(f"not HTTP: {error}") from None
        except trio.BrokenResourceError as error:
            raise HttpError(_why(error)) from None
        except OSError as error:
            raise HttpError(error.strerror or str(error)) from None

    async def connect(self) -> None:
        """Open a connection that the next request takes. Raises :class:`HttpError`."""
        self._idle.append((h11.Connection(h11.CLIENT), await self._opened()))

    @asynccontextmanager
    async def lines(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[int, HttpLines]]:
        """GET, on a connection of its own that is closed after the block: the status, and the answer as it comes.

        Raises :class:`HttpError` until the status is there; has no timeout of its own.
        """
        connection = h11.Connection(h11.CLIENT)
        stream = await self._opened()
        try:
            plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                plain.setsockopt(socket.IPPROTO_TCP, option, value)
            try:
                await stream.send_all(self._request(connection, "GET", target, headers, b""))
                event = await _next_event(connection, stream)
            except (h11.ProtocolError, trio.BrokenResourceError, OSError) as error:
                raise HttpError(str(error) or "the connection broke") from None
            if not isinstance(event, h11.Response):
                raise HttpError("the connection was closed without an answer")
            yield event.status_code, HttpLines(connection, stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop()[1])

    async def _opened(self) -> Stream:
        """A new connection. Raises :class:`HttpError`."""
        try:
            return await self._connect()
        except trio.BrokenResourceError as error:
            raise HttpError(_why(error)) from None
        except OSError as error:
            raise HttpError(error.strerror or str(error)) from None

    async def _connect(self) -> Stream:
        stream = await trio.open_tcp_stream(self._host, self._port)
        if self._tls is None:
            return stream
        secure = trio.SSLStream(stream, self._tls(), server_hostname=self._server_name, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:  # also on cancellation: this is the only reference to the connection
            await trio.aclose_forcefully(stream)
            raise
        return secure

    async def _exchange(
        self,
        connection: h11.Connection,
        stream: Stream,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> HttpAnswer:
        try:
            await stream.send_all(self._request(connection, method, target, headers, body))
            answer = await self._read(connection, stream)
        except BaseException:  # also on cancellation: a connection amid an exchange cannot be reused
            await trio.aclose_forcefully(stream)
            raise
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE and len(self._idle) < _MAX_IDLE:
            connection.start_next_cycle()
            self._idle.append((connection, stream))
        else:
            await trio.aclose_forcefully(stream)
        return answer

    def _request(
        self, connection: h11.Connection, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        fields = {"host": f"{host}:{self._port}", "accept": "application/json", **headers}
        if body:
            fields["content-length"] = str(len(body))
        data = connection.send(h11.Request(method=method, target=target, headers=list(fields.items()))) or b""
        data += connection.send(h11.Data(data=body)) or b""
        return data + (connection.send(h11.EndOfMessage()) or b"")

    async def _read(self, connection: h11.Connection, stream: Stream) -> HttpAnswer:
        status, parts, size = 0, [], 0
        while True:
            event = await _next_event(connection, stream)
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > _MAX_ANSWER:
                    raise HttpError(f"the answer is longer than {_MAX_ANSWER} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return HttpAnswer(status, b"".join(parts))
            elif isinstance(event, h11.ConnectionClosed):
                raise HttpError("the connection was closed without an answer")


async def _next_event(connection: h11.Connection, stream: Stream) -> h11.Event:
    """What comes next. Raises :class:`HttpError` where no answer comes."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        data = await stream.receive_some(_CHUNK)
        if not data and connection.their_state is h11.SEND_RESPONSE:
            raise HttpError("the connection was closed without an answer")
        connection.receive_data(bytes(data))
    assert isinstance(event, h11.Event)  # PAUSED comes of pipelining alone
    return event


def _why(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    return "the connection broke"
