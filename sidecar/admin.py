"""The admin server: ``/metrics``, ``/healthz``, ``/classes`` and others over HTTP/1.1, read only.

It runs in the proxy's own event loop, so that an answer proves that the loop turns: a health check answered by another
thread would stay green while the proxy hangs. Each connection serves one request; scrapers and kubelets ask rarely.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

import h11
import trio

from daemon.log import Logger
from sidecar.errors import PortInUseError

_MAX_HEADER: Final = 16 * 1024
_REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a whole request and its answer: a stuck scraper must not hold a task for ever."""
_MAX_CLIENTS: Final = 32
"""Clients served at once: scrapers and kubelets are few, and the descriptors are for the connections."""

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"

log = Logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status code, content type, body."""

    status: int
    content_type: str
    body: bytes

    @classmethod
    def text(cls, status: int, text: str) -> Reply:
        return cls(status, TEXT, f"{text}\n".encode())

    @classmethod
    def json(cls, document: object) -> Reply:
        return cls(200, JSON, json.dumps(document, indent=2).encode() + b"\n")


Query = Mapping[str, str]
"""What follows the question mark of a path; the last one of a name counts."""
Handler = Callable[[Query], Reply | Awaitable[Reply]]


class QueryError(Exception):
    """The query cannot be answered; the text says why and what can be asked. It becomes the answer."""


async def serve_admin(
    address: str,
    port: int,
    handlers: dict[str, Handler],
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the port it listens on. Raises :class:`PortInUseError`."""
    listeners = await open_admin(address, port)
    task_status.started(listeners[0].socket.getsockname()[1])
    await serve_admin_on(listeners, handlers)


async def open_admin(address: str, port: int) -> list[trio.SocketListener]:
    """Listen. Raises :class:`PortInUseError`."""
    try:
        return await trio.open_tcp_listeners(port, host=address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"The admin port {address}:{port} is taken. Choose another with --admin-port, or 0 for none."
            ) from None
        raise PortInUseError(
            f"The admin server cannot listen on {address}:{port}: {error.strerror or error}. "
            "Choose an address of this machine with --admin-address."
        ) from None


async def serve_admin_on(listeners: list[trio.SocketListener], handlers: dict[str, Handler]) -> None:
    """Serve on listeners that are open until cancelled; they are closed then."""
    places = trio.Semaphore(_MAX_CLIENTS)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            await _serve_one(handlers, stream)
        finally:
            places.release()

    await trio.serve_listeners(serve, listeners)


async def _serve_one(handlers: dict[str, Handler], stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER)
    try:
        with trio.move_on_after(_REQUEST_TIMEOUT):
            head_only = False
            try:
                request = await _read_request(connection, stream)
                if request is None:
                    return
                head_only = request.method == b"HEAD"
                reply = await _answer(handlers, request)
            except h11.RemoteProtocolError as error:
                reply = Reply.text(error.error_status_hint, f"Not a request that can be answered: {error}")
            await stream.send_all(_encode(connection, reply, head_only=head_only))
            await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away; nobody is left to tell
    finally:
        await trio.aclose_forcefully(stream)


async def _read_request(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(_MAX_HEADER))


async def _answer(handlers: dict[str, Handler], request: h11.Request) -> Reply:
    path, _, query = request.target.decode("ascii", "replace").partition("?")
    handler = handlers.get(path)
    if handler is None:
        return Reply.text(404, f"There is no {path} here. Ask for {', '.join(sorted(handlers))}.")
    if request.method not in (b"GET", b"HEAD"):
        return Reply.text(405, "Nothing can be changed here: use GET.")
    try:
        reply = handler(dict(parse_qsl(query, keep_blank_values=True)))
        return reply if isinstance(reply, Reply) else await reply
    except QueryError as error:
        return Reply.text(400, str(error))
    except Exception as error:
        log.error("the admin server cannot answer", path=path, exc_info=error)
        return Reply.text(500, "This answer failed; the log says why.")


def _encode(connection: h11.Connection, reply: Reply, *, head_only: bool) -> bytes:
    headers = [
        ("content-type", reply.content_type),
        ("content-length", str(len(reply.body))),
        ("connection", "close"),
    ]
    data = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=reply.body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")
