"""One HTTP request and its answer, as handlers see them; :class:`Application` fits handlers to Hypercorn's interface.

Bodies are limited in size each and in all, and errors go out as Kubernetes writes them (``Status`` objects), since the
API server passes their message on to whoever created the Pod.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import trio

from daemon.log import Logger

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
MAX_BODIES: Final = 64 * 2**20
"""Bytes of all bodies held at once; what comes on top is answered 503, before memory runs out."""
MAX_DECODED: Final = 4 * 2**20
"""Bytes of the bodies that are decoded at once; others wait. As Python's objects a body can take 30 times its size, and
the chart allows the injector 256 MiB."""
_DISCARDED: Final = 16 * 2**20
"""Bytes of too long a body that are still read: few HTTP/1 clients look for an answer before they have sent all."""
_DISCARD_SECONDS: Final = 5.0

log = Logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code, body and content type."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, document: object) -> Answer:
        # ASCII: a lone surrogate, which JSON can escape and UTF-8 cannot hold, goes through.
        return cls(200, json.dumps(document, separators=(",", ":")).encode("ascii"))

    @classmethod
    def text(cls, status: int, text: str) -> Answer:
        return cls(status, f"{text}\n".encode(), TEXT)

    @classmethod
    def failure(cls, status: int, message: str, *headers: tuple[str, str]) -> Answer:
        """A Status object (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/)."""
        document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": HTTPStatus(status).phrase.replace(" ", ""),
            "code": status,
        }
        return cls(status, json.dumps(document).encode("ascii") + b"\n", JSON, headers)


class RefusedError(Exception):
    """Ends a request with an answer of its own."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.answer = Answer.failure(status, message, *headers)


Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any] | None], Awaitable[None]]


@dataclass(slots=True)
class BodyBudget:
    """Bytes of the bodies that are held now, and of those of them that are decoded."""

    held: int = 0
    _decoded: int = 0
    _waiting: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    @asynccontextmanager
    async def decoding(self, size: int) -> AsyncIterator[None]:
        """Decode and use a body inside the block. Waits for room beside the others; alone there is always enough."""
        while self._decoded and self._decoded + size > MAX_DECODED:
            await self._waiting.park()
        self._decoded += size
        try:
            yield
        finally:
            self._decoded -= size
            self._waiting.unpark_all()


@dataclass(slots=True)
class Request:
    """A request; its body is read on demand."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    _receive: Receive
    _budget: BodyBudget = field(default_factory=BodyBudget)
    _sends_all_first: bool = False
    _counted: int = 0

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises :class:`RefusedError` above ``limit`` bytes, or when the client is gone."""
        declared = self.headers.get("content-length", "")
        too_long = declared.isdecimal() and int(declared) > limit
        parts: list[bytes] = []
        while not too_long:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "The connection ended in the middle of the request.")
            part = message.get("body", b"")
            parts.append(part)
            self._count(len(part))
            if not message.get("more_body"):
                return b"".join(parts)
            too_long = self._counted > limit
        parts.clear()
        if self._sends_all_first:
            await self._discard()
        raise RefusedError(413, f"The body is longer than {limit} bytes.")

    def decoding(self) -> AbstractAsyncContextManager[None]:
        """To be held while the body is more than bytes (:meth:`BodyBudget.decoding`)."""
        return self._budget.decoding(self._counted)

    def done(self) -> None:
        """The body is no longer held."""
        self._budget.held -= self._counted
        self._counted = 0

    def _count(self, size: int) -> None:
        if self._budget.held + size > MAX_BODIES:
            raise RefusedError(503, "Too much is being answered already. Try again.")
        self._counted += size
        self._budget.held += size

    async def _discard(self) -> None:
        discarded = 0
        with trio.move_on_after(_DISCARD_SECONDS):
            while discarded < _DISCARDED:
                message = await self._receive()
                discarded += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


Handler = Callable[[Request], Awaitable[Answer]]


class Application:
    """Handlers by path, as the ASGI application that Hypercorn's protocols call. Whatever they do, it answers."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._budget = BodyBudget()
        self.leaving = False
        """Whether each answer by HTTP/1 is to end its connection: nothing else tells such a client to go elsewhere."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send, *_threads: object) -> None:
        """``_threads`` are Hypercorn's ways to call synchronous applications."""
        if scope["type"] != "http":
            return  # WebSockets: Hypercorn answers for an application that says nothing
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        http1 = scope["http_version"] != "2"
        request = Request(scope["method"], scope["path"], query, headers, receive, self._budget, http1)
        try:
            answer = await self._answer(request)
        finally:
            request.done()
        fields = [("content-type", answer.content_type), ("content-length", str(len(answer.body))), *answer.headers]
        if self.leaving and http1:
            fields.append(("connection", "close"))
        await send({
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in fields],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, request: Request) -> Answer:
        handler = self._handlers.get(request.path)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            return Answer.failure(404, f"There is no {request.path[:200]} here. Ask for {known}.")
        try:
            return await handler(request)
        except RefusedError as refusal:
            return refusal.answer
        except Exception as error:
            log.error("a request could not be answered", path=request.path, exc_info=error)
            return Answer.failure(500, "The injector failed; its log says why.")
