"""Messages in the body of a gRPC call: a byte for compression, four of length, the message.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message". Compression is not offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

HEADER: Final = 5


class FramingError(Exception):
    """What was sent is no message, or one that is too large. ``status`` is gRPC's code for it."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def frame(message: bytes) -> bytes:
    """A message with its header."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class GrpcUnframer:
    """Finds the messages in bytes that come in pieces of any size. Keeps one message at most."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, limit: int) -> None:
        """``limit`` is the size of a message, in bytes, from which on it is refused, before it was sent."""
        self._limit = limit
        self._bytes = bytearray()

    @property
    def between(self) -> bool:
        """Whether no message has begun."""
        return not self._bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete with these bytes. Raises :class:`FramingError`."""
        held = self._bytes
        held += data
        at = 0
        while len(held) - at >= HEADER:
            if held[at]:
                raise FramingError(12, "Messages must not be compressed.")  # UNIMPLEMENTED
            size = int.from_bytes(held[at + 1 : at + HEADER], "big")
            if size > self._limit:
                raise FramingError(8, f"A message of {size} bytes is too large: {self._limit} at most.")
            end = at + HEADER + size
            if len(held) < end:
                break
            message = bytes(held[at + HEADER : end])
            at = end
            yield message
        del held[:at]
