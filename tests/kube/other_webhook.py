"""Somebody else's mutating webhook: a real HTTPS server of this test, called by URL, that changes Pods as it is told."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme
from cluster import Cluster

Change = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""From a Pod to the JSON patch (RFC 6902) for it."""


def _configuration(name: str, url: str, authority: bytes, reinvoked: str) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "pods.example.com",
                "clientConfig": {"url": url, "caBundle": base64.b64encode(authority).decode()},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"other": name}},
                "reinvocationPolicy": reinvoked,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 5,
            }
        ],
    }


@contextmanager
def other_webhook(cluster: Cluster, name: str, change: Change, reinvoked: str = "Never") -> Iterator[list[list[str]]]:
    """Have a webhook of this name called for Pods in namespaces with the label ``other: NAME``.

    Gives, call by call, the init containers and containers that it was shown.
    """
    seen: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            shown = review["request"]["object"]
            seen.append([c["name"] for key in ("initContainers", "containers") for c in shown["spec"].get(key, [])])
            patch = base64.b64encode(json.dumps(change(shown)).encode()).decode()
            review["response"] = {
                "uid": review.pop("request")["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch,
            }  # fmt: skip
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{server.server_port}/"
    cluster.kubectl.create(_configuration(name, url, authority.cert_pem.bytes(), reinvoked))
    try:
        yield seen
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", name)
        server.shutdown()
        thread.join()
        server.server_close()
