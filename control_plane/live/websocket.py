"""How WebSockets of this server are bounded, whoever is at their other end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from control_plane.live.messages import LONGEST

_BUFFER: Final = 65_536
"""Bytes that may wait for a viewer here, before the frame that is sent last; the kernel has as much."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's, with small buffers, and without pongs for who does not take what it is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(_BUFFER)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def handle_ping(self) -> None:
        # The pong is there already, and nothing else: all others take theirs at once.
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)


WEBSOCKETS: Final[dict[str, Any]] = {
    "ws": BoundedWebSocket,
    "ws_max_size": LONGEST,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    # A context of zlib for each viewer is more memory than all else that it has.
    "ws_per_message_deflate": False,
}
"""For :class:`uvicorn.Config`."""
