"""The client of the load: HTTP/1.1 with connections kept alive, as API servers ask Services.

Go's client takes an idle connection where there is one, and opens another where there is none; so does this one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from daemon.kubernetes.http_client import HttpAnswer, HttpClient

HOST: Final = "127.0.0.1"
_JSON: Final = {"content-type": "application/json"}


class Client:
    """Can be asked many times at once. It has as many connections: a client of one connection for each."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._idle: list[HttpClient] = []

    async def ask(self, method: str, target: str, body: bytes) -> HttpAnswer:
        """Raises :class:`daemon.kubernetes.http_client.HttpError` when there is no answer."""
        client = self._idle.pop() if self._idle else HttpClient(HOST, self._port, lambda: self._context, HOST)
        answer = await client.request(method, target, _JSON, body)  # one that fails leaves no connection to keep
        self._idle.append(client)
        return answer

    async def aclose(self) -> None:
        """Close all connections."""
        for each in self._idle:
            await each.aclose()


@asynccontextmanager
async def connected(port: int, authority: bytes) -> AsyncIterator[Client]:
    """A client of a server on this host. ``authority``: PEM to trust."""
    client = Client(port, ssl.create_default_context(cadata=authority.decode("ascii")))
    try:
        yield client
    finally:
        await client.aclose()
