"""Sends one request to the admin server of a sidecar."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Final

_TIMEOUT: Final = 2.0
"""Seconds for one answer; a sidecar needs milliseconds."""
_MOST: Final = 1 << 24
"""Maximum bytes of an answer; 255 classes, or 5,000 connections, are 2 MiB at most."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The loopback addresses to connect to if the admin server listens on all addresses."""


class NoAnswerError(Exception):
    """No server answers; the message has the reason, without address or remedy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body."""

    status: int
    body: bytes

    @property
    def begins(self) -> str:
        """The first line, shortened, for a message."""
        return self.body[:200].decode(errors="replace").strip()


def ask(host: str, port: int, path: str, timeout: float = _TIMEOUT) -> Answer:
    """GET ``path``; ``timeout`` in seconds. Raises :class:`NoAnswerError`."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(_MOST))
    except (OSError, http.client.HTTPException) as error:
        told = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise NoAnswerError(told) from None
    finally:
        connection.close()


def reachable(address: str) -> str:
    """The address to connect to if a server listens on ``address``: for all addresses, that of the loopback
    interface."""
    return _ANY.get(address, address)
