"""A client that sends without end, as fast as it can or a little at a time, until its standard input ends.

    stream.py ADDRESS PORT HOST PAUSE

``HOST``, if not empty, is in the HTTP/1 head that comes first. ``PAUSE`` is in seconds, between packets of 200 bytes; with
0 it sends as fast as it can. Then it half-closes and waits for the server to say how many bytes it got, prints how many
that is less than what was sent, and ends with 0 when nothing went wrong.
"""

from __future__ import annotations

import select
import socket
import sys


def main(address: str, port: int, host: str, pause: float) -> None:
    """Send, half-close, compare."""
    with socket.create_connection((address, port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        first = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000000\r\n\r\n".encode() if host else b""
        client.sendall(first)
        sent = len(first)
        piece = bytes(200 if pause else 1 << 15)
        while not select.select([sys.stdin], [], [], pause)[0]:
            client.sendall(piece)
            sent += len(piece)
        client.shutdown(socket.SHUT_WR)
        received = int(b"".join(iter(lambda: client.recv(99), b"")))
    sys.stdout.write(str(sent - received))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
