"""The admin server: ``/metrics``, ``/healthz``, ``/classes`` and others over HTTP/1.1, read only.

It runs in the proxy's own event loop, so that an answer proves that the loop runs: a health check answered by another
thread would stay green while the proxy hangs. Each connection serves one request, as scrapers and kubelets connect
rarely.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from socket import socket
from typing import Final
from urllib.parse import parse_qsl

import trio

from daemon.errors import PortInUseError
from daemon.http import HttpRequest, HttpResponse, RequestError
from daemon.http_connection import HttpLimits
from daemon.http_server import HttpServer
from daemon.log import Logger
from traffic_policy.errors import PodlaneError

_LIMITS: Final = HttpLimits(
    connections=32, per_peer=32, handshake=5.0, idle=5.0, head=5.0, respond=5.0, send=5.0, keep_alive=False
)
"""Maximum connections: scrapers and kubelets are few, and the descriptors are for the proxy's connections."""

_AGAIN_S: Final = 2.0
"""Seconds between two attempts to get the port."""

log = Logger()

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
    holder_of: Callable[[int], str],
    inherited: Sequence[socket] = (),
    on_open: Callable[[Sequence[int]], None] = lambda _: None,
    *,
    task_status: trio.TaskStatus[int | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the port it listens on.

    If another program has the port, this is logged, None is reported, and it is tried every few seconds: nothing else
    must depend on that program. ``holder_of`` says in words who has a port, and may block. ``inherited`` are an earlier
    process's listeners, to use instead of new ones; ``on_open`` is called with the descriptors of new ones. Raises
    :class:`PortInUseError` if ``address`` is not one of this machine.
    """
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in inherited]
    waits = False
    while not listeners:
        try:
            listeners = await trio.open_tcp_listeners(port, host=address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PortInUseError(
                    f"The admin server cannot listen on {address}:{port}: {error.strerror or error}. "
                    "Choose an address of this machine with --admin-address."
                ) from None
            if not waits:
                waits = True
                log.error(
                    "the admin port is taken: no metrics and no /healthz until it is free",
                    address=f"{address}:{port}",
                    by=await trio.to_thread.run_sync(holder_of, port),
                    remedy="stop that program, or choose another port with --admin-port, 0 for none",
                )
                task_status.started(None)
            await trio.sleep(_AGAIN_S)
        else:
            on_open([each.socket.fileno() for each in listeners])
    listening_on: int = listeners[0].socket.getsockname()[1]
    if waits:
        log.info("the admin server listens", port=listening_on)
    else:
        task_status.started(listening_on)
    await HttpServer({path: partial(_read_only, each) for path, each in handlers.items()}, _LIMITS).run(listeners)


async def _read_only(handler: Handler, request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        raise RequestError(405, "Nothing can be changed here: use GET.")
    try:
        reply = handler(dict(parse_qsl(request.query, keep_blank_values=True)))
        return reply if isinstance(reply, HttpResponse) else await reply
    except QueryError as error:
        raise RequestError(400, str(error)) from None
    except PodlaneError as error:  # what the kernel refuses at present
        raise RequestError(503, str(error)) from None
