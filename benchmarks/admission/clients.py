"""The clients of the load: HTTP/1.1 with connections kept alive, as API servers ask Services, and HTTP/2.

Go's client takes an idle connection where there is one, and opens another where there is none; so does :class:`Http1`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio

from injector.http_client import HttpAnswer, HttpClient, HttpError

HOST: Final = "127.0.0.1"
_CHUNK: Final = 64 * 1024
_STREAMS: Final = 100
"""Requests at once on an HTTP/2 connection; others wait, as in Go's client. No server should allow fewer (RFC 9113
section 6.5.2), and Hypercorn allows no more."""
_JSON: Final = {"content-type": "application/json"}


class Client(Protocol):
    """Whoever can be asked, many times at once. Raises :class:`HttpError` when there is no answer."""

    async def ask(self, method: str, target: str, body: bytes) -> HttpAnswer: ...


@asynccontextmanager
async def connected(protocol: str, port: int, authority: bytes) -> AsyncIterator[Client]:
    """A client of a server on this host. ``protocol`` is a key of :data:`PROTOCOLS`; ``authority`` PEM to trust."""
    async with PROTOCOLS[protocol](port, authority) as client:
        yield client


def _trusting(authority: bytes, protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.decode("ascii"))
    context.set_alpn_protocols([protocol])
    return context


class Http1:
    """As many connections as there are requests at once; a client of one connection for each."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self.idle: list[HttpClient] = []

    async def ask(self, method: str, target: str, body: bytes) -> HttpAnswer:
        client = self.idle.pop() if self.idle else HttpClient(HOST, self._port, lambda: self._context, HOST)
        try:
            return await client.request(method, target, _JSON, body)
        finally:
            self.idle.append(client)


@asynccontextmanager
async def _http1(port: int, authority: bytes) -> AsyncIterator[Client]:
    client = Http1(port, _trusting(authority, "http/1.1"))
    try:
        yield client
    finally:
        for each in client.idle:
            await each.aclose()


@dataclass(slots=True, eq=False)
class _Stream:
    status: int = 0
    body: bytes = b""
    failure: str = ""
    done: trio.Event = field(default_factory=trio.Event)


class Http2:
    """One connection that carries all requests."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], authority: str) -> None:
        self._stream = stream
        self._authority = authority
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._streams: dict[int, _Stream] = {}
        self._sending = trio.Lock()
        self._free = trio.Semaphore(_STREAMS)
        self._window = trio.lowlevel.ParkingLot()
        self._failure = ""

    async def start(self) -> None:
        """Send the connection's preface."""
        self._h2.initiate_connection()
        await self._flush()

    async def ask(self, method: str, target: str, body: bytes) -> HttpAnswer:
        async with self._free:
            return await self._ask(method, target, body)

    async def _ask(self, method: str, target: str, body: bytes) -> HttpAnswer:
        if self._failure:
            raise HttpError(self._failure)
        number = self._h2.get_next_available_stream_id()
        mine = self._streams[number] = _Stream()
        head: Mapping[str, str] = {
            ":method": method, ":path": target, ":scheme": "https", ":authority": self._authority,
            "content-length": str(len(body)), **_JSON,
        }  # fmt: skip
        try:
            self._h2.send_headers(number, list(head.items()), end_stream=not body)
            await self._send(number, mine, body)
            await mine.done.wait()
        except h2.exceptions.ProtocolError as error:
            raise HttpError(f"HTTP/2 failed: {error}") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HttpError("the connection broke") from None
        finally:
            del self._streams[number]
        if mine.failure:
            raise HttpError(mine.failure)
        return HttpAnswer(mine.status, mine.body)

    async def _send(self, number: int, mine: _Stream, body: bytes) -> None:
        while body and not mine.done.is_set():
            room = self._room(number)
            if room <= 0:
                await self._flush()
                if self._room(number) <= 0:  # still: nothing has come while the rest was being sent
                    await self._window.park()
                continue
            part, body = body[:room], body[room:]
            self._h2.send_data(number, part, end_stream=not body)
        if body:  # answered without it; a stream that stays open would count (RFC 9113 section 5.1.2)
            self._h2.reset_stream(number)
        await self._flush()

    def _room(self, number: int) -> int:
        return min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)

    async def read(self) -> None:
        """Handle what the server sends, until it closes."""
        try:
            while data := await self._stream.receive_some(_CHUNK):
                for event in self._h2.receive_data(bytes(data)):
                    self._handle(event)
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError) as error:
            self._failure = f"the connection broke: {error!r}"
        self._failure = self._failure or "the connection was closed"
        self._window.unpark_all()
        for each in self._streams.values():
            each.failure = each.failure or self._failure
            each.done.set()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window.unpark_all()
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        mine = self._streams.get(getattr(event, "stream_id", None) or 0)
        if mine is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            mine.status = int({str(name): value for name, value in event.headers or ()}[":status"])
        elif isinstance(event, h2.events.DataReceived):
            mine.body += event.data or b""
        elif isinstance(event, h2.events.StreamEnded):
            mine.done.set()
        elif isinstance(event, h2.events.StreamReset):
            mine.failure = f"the stream was reset ({event.error_code})"
            mine.done.set()

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._h2.data_to_send():
                await self._stream.send_all(data)


@asynccontextmanager
async def _http2(port: int, authority: bytes) -> AsyncIterator[Client]:
    socket = await trio.open_tcp_stream(HOST, port)
    stream = trio.SSLStream(socket, _trusting(authority, "h2"), server_hostname=HOST, https_compatible=True)
    client = Http2(stream, f"{HOST}:{port}")
    async with trio.open_nursery() as nursery:
        try:
            await client.start()
            nursery.start_soon(client.read)
            yield client
        finally:
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)


PROTOCOLS: Final = {"http1": _http1, "http2": _http2}
