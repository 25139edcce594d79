"""A small HTTP/1.1 client on trio and h11 with keep-alive connections, for talking to one API server.

httpx is not used: h11 and trio are dependencies anyway, and its pool and codecs would take much memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import h11
import trio

_CHUNK: Final = 64 * 1024
_MAX_ANSWER: Final = 8 * 2**20
"""Limit of an answer's body in bytes; the largest object that an API server stores is 1.5 MiB, more in JSON and
base64."""
_MAX_IDLE: Final = 4

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer's status code and body."""

    status: int
    body: bytes


class HttpError(Exception):
    """There was no answer, or no valid HTTP; the message has the reason."""


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
        try:
            stream = await self._connect()
            return await self._exchange(h11.Connection(h11.CLIENT), stream, method, target, headers or {}, body)
        except h11.ProtocolError as error:
            raise HttpError(f"not HTTP: {error}") from None
        except trio.BrokenResourceError as error:
            raise HttpError(_why(error)) from None
        except OSError as error:
            raise HttpError(error.strerror or str(error)) from None

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop()[1])

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
        host = f"[{self._host}]" if ":" in self._host else self._host
        fields = {"host": f"{host}:{self._port}", "accept": "application/json", **headers}
        if body:
            fields["content-length"] = str(len(body))
        try:
            request = h11.Request(method=method, target=target, headers=list(fields.items()))
            data = connection.send(request) or b""
            data += connection.send(h11.Data(data=body)) or b""
            data += connection.send(h11.EndOfMessage()) or b""
            await stream.send_all(data)
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

    async def _read(self, connection: h11.Connection, stream: Stream) -> HttpAnswer:
        status, parts, size = 0, [], 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(_CHUNK)
                if not data and not status:
                    raise HttpError("the connection was closed without an answer")
                connection.receive_data(bytes(data))
            elif isinstance(event, h11.Response):
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


def _why(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    return "the connection broke"
