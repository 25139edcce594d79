"""A client that sends a file's bytes as a connection's first ones in pieces, and prints the answer's length and end.

    segments.py ADDRESS PORT FILE PIECE

``PIECE`` is both the most bytes per call and, through TCP_MAXSEG, per packet (88 is the least that Linux takes). Then it
half-closes, and reads until the server does.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def main(address: str, port: int, file: str, piece: int) -> None:
    """Send, half-close, read."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, max(piece, 88))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((address, port))
        data = Path(file).read_bytes()
        for at in range(0, len(data), piece):
            client.sendall(data[at : at + piece])
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    sys.stdout.write(answer.decode())


main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
