"""One question to the admin server of a sidecar."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Final

ADMIN_ADDRESS: Final = "127.0.0.1"
ADMIN_PORT: Final = 15109
"""Where a sidecar's admin server listens unless told otherwise (:mod:`sidecar.config.settings`, too heavy to import
here)."""
_TIMEOUT: Final = 2.0
"""Seconds for one answer; a sidecar gives it in milliseconds."""
_MOST: Final = 1 << 24
"""Bytes of an answer; 255 classes, or 5,000 connections, are 2 MiB at most."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to ask when the admin server listens on all addresses."""


class NoAnswerError(Exception):
    """Nothing answers; the text is the reason, without address or remedy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body."""

    status: int
    body: bytes

    @property
    def begins(self) -> str:
        """The first line or so, for a message."""
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
    """The address to ask when a server listens on ``address``: of all addresses, that of the loopback interface."""
    return _ANY.get(address, address)
