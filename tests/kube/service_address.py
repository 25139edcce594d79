"""One address for several servers, as a Service has: what kube-proxy does on a node, connection by connection."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER by which close(2) resets a connection."""
_CHUNK: Final = 65536
_PATIENCE: Final = 10.0
"""Seconds to open a listening socket."""


class ServiceAddress:
    """An address whose connections go to the ``endpoints`` in turn; without any they are reset."""

    def __init__(self) -> None:
        self.endpoints: tuple[int, ...] = ()
        """Ports of 127.0.0.1. A change is about new connections only."""
        self.connections: list[int] = []
        """Which endpoint each connection so far has gone to."""
        self._open: set[asyncio.StreamWriter] = set()
        self._place: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def listen(self, host: str, port: int) -> None:
        """Be at this address of this machine, and at no other any more. Raises OSError."""
        if self._place != (host, port):
            asyncio.run_coroutine_threadsafe(self._move(host, port), self._loop).result(_PATIENCE)
            self._place = host, port

    def cut(self) -> None:
        """Reset all connections that there are."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in tuple(self._open):
            _reset(writer)

    async def _move(self, host: str, port: int) -> None:
        if self._server is not None:
            self._server.close()
            self._place = self._server = None
        self._server = await asyncio.start_server(self._serve, host, port)

    def _run(self) -> None:
        self._loop.run_forever()
        if self._server is not None:
            self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoints = self.endpoints
        if not endpoints:
            _reset(writer)
            return
        endpoint = endpoints[len(self.connections) % len(endpoints)]
        self.connections.append(endpoint)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", endpoint)
        except OSError:
            _reset(writer)
            return
        self._open |= {writer, back}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, back))
                both.create_task(_copy(there, writer))
        finally:
            self._open -= {writer, back}
            back.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end; a reset on one side is one on the other."""
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
