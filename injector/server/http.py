"""The injector's use of HTTP: listeners, limits, and error responses.

Errors are Kubernetes ``Status`` objects, since the API server passes their message on to the user who creates the Pod.
"""

from __future__ import annotations

import errno
import json
from http import HTTPStatus
from typing import Final

import trio

from daemon.http import JSON, HttpResponse
from daemon.http_connection import HttpLimits
from injector.errors import ListenError
from injector.server.budget import SHORT_BODY

_AFTER_DEADLINE: Final = 5.0
"""Seconds that the server allows a webhook beyond its own time limit, which ends it first."""

_BODIES_BYTES: Final = 16 * 2**20
"""Five bodies of the greatest size; few Pods have more than some kB ..."""
_BODIES_PER_PEER: Final = 8 * 2**20
"""... and no address has more than half of them."""

HEALTH_LIMITS: Final = HttpLimits(connections=64, per_peer=32, respond=10.0)
"""For the port of metrics and health: kubelets and Prometheus have a connection or two each."""


def webhook_limits(deadline: float) -> HttpLimits:
    """Limits of the webhooks' port. ``deadline``: seconds for the longest answer.

    An API server has at most 200 mutating requests in flight by default (``--max-mutating-requests-inflight``), and a
    connection for each; two servers may share one address.
    """
    return HttpLimits(
        connections=1000,
        per_peer=400,
        respond=deadline + _AFTER_DEADLINE,
        body=deadline,
        bodies_bytes=_BODIES_BYTES,
        bodies_per_peer=_BODIES_PER_PEER,
        short_body=SHORT_BODY,
    )


async def open_listeners(address: str, port: int, setting: str) -> list[trio.SocketListener]:
    """Listen on an address, or on all if it is empty. Raises :class:`ListenError` naming the setting."""
    try:
        return await trio.open_tcp_listeners(port, host=address or None)
    except OSError as error:
        place = f"port {port}" if not address else f"{address} port {port}"
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{place} is taken. Choose another with --{setting}.") from None
        raise ListenError(
            f"The server cannot listen on {place}: {error.strerror or error}. Choose another with --{setting}, "
            "or an address of this machine with --address."
        ) from None


def failure(status: int, message: str) -> HttpResponse:
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
    return HttpResponse(status, JSON, json.dumps(document).encode("ascii") + b"\n")
