"""What the tests of the injector's server share: certificates, clients, an API server in memory, reviews."""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import trio
import trustme

from daemon.http import JSON, Handler, HttpRequest, HttpResponse
from daemon.http_server import HttpServer
from daemon.kubernetes.access import ApiAccess
from daemon.kubernetes.http_client import HttpAnswer, HttpClient
from injector.server.http import failure, open_listeners, webhook_limits
from injector.server.tls import ServerTls

HOST = "127.0.0.1"


def compact(document: object) -> HttpResponse:
    return HttpResponse(200, JSON, json.dumps(document).encode())


@cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@cache
def identity() -> tuple[bytes, bytes]:
    """Chain and key for the local host."""
    certificate = authority().issue_cert(HOST, "localhost", key_type=trustme.KeyType.ECDSA)
    return certificate.cert_chain_pems[0].bytes(), certificate.private_key_pem.bytes()


def trusting(*protocols: str) -> ssl.SSLContext:
    """A client's context that trusts :func:`authority` and offers these protocols."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def served() -> ServerTls:
    tls = ServerTls()
    tls.use(*identity())
    return tls


@asynccontextmanager
async def serving(handlers: Mapping[str, Handler], *, encrypted: bool = True) -> AsyncIterator[tuple[HttpServer, int]]:
    """A server of these handlers, and its port."""
    tls = served()
    server = HttpServer(handlers, webhook_limits(9.0), refuse=failure, tls=(lambda: tls.context) if encrypted else None)
    listeners = await open_listeners(HOST, 0, "port")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, listeners)
        yield server, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def http1(port: int, *, encrypted: bool = True) -> HttpClient:
    return HttpClient(HOST, port, trusting if encrypted else None, HOST)


async def raw(port: int, data: bytes) -> bytes:
    """Send bytes over TLS, and read until the server closes."""
    stream = trio.SSLStream(
        await trio.open_tcp_stream(HOST, port), trusting(), server_hostname=HOST, https_compatible=True
    )
    async with stream:
        await stream.send_all(data)
        return b"".join([bytes(chunk) async for chunk in stream])


def review(annotations: Mapping[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """An AdmissionReview of a small Pod that is to be injected."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-",
            "labels": {"podlane.io/inject": "true"},
            "annotations": dict(annotations or {}),
        },
        "spec": {"containers": [{"name": "web", "image": "nginx"}]},
    }
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "object": pod,
        **changes,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def held(document: Mapping[str, Any], *_rest: object) -> dict[str, Any]:
    """A reviewer that takes as long as nobody writes to the FIFO of the document."""
    if "fifo" in document:
        Path(document["fifo"]).read_text()
    return {"response": {"allowed": True}}


def body_of(document: object) -> bytes:
    return json.dumps(document).encode()


def document_of(answer: HttpAnswer | Any) -> Any:
    return json.loads(answer.body)


def patch_of(answer: HttpAnswer | Any) -> Any:
    return json.loads(base64.b64decode(document_of(answer)["response"]["patch"]))


class MemoryApi:
    """Objects by path, with the rules that matter here: resourceVersion, conflicts, merging by name, who may what.

    An API server in the sense of these rules only; tests/kube has a real one. ``before`` is called ahead of each
    request, with its method and path, so that a test can let somebody else be first.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.forbidden: set[str] = set()
        self.version = {"major": "1", "minor": "31+"}
        self.before: Callable[[str, str], None] = lambda _method, _path: None
        self._counter = 100

    def put(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Store as a new version."""
        self._counter += 1
        metadata = {**document.get("metadata", {}), "resourceVersion": str(self._counter)}
        self.objects[path] = json.loads(json.dumps({**document, "metadata": metadata}))
        return self.objects[path]

    def webhook(self, kind: str, name: str, *webhooks: str) -> str:
        """A webhook configuration; gives its path."""
        path = f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/{name}"
        made = [
            {"name": w, "clientConfig": {"service": {"name": "s", "path": "/x"}}, "sideEffects": "None"}
            for w in webhooks
        ]
        self.put(path, {"metadata": {"name": name}, "webhooks": made})
        return path

    async def handle(self, request: HttpRequest) -> HttpResponse:
        body = await request.body(2**22)
        self.requests.append((request.method, request.path, dict(request.headers)))
        self.before(request.method, request.path)
        if request.path == "/version":
            return compact(self.version)
        kind = re.sub(r".*/(\w+)/[^/]+$", r"\1", request.path)
        if f"{request.method} {kind}" in self.forbidden:
            return failure(403, f'User "robot" cannot do this to resource "{kind}"')
        stored = self.objects.get(request.path)
        if request.headers.get("content-type") == "application/apply-patch+yaml":
            assert request.query == "fieldManager=podlane-injector"
            return compact(self.put(request.path, {**(stored or {}), **json.loads(body)}))
        if stored is None:
            return failure(404, "not found")
        if request.method == "GET":
            return compact(stored)
        change = json.loads(body)
        wanted = change.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, stored["metadata"]["resourceVersion"]):
            return failure(409, "the object has been modified; please apply your changes to the latest version")
        if request.method == "PUT":
            return compact(self.put(request.path, change))
        assert request.headers["content-type"] == "application/strategic-merge-patch+json"
        merged = json.loads(json.dumps(stored))
        for item in change["webhooks"]:
            webhook = next(w for w in merged["webhooks"] if w["name"] == item["name"])
            webhook["clientConfig"].update(item["clientConfig"])
        return compact(self.put(request.path, merged))


class _Everything(dict[str, Handler]):
    """The same handler for every path."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def get(self, _path: str, _default: Any = None) -> Handler:
        return self._handler


@asynccontextmanager
async def api_server(api: MemoryApi) -> AsyncIterator[ApiAccess]:
    """Serve ``api`` over TLS; gives how to reach it."""
    async with serving(_Everything(api.handle)) as (_, port):
        yield ApiAccess(HOST, port, "", trusting, HOST, lambda: "token-1", "podlane", "the test")
