"""Ask for another protocol, and go on in HTTP/1 as if nothing had been asked, in a form that can be read in two ways.

A server that knows no such protocol answers as usual and reads on. Who believes that the connection has switched does
not see the requests for the slow host. Needs nothing; towards a Pod any remote client can do it.

``python3 switched.py upgrade|connect up|down ADDRESS PORT SLOW FAST SECONDS``: ``up`` sends bodies (PUT /up), ``down``
asks for them (GET /big). Prints the Mbit/s of the slow host's bodies.
"""

from __future__ import annotations

import select
import socket
import sys
import time

SIZE = 400_000
AHEAD = 4
"""Requests on their way."""


def main() -> None:
    asking, way, address, port, slow, fast, seconds = sys.argv[1:]
    if asking == "upgrade":
        first = f"GET /who HTTP/1.1\r\nHost: {fast}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    else:
        first = f"CONNECT {fast}:80 HTTP/1.1\r\nHost: {fast}\r\n\r\n"
    if way == "up":
        # Bare line feeds: RFC 9112 2.2 lets servers take them.
        then = f"PUT /up HTTP/1.1\nHost: {slow}\nContent-Length: {SIZE}\n\n".encode() + bytes(SIZE)
    else:
        then = f"GET /big HTTP/1.1\nHost: {slow}\n\n".encode()
    until = time.monotonic() + float(seconds)
    asked = answers = came = 0
    with socket.create_connection((address, int(port)), 10) as sock:
        sock.sendall(first.encode())
        head = sock.recv(65_536)
        sock.setblocking(False)
        unsent = memoryview(b"")
        tail = b""
        while (left := until - time.monotonic()) > 0:
            if not unsent and asked < answers + AHEAD:
                unsent, asked = memoryview(then), asked + 1
            readable, writable, _ = select.select([sock], [sock] if unsent else [], [], left)
            try:
                if writable:
                    unsent = unsent[sock.send(unsent) :]
                data = sock.recv(1 << 18) if readable else None
            except OSError:
                data = b""
            if data == b"":
                print(f"ended behind {head[:40]!r}", file=sys.stderr)
                break
            if data:
                came += len(data)
                answers += (tail + data).count(b"HTTP/1.1 2")
                tail = data[-9:]
    moved = answers * SIZE if way == "up" else came
    print(f"{moved * 8 / float(seconds) / 1e6:.2f}")


if __name__ == "__main__":
    main()
