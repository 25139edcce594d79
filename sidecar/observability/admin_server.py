"""The admin server: ``/metrics``, ``/healthz``, ``/classes`` and others over HTTP/1.1, read only.

It runs in the proxy's own event loop, so that an answer proves that the loop runs: a health check answered by another
thread would stay green while the proxy hangs. Each connection serves one request, as scrapers and kubelets connect
rarely.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qsl

import trio

from daemon.http import HttpRequest, HttpResponse, RequestError
from daemon.http_connection import HttpLimits
from daemon.http_server import HttpServer
from datapath.errors import PortInUseError

_LIMITS: Final = HttpLimits(
    connections=32, per_peer=32, handshake=5.0, idle=5.0, head=5.0, respond=5.0, send=5.0, keep_alive=False
)
"""Maximum connections: scrapers and kubelets are few, and the descriptors are for the proxy's connections."""

Reply = HttpResponse
Query = Mapping[str, str]
"""The query parameters; the last one of a name counts."""
Handler = Callable[[Query], Reply | Awaitable[Reply]]


class QueryError(Exception):
    """The query is invalid; the message, which becomes the answer, has the reason and the valid values."""


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
    """Serve on open listeners until cancelled, then close them."""
    await HttpServer({path: partial(_read_only, each) for path, each in handlers.items()}, _LIMITS).run(listeners)


async def _read_only(handler: Handler, request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        raise RequestError(405, "Nothing can be changed here: use GET.")
    try:
        reply = handler(dict(parse_qsl(request.query, keep_blank_values=True)))
        return reply if isinstance(reply, HttpResponse) else await reply
    except QueryError as error:
        raise RequestError(400, str(error)) from None
