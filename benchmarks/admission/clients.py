"""The client of the load: HTTP/1.1 with connections kept alive, as API servers ask Services.

Where no connection is idle, Go's client opens one, and takes whatever comes first: that one, or another that has
become idle meanwhile (net/http/transport.go, ``getConn``). So does this one. Without that, a moment's crowd would make
requests wait for handshakes while connections are idle.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from daemon.kubernetes.http_client import HttpAnswer, HttpClient, HttpError

HOST: Final = "127.0.0.1"
_JSON: Final = {"content-type": "application/json"}


@dataclass(eq=False)
class _Waiting:
    """A request without a connection."""

    found: HttpClient | HttpError | None = None
    some: trio.Event = field(default_factory=trio.Event)

    def give(self, found: HttpClient | HttpError) -> None:
        self.found = found
        self.some.set()


class Client:
    """Can be asked many times at once. It has as many connections: a client of one connection for each."""

    def __init__(self, port: int, context: ssl.SSLContext, nursery: trio.Nursery) -> None:
        """Connections are opened in ``nursery``."""
        self._port = port
        self._context = context
        self._nursery = nursery
        self._idle: list[HttpClient] = []
        self._waiting: deque[_Waiting] = deque()
        """Those that have waited longest first."""

    async def ask(self, method: str, target: str, body: bytes) -> HttpAnswer:
        """Raises :class:`daemon.kubernetes.http_client.HttpError` when there is no answer."""
        client = self._idle.pop() if self._idle else await self._another()
        answer = await client.request(method, target, _JSON, body)  # one that fails leaves no connection to keep
        self._release(client)
        return answer

    async def _another(self) -> HttpClient:
        waiting = _Waiting()
        self._waiting.append(waiting)
        self._nursery.start_soon(self._open, waiting)
        try:
            await waiting.some.wait()
        except trio.Cancelled:
            if isinstance(waiting.found, HttpClient):
                self._release(waiting.found)
            else:
                self._waiting.remove(waiting)
            raise
        if isinstance(waiting.found, HttpError):
            raise waiting.found
        assert waiting.found is not None, "it has been told"
        return waiting.found

    async def _open(self, waiting: _Waiting) -> None:
        client = HttpClient(HOST, self._port, lambda: self._context, HOST)
        try:
            await client.connect()
        except HttpError as error:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                waiting.give(error)
        else:
            self._release(client)

    def _release(self, client: HttpClient) -> None:
        if self._waiting:
            self._waiting.popleft().give(client)
        else:
            self._idle.append(client)

    async def aclose(self) -> None:
        """Close all connections."""
        for each in self._idle:
            await each.aclose()


@asynccontextmanager
async def connected(port: int, authority: bytes) -> AsyncIterator[Client]:
    """A client of a server on this host. ``authority``: PEM to trust."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        client = Client(port, ssl.create_default_context(cadata=authority.decode("ascii")), nursery)
        try:
            yield client
        except Exception as error:  # noqa: BLE001 (raised below: the nursery would make a group of it)
            failure = error
        finally:
            await client.aclose()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
