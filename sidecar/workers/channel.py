"""One end of a socket pair that carries messages."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar

import trio

from sidecar.workers.messages import ToMain, ToWorker, Unframer, frame

_CHUNK: Final = 1 << 16

Sent = TypeVar("Sent", ToWorker, ToMain)
Received = TypeVar("Received", ToWorker, ToMain)

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
"""The peer has closed."""


class Channel(Generic[Sent, Received]):
    """Sends and receives messages. One task may send while another receives."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._unframer = Unframer()
        self._received: deque[Received] = deque()

    async def send(self, message: Sent) -> None:
        """Send a message. Raises one of :data:`GONE` if the peer has closed."""
        await self._stream.send_all(frame(message))

    async def receive(self) -> Received | None:
        """The next message; None at end of file. (A truncated frame is not a message.)"""
        while not self._received:
            try:
                data = await self._stream.receive_some(_CHUNK)
            except GONE:
                return None
            if not data:
                return None
            self._received.extend(self._unframer.feed(data))
        return self._received.popleft()

    async def send_eof(self) -> None:
        """Shut down sending."""
        with suppress(*GONE, trio.BusyResourceError):
            await self._stream.send_eof()

    def close(self) -> None:
        """Close this end."""
        self._stream.socket.close()
