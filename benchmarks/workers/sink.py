"""Takes what is sent to some ports and counts it: ``sink PORT [PORT ...]``.

A connection whose first bytes are ``COUNT`` gets the bytes that have arrived on that port so far, as a line, for every
line it sends. All other connections are read to their end.
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections import Counter

_BLOCK = 1 << 18
ASK = b"COUNT\n"


def main(ports: list[int]) -> None:
    """Serve until killed."""
    selector = selectors.DefaultSelector()
    received: Counter[int] = Counter()
    buffer = memoryview(bytearray(_BLOCK))
    for port in ports:
        listener = socket.create_server(("", port), backlog=1024)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, ("listener", port))
    while True:
        for key, _ in selector.select():
            kind, port = key.data
            if kind == "listener":
                connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, ("connection", port))
                continue
            connection = key.fileobj
            try:
                count = connection.recv_into(buffer)  # type: ignore[union-attr]
            except BlockingIOError:
                continue
            except OSError:
                count = 0
            if not count:
                selector.unregister(connection)
                connection.close()  # type: ignore[union-attr]
            elif buffer[:count] == ASK:
                connection.sendall(f"{received[port]}\n".encode())  # type: ignore[union-attr]
            else:
                received[port] += count


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
