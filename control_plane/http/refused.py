"""Has the requests noted that are refused."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.access.refusals import RefusalRecorder
from control_plane.domain.access import TokenText, without_secrets
from control_plane.service import Caller, ControlPlane
from control_plane.store.refusals import RefusedRequest

_ALWAYS: Final = (401, 403, 429)
_READING: Final = ("GET", "HEAD", "OPTIONS")
_CHECKS: Final = ("/v1/validate", "/v1/try-connection")
"""They change nothing, though each is a POST."""
_LONGEST: Final = 300


class RefusalNotes:
    """Middleware around all else. Notes who may not, and what was to be changed and was not, for whatever reason."""

    def __init__(self, app: ASGIApp, plane: ControlPlane, recorder: RefusalRecorder) -> None:
        self._app = app
        self._plane = plane
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        status = 0
        body = bytearray()

        async def watch(message: Message) -> None:
            nonlocal status
            # A WebSocket that is refused before it is open gets a response, too (extension websocket.http.response).
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif _is_noted(scope, status):
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    # Before it is sent: whoever has the answer finds the note.
                    self._note(scope, state.get("caller"), status, bytes(body))
            await send(message)

        await self._app(scope, receive, watch)

    def _note(self, scope: Scope, caller: Caller | None, status: int, body: bytes) -> None:
        headers = Headers(scope=scope)
        problem: dict[str, Any] = json.loads(body) if body else {}
        path = scope["path"]
        parts = path.split("/")
        self._recorder.note(
            RefusedRequest(
                tenant=parts[3] if path.startswith("/v1/tenants/") else "",
                at=self._plane.now_ms,
                author=caller.author if caller else _claimed(headers.get("authorization", "")),
                known=caller is not None,
                address=scope["client"][0] if scope.get("client") else "",
                operation=_told(f"{_method(scope)} {path}"),
                status=status,
                problem=problem.get("type", "").rpartition(":")[2],
                detail=_told(problem.get("detail", "")),
                reason=_told(headers.get("podlane-reason", "").encode("latin-1").decode(errors="replace")),
            )
        )


def _is_noted(scope: Scope, status: int) -> bool:
    changing = _method(scope) not in _READING and scope["path"] not in _CHECKS
    return status in _ALWAYS or (changing and 400 <= status < 500)


def _method(scope: Scope) -> str:
    method: str = scope.get("method", "GET")  # a WebSocket begins with a GET
    return method


def _claimed(authorization: str) -> str:
    """Whose token it would be, if it were one. Its id is no secret."""
    token = TokenText.parse(authorization.partition(" ")[2].strip())
    return f"{token.tenant}/{token.id}" if token else ""


def _told(text: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return without_secrets(plain)[:_LONGEST]
