"""A program whose server reads other bytes, or the same in another order, than who looks at its first packets.

usage: tcp_order.py ADDRESS PORT NAME DECOY-NAME WAY SECONDS

No capability is needed. WAY:

    gap     a head for NAME in a packet that does not leave (SO_DONTROUTE), then one for DECOY-NAME that does. The kernel
            sends the first one again, and that is what the server reads first
    urgent  urgent bytes (MSG_OOB), which stand in the stream, but which a server does not read there: without them
            the head is for NAME, with them for DECOY-NAME

Uploads for SECONDS once the server has answered.
"""

from __future__ import annotations

import socket
import sys
import time

PAUSE_S = 0.5
"""Until the server has surely read, also on a busy machine: of two urgent bytes that wait the first one becomes an
ordinary one. No event tells a client that: what is acknowledged has arrived, and need not have been read."""
FIELDS = "Content-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n"


def gap(sock: socket.socket, name: str, decoy: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    sock.sendall(f"PUT / HTTP/1.1\r\nHost: {name}\r\n{FIELDS}".encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 0)
    sock.sendall(f"PUT / HTTP/1.1\r\nHost: {decoy}\r\n{FIELDS}".encode())


def urgent(sock: socket.socket, name: str, decoy: str) -> None:
    for text, byte in (("PUT / HTTP/1.1\r\n", "X"), (f"Host: {name}\r\n", "H"), (f"ost: {decoy}\r\n{FIELDS}", "")):
        sock.sendall(text.encode())
        if byte:
            sock.send(byte.encode(), socket.MSG_OOB)
        time.sleep(PAUSE_S)


def main() -> None:
    address, port, name, decoy, way, seconds = sys.argv[1:]
    with socket.create_connection((address, int(port)), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        {"gap": gap, "urgent": urgent}[way](sock, name, decoy)
        assert sock.recv(100)
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            sock.sendall(bytes(16384))


if __name__ == "__main__":
    main()
