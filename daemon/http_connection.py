"""One connection of an HTTP/1.1 server: sequential requests, each within limits (RFC 9112; h11 parses).

While a response is being made the connection is read: if the client disconnects, the handler is cancelled. So nothing
outlives the connection.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import h11
import trio

from daemon.http import Handler, HttpRequest, HttpResponse, Refuse, RequestError
from daemon.turns import TurnShare, TurnStream

_CHUNK: Final = 64 * 1024
_AHEAD: Final = 16 * 1024
"""Bytes of pipelined requests that are read before the current one is answered."""
_LAST_LOOK_SECONDS: Final = 0.2
"""Seconds to keep a connection without a request when the server drains: a request may be on its way."""
_LINGER_SECONDS: Final = 1.0
"""Seconds that the client may take to close after the last response: if its bytes arrived at a closed socket, the
connection would be reset, and the response might be lost (RFC 9112 section 9.6)."""
_DISCARD_SECONDS: Final = 5.0
"""The same for a client that has not sent its whole body: few read a response before."""
_DISCARD_BYTES: Final = 16 * 2**20

Stream = TurnStream | trio.SSLStream[TurnStream]
GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""Raised by reading and writing if the client has disconnected, or does not read."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of a server. Times are in seconds, sizes in bytes."""

    connections: int
    """Simultaneous connections. A further one takes the place of the oldest that has asked for nothing yet; if all have
    asked, it is closed without a response."""
    per_peer: int
    """Simultaneous connections per client address."""
    respond: float
    """From a request's head to the end of its handler."""
    handshake: float = 10.0
    handshakes: int = 50
    """Simultaneous TLS handshakes; each takes 60 KiB, three times as much as an established connection. Beyond it the
    oldest fails of the address that has the most."""
    handshakes_per_peer: int = 40
    """Of them, per client address. Further ones of it wait, until its oldest one seems stuck: then that one fails."""
    idle: float = 120.0
    """Until a connection's next request begins; longer than the keep-alive of Go's clients (90 s), so that they close
    first."""
    head: float = 10.0
    """From a request's first byte to the end of its head."""
    head_bytes: int = 16 * 1024
    body: float = 10.0
    """From a handler's request for the body to its end."""
    bodies_bytes: int = 64 * 2**20
    """Total of all buffered bodies; a request beyond it is answered 503, before memory runs out."""
    bodies_per_peer: int = 64 * 2**20
    """The same per client address."""
    short_body: int = 0
    """Bytes of a body up to which it is never refused for the others."""
    send: float = 10.0
    """Until the kernel has accepted the whole response."""
    keep_alive: bool = True
    """Whether a connection may carry several requests."""


@dataclass(slots=True)
class Shared:
    """State shared by the connections of one server."""

    limits: HttpLimits
    respond: Handler
    """Answers every request; raises nothing."""
    refuse: Refuse
    tls: Callable[[], ssl.SSLContext] | None = None
    """The context for new connections."""
    held: int = 0
    """Bytes of the currently buffered bodies."""
    held_of: Counter[str] = field(default_factory=Counter)
    """The same by client address."""
    leaving: bool = False
    """Whether each response ends its connection."""
    draining: bool = False
    """Whether idle connections end as well."""


class HttpConnection:
    """One connection. :meth:`run` serves it; the caller closes the stream."""

    def __init__(self, stream: Stream, shared: Shared, peer: str) -> None:
        self._stream = stream
        self._transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._share: TurnShare = self._transport.share
        self._shared = shared
        self._peer = peer
        self._limits = shared.limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=shared.limits.head_bytes)
        self.asked = False
        """Whether the head of a request has come."""
        self._client = _certificate_of(stream)
        self._idle: trio.CancelScope | None = None
        self._whole = trio.Event()
        """The current request has been read to its end."""
        self._held = 0

    async def run(self) -> None:
        """Answer requests until either side ends the connection."""
        try:
            while await self._exchange():
                self._http.start_next_cycle()
        except GONE:
            pass  # the client has disconnected

    def drain(self) -> None:
        """End the connection soon if it carries no request; ``shared.draining`` must be set."""
        if self._idle is not None:
            self._idle.deadline = min(self._idle.deadline, trio.current_time() + _LAST_LOOK_SECONDS)

    async def _exchange(self) -> bool:
        """Serve one request; return whether another may follow."""
        self._whole = trio.Event()
        if self._http.trailing_data[0]:
            await self._share.turn()  # each of many requests that came at once takes one
        try:
            head = await self._read_head()
        except h11.RemoteProtocolError as error:
            status, reason = error.error_status_hint, f"Not a request that can be answered: {error}"
            _let_go(error)
            return await self._send(self._shared.refuse(status, reason), last=True)
        except RequestError as error:
            return await self._send(self._shared.refuse(error.status, str(error)), last=True)
        if head is None:
            return False
        self.asked = True
        response = await self._response_to(head)
        if response is None:
            return False
        further = await self._send(response, head_only=head.method == b"HEAD")
        self._share.settle(useful=response.status < HTTPStatus.MULTIPLE_CHOICES)
        return further

    async def _read_head(self) -> h11.Request | None:
        """The next request; None at the end. Raises h11.RemoteProtocolError, :class:`RequestError`."""
        event = self._http.next_event()
        if event is h11.NEED_DATA and not self._http.trailing_data[0]:
            seconds = _LAST_LOOK_SECONDS if self._shared.draining else self._limits.idle
            with trio.move_on_after(seconds) as self._idle:
                await self._receive()
            timed_out, self._idle = self._idle.cancelled_caught, None
            if timed_out:
                return None
            event = self._http.next_event()
        with trio.move_on_after(self._limits.head):
            while event is h11.NEED_DATA:
                await self._receive()
                event = self._http.next_event()
            if not isinstance(event, h11.Request):
                return None
            if event.http_version not in (b"1.0", b"1.1"):
                raise RequestError(505, f"HTTP/{event.http_version.decode('ascii')} is not spoken here: use HTTP/1.1.")
            return event
        raise RequestError(408, f"The request's head did not come within {self._limits.head:g} s.")

    async def _response_to(self, head: h11.Request) -> HttpResponse | None:
        """The response; None if the client has disconnected."""
        path, _, query = head.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        declared = int(headers.get("content-length", 0))  # h11 has validated it
        method = head.method.decode("latin-1")
        body = partial(self._read_body, declared)
        request = HttpRequest(method, path, query, headers, body, self._client, self._share.client.name)
        if declared == 0 and "transfer-encoding" not in headers:
            self._skip()  # no body: the request ends with its head
        response = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
                response = await self._shared.respond(request)
                nursery.cancel_scope.cancel()
        finally:
            self._hold(-self._held)
        return response

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self._whole.wait()
        try:
            while len(self._http.trailing_data[0]) < _AHEAD:
                if not await self._receive(_AHEAD):
                    break
            else:
                return
        except GONE:
            pass
        scope.cancel()

    async def _read_body(self, declared: int, limit: int) -> bytes:
        """See :meth:`daemon.http.HttpRequest.body`."""
        with trio.move_on_after(self._limits.body):
            try:
                return await self._body(declared, limit)
            except h11.RemoteProtocolError as error:
                _let_go(error)
                raise RequestError(400, f"The body breaks off or is not HTTP: {error}") from None
            except GONE:
                raise RequestError(400, "The connection ended in the middle of the request.") from None
        raise RequestError(408, f"The body did not come within {self._limits.body:g} s.")

    async def _body(self, declared: int, limit: int) -> bytes:
        if self._whole.is_set():
            return b""
        too_long = RequestError(413, f"The body is longer than {limit} bytes.")
        if declared > limit:
            raise too_long
        whole = bytearray()  # not pieces to be joined: they would leave holes in the heap
        if self._http.they_are_waiting_for_100_continue:
            await self._stream.send_all(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                self._take(len(event.data))
                if self._held > limit:
                    raise too_long
                whole += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)  # h11 raises for an incomplete body
                self._whole.set()
                return bytes(whole)

    def _take(self, size: int) -> None:
        limits, shared = self._limits, self._shared
        full = shared.held + size > limits.bodies_bytes or shared.held_of[self._peer] + size > limits.bodies_per_peer
        if full and self._held + size > limits.short_body:
            raise RequestError(503, "Too much is being answered already. Try again.")
        self._hold(size)

    def _hold(self, size: int) -> None:
        self._held += size
        self._shared.held += size
        self._shared.held_of[self._peer] += size
        if not self._shared.held_of[self._peer]:
            del self._shared.held_of[self._peer]

    async def _send(self, response: HttpResponse, *, head_only: bool = False, last: bool = False) -> bool:
        """Return whether another request may follow. Raises one of :data:`GONE`."""
        self._skip()
        fields = [("content-type", response.content_type), ("content-length", str(len(response.body)))]
        fields.extend(response.headers)
        if last or self._ends_with_response():
            fields.append(("connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=fields)]
        if not head_only:
            events.append(h11.Data(data=response.body))
        events.append(h11.EndOfMessage())
        with trio.fail_after(self._limits.send):
            await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            return True
        await self._linger()
        return False

    def _ends_with_response(self) -> bool:
        ending = self._shared.leaving or not self._limits.keep_alive or not self._whole.is_set()
        return ending or (
            # Whom the authorities of now would not let in does not stay for having come before.
            isinstance(self._stream, trio.SSLStream)
            and self._shared.tls is not None
            and self._stream.context is not self._shared.tls()
        )

    def _skip(self) -> None:
        """Discard the received part of an unread body."""
        try:
            while not self._whole.is_set():
                event = self._http.next_event()
                if isinstance(event, h11.EndOfMessage):
                    self._whole.set()
                elif not isinstance(event, h11.Data):
                    return
        except h11.RemoteProtocolError as error:
            _let_go(error)  # the connection ends with the response

    async def _linger(self) -> None:
        """Shut down sending, and wait for the client to close."""
        with trio.move_on_after(_LINGER_SECONDS if self._whole.is_set() else _DISCARD_SECONDS):
            await self._transport.send_eof()
            left = _DISCARD_BYTES
            while left > 0 and (data := await self._transport.receive_some(_CHUNK)):
                left -= len(data)

    async def _receive(self, most: int = _CHUNK) -> bool:
        """Take in what comes; return whether anything did."""
        turns = self._share.had
        data = await self._stream.receive_some(most)
        if self._share.had == turns:
            await self._share.turn()  # what TLS had already: a peer may send very many small records at once
        self._http.receive_data(bytes(data))
        return bool(data)


def _certificate_of(stream: Stream) -> Mapping[str, Any] | None:
    """The verified certificate of the client, if it has shown one."""
    return (stream.getpeercert() or None) if isinstance(stream, trio.SSLStream) else None


def _let_go(error: h11.RemoteProtocolError) -> None:
    """Keep nothing of where an error was raised: h11 raises some from a method of theirs, so that they refer to
    themselves by their traceback, and with them the connection stays until garbage is collected."""
    error.__traceback__ = None
