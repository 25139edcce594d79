"""A WebSocket server: PORT. Greets whoever comes, then gives every message back until the client says "bye"."""

from __future__ import annotations

import sys

from websockets.sync.server import ServerConnection, serve

GREETINGS = 3


def chat(connection: ServerConnection) -> None:
    """Speak first, answer all, and end the connection properly."""
    for number in range(GREETINGS):
        connection.send(f"greeting {number}")
    for message in connection:
        if message == "bye":
            return
        connection.send(message)


with serve(chat, "127.0.0.1", int(sys.argv[1]), max_size=None) as server:
    server.serve_forever()
