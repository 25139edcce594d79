"""HTTP requests and responses as values, and the type of a handler. Pure."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The head of a request; its body is read on demand.

    ``path`` and ``query`` are as sent, without the question mark. Names of ``headers`` are in lower case; the last
    field of a name counts. ``client``: the client's certificate, as ``ssl.SSLSocket.getpeercert`` gives it; None if it
    has shown none, or was not asked for one. One that the server's authorities have not signed fails the handshake.
    ``sharer``: who has turns with whom (:mod:`daemon.turn_order`): the client's address, and its certificate.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    read_body: Callable[[int], Awaitable[bytes]]
    client: Mapping[str, Any] | None = None
    sharer: str = ""

    async def body(self, limit: int) -> bytes:
        """The whole body; call it once. Raises :class:`RequestError` if it is too long or incomplete."""
        return await self.read_body(limit)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status code, content type, body, and further header fields."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: int, text: str) -> HttpResponse:
        """A response with one or more lines of text."""
        return cls(status, TEXT, f"{text}\n".encode())

    @classmethod
    def json(cls, document: object) -> HttpResponse:
        """A response with a JSON document, indented for readability."""
        return cls(200, JSON, json.dumps(document, indent=2).encode() + b"\n")


class RequestError(Exception):
    """Ends a request with this status code. The message becomes the response."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers

    def __reduce__(self) -> tuple[type[RequestError], tuple[object, ...]]:
        return type(self), (self.status, str(self), *self.headers)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
Refuse = Callable[[int, str], HttpResponse]
"""Makes the response to a failed request from the status code and the reason."""
