"""Tells of requests that may change something."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.service import ControlPlane

_READS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_LONGEST: Final = 200
"""Characters of a path, which anybody may send."""


class TracedRequests:
    """A middleware."""

    def __init__(self, app: ASGIApp, plane: ControlPlane) -> None:
        self._app = app
        self._plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"").decode("latin-1")
        with self._plane.traces.request(scope["method"], scope["path"][:_LONGEST], parent):
            await self._app(scope, receive, send)
