"""The pages for browsers: files that `make web` has built, served from memory with a strict Content-Security-Policy."""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.http.context import SESSION_COOKIE

FOLDER: Final = Path(__file__).resolve().parent / "web_files"
_NOT_PAGES: Final = ("/v1/", "/api/", "/assets/", "/openapi.json", "/healthz")
_NONCE: Final = b"PODLANE_NONCE"
"""In index.html, where the nonce of this very response has to be."""
_SESSION: Final = b"PODLANE_SESSION"
"""There, where yes or no has to be: whether the browser has a session's cookie, which its scripts cannot see."""
_PAGES: Final = "/pages.json"
"""Which files a tenant's page consists of, by its address below the tenant: written when pages are built."""
_YEAR: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_PACKED: Final = frozenset({".png", ".woff2"})
"""Compressed already."""
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'nonce-{nonce}'",
        "font-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MISSING: Final = """\
The control plane works. Its pages were not built into this installation: `make web` in Podlane's source builds them,
which needs Node.js and npm; packages and images that are released have them. Meanwhile there are `podlane login` and
/openapi.json.
"""


@dataclass(eq=False)
class _WebFile:
    content: bytes
    suffix: str

    @cached_property
    def packed(self) -> bytes | None:
        return None if self.suffix in _PACKED else gzip.compress(self.content, 9, mtime=0)


class WebFiles:
    """What answers paths that no route has: pages, and ``otherwise`` all else."""

    def __init__(self, otherwise: ASGIApp, folder: Path = FOLDER) -> None:
        self._otherwise = otherwise
        # By name, so that no path can lead out of the folder.
        self._files = {
            f"/{path.relative_to(folder).as_posix()}": _WebFile(path.read_bytes(), path.suffix)
            for path in folder.rglob("*")
            if path.is_file()
        }
        pages = self._files.pop(_PAGES, None)
        self._links = _links(json.loads(pages.content)) if pages is not None else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._answer(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        await (response or self._otherwise)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        path = scope["path"]
        found = self._files.get(path)
        if found is not None and path != "/index.html":
            return self._file(found, Headers(scope=scope), _YEAR if path.startswith("/assets/") else "no-cache")
        if path.startswith(_NOT_PAGES) or path == "/v1":
            return None
        page = self._files.get("/index.html")
        if page is None:
            return PlainTextResponse(_MISSING, 404, _SAFE) if path == "/" else None
        # A page of ours, by the router in it, which also says what there is not.
        nonce = secrets.token_urlsafe(16)
        headers = {**_SAFE, "Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        if (name := _page_of(path)) is not None and (link := self._links.get(name)):
            headers["Link"] = link
        session = b"yes" if SESSION_COOKIE in Request(scope).cookies else b"no"
        content = page.content.replace(_NONCE, nonce.encode()).replace(_SESSION, session)
        return Response(content, 200, headers, _TYPES[".html"])

    @staticmethod
    def _file(found: _WebFile, asked: Headers, caching: str) -> Response:
        headers = {**_SAFE, "Cache-Control": caching}
        content = found.content
        if found.packed is not None:
            headers["Vary"] = "Accept-Encoding"
            if "gzip" in asked.get("accept-encoding", ""):
                content, headers["Content-Encoding"] = found.packed, "gzip"
        return Response(content, 200, headers, _TYPES.get(found.suffix, "application/octet-stream"))


def _links(pages: Mapping[str, list[str]]) -> dict[str, str]:
    """What has browsers load files before a script asks for them (https://www.rfc-editor.org/rfc/rfc8288)."""
    kinds = {".js": "rel=modulepreload", ".css": "rel=preload; as=style"}
    return {
        page: ", ".join(f"<{name}>; {kinds[Path(name).suffix]}; crossorigin" for name in names)
        for page, names in pages.items()
    }


def _page_of(path: str) -> str | None:
    """As the files of pages are listed by: /t/TENANT/policies/NAME is policies/*."""
    match path.rstrip("/").split("/"):
        case ["", "t", _]:
            return ""
        case ["", "t", _, page]:
            return page
        case ["", "t", _, page, _]:
            return f"{page}/*"
        case _:
            return None
