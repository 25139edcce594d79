"""Types shared by the request splitters of HTTP/1 and HTTP/2."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, Protocol


class Beyond(enum.Enum):
    """Why no further requests are reported."""

    AMBIGUOUS = "ambiguous"
    """Request boundaries are ambiguous."""


AMBIGUOUS: Final = Beyond.AMBIGUOUS


class Request(NamedTuple):
    """A request, by its ``host`` in comparable form; None when it names none."""

    host: str | None
    method: bytes = b""
    """Of HTTP/1, where the answer depends on it."""
    upgrade: bool = False
    """Whether it has a field Upgrade."""


class Piece(NamedTuple):
    """Bytes of the stream, and what they begin with: a request, something beyond following, or (None) nothing new."""

    data: bytes
    begins: Request | Beyond | None = None


class Cutter(Protocol):
    """Splits a client's stream where requests begin. Returns every byte unaltered, in order."""

    @property
    def idle_work(self) -> int:
        """How much of the stream so far has neither asked for nor carried anything: in HTTP/2 one for each PING, ten
        for other such frames. What ordinary clients send in any number does not count."""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that can be given back now."""

    def finish(self) -> bytes:
        """The stream has ended: what was held back."""
