"""A small HTTP/2 client on trio: several requests at once on one connection, as API servers send them to a webhook."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import trio

_CHUNK: Final = 64 * 1024
_FRAME_HEAD: Final = 9
_GOAWAY: Final = 7
"""Length of a frame's head, and the type of a GOAWAY (RFC 9113 sections 4.1 and 6.8)."""


class Http2Error(Exception):
    """There will be no answer; the text says why."""


@dataclass(slots=True)
class Http2Answer:
    """An answer, or what has come of it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""
    done: trio.Event = field(default_factory=trio.Event)


class Http2Client:
    """One connection. :func:`http2_client` opens it."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], authority: str) -> None:
        self._stream = stream
        self._authority = authority
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._answers: dict[int, Http2Answer] = {}
        self._window = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()
        self._half_frame = b""
        self.goaway = trio.Event()
        """The server has asked for no more requests on this connection."""
        self.closed = trio.Event()

    async def start(self) -> None:
        """Send the connection's preface."""
        self._connection.initiate_connection()
        await self._flush()

    async def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Http2Answer:
        """Send a request and wait for its answer. Raises :class:`Http2Error` when the connection or stream ends."""
        stream_id = await self.begin(method, path, headers, ends=not body)
        if body:
            await self.send(stream_id, body, ends=True)
        return await self.answer(stream_id)

    async def begin(self, method: str, path: str, headers: dict[str, str] | None = None, *, ends: bool = False) -> int:
        """Send a request's head; gives the stream's number."""
        if self.closed.is_set():
            raise Http2Error("the connection is closed")
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", self._authority)]
        stream_id = self._connection.get_next_available_stream_id()
        self._answers[stream_id] = Http2Answer()
        self._connection.send_headers(stream_id, [*fields, *(headers or {}).items()], end_stream=ends)
        await self._flush()
        return stream_id

    async def send(self, stream_id: int, body: bytes, *, ends: bool) -> None:
        """Send a part of the body, as fast as the server's windows allow; stops when the stream has been answered."""
        answer = self._answers[stream_id]
        position = 0
        with suppress(h2.exceptions.StreamClosedError):
            while position < len(body):
                if answer.done.is_set():
                    # Nobody reads the rest; a stream that stays open counts (RFC 9113 sections 5.1.2 and 8.1).
                    self._connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
                    await self._flush()
                if answer.done.is_set() or self.closed.is_set():
                    return
                room = min(
                    self._connection.local_flow_control_window(stream_id), self._connection.max_outbound_frame_size
                )
                if room <= 0:
                    await self._window.park()
                    continue
                self._connection.send_data(stream_id, body[position : position + room])
                position += room
                await self._flush()
            if ends and not answer.done.is_set():
                self._connection.end_stream(stream_id)
                await self._flush()

    async def answer(self, stream_id: int) -> Http2Answer:
        """Wait for the answer of a stream. Raises :class:`Http2Error` when there will be none."""
        answer = self._answers[stream_id]
        await answer.done.wait()
        del self._answers[stream_id]
        if answer.error:
            raise Http2Error(answer.error)
        return answer

    async def read(self) -> None:
        """Handle what the server sends, until it closes."""
        reason = "the connection was closed"
        try:
            while data := await self._stream.receive_some(_CHUNK):
                for event in self._connection.receive_data(self._without_goaway(bytes(data))):
                    self._handle(event)
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except h2.exceptions.ProtocolError as error:
            reason = f"the connection broke the protocol: {error}"
        self.closed.set()
        self._window.unpark_all()
        for answer in self._answers.values():
            answer.error = answer.error or reason
            answer.done.set()

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames but GOAWAY, after which h2 would take no more; answers to what was asked before do come."""
        data = self._half_frame + data
        kept, position = [], 0
        while position + _FRAME_HEAD <= len(data):
            end = position + _FRAME_HEAD + int.from_bytes(data[position : position + 3], "big")
            if end > len(data):
                break
            if data[position + 3] == _GOAWAY:
                self.goaway.set()
            else:
                kept.append(data[position:end])
            position = end
        self._half_frame = data[position:]
        return b"".join(kept)

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window.unpark_all()
        answer = self._answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = {str(name): str(value) for name, value in event.headers}
            answer.status = int(answer.headers[":status"])
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.done.set()
            self._window.unpark_all()
        elif isinstance(event, h2.events.StreamReset):
            answer.error = f"the stream was reset ({event.error_code})"
            answer.done.set()
            self._window.unpark_all()

    async def _flush(self) -> None:
        async with self._sending:
            data = self._connection.data_to_send()
            if data:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(data)


@asynccontextmanager
async def http2_client(host: str, port: int, tls: ssl.SSLContext) -> AsyncIterator[Http2Client]:
    """Connect; ``tls`` must offer ``h2``."""
    stream = trio.SSLStream(
        await trio.open_tcp_stream(host, port), tls, server_hostname=host, https_compatible=True
    )  # fmt: skip
    client = Http2Client(stream, f"{host}:{port}")
    async with trio.open_nursery() as nursery:
        try:
            await client.start()
            if stream.selected_alpn_protocol() != "h2":
                raise Http2Error("the server does not speak HTTP/2")
            nursery.start_soon(client.read)
            yield client
        finally:
            await trio.aclose_forcefully(stream)
        # Not before the end of the block above: what is awaited there would raise Cancelled in place of an error.
        nursery.cancel_scope.cancel()
