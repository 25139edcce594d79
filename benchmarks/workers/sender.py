"""Sends without end, as an HTTP/1 upload: ``sender ADDRESS PORT HOST CONNECTIONS``; a line when all are connected."""

from __future__ import annotations

import selectors
import socket
import sys

_BLOCK = bytes(1 << 17)


def main(address: str, port: int, host: str, connections: int) -> None:
    """Send until killed, or until every connection has failed."""
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000000\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = socket.create_connection((address, port), 10)
        connection.sendall(head)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_WRITE)
    print("sending", flush=True)  # noqa: T201 (the line that the harness waits for)
    while selector.get_map():
        for key, _ in selector.select():
            connection = key.fileobj  # type: ignore[assignment]
            try:
                connection.send(_BLOCK)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(connection)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
