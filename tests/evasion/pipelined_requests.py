"""Much for the host of a slow class, then a little for one of a fast class, on one connection, without waiting.

A request's class is that of a socket. If the socket changes its class with the second request, what still waits in it
for the first one goes along. Needs nothing; towards a Pod any remote client can do it.

``python3 pipelined_requests.py 1|2 up|down ADDRESS PORT SLOW FAST SECONDS``: HTTP/1 or HTTP/2 with prior knowledge;
``up`` sends bodies (PUT /up), ``down`` asks for them (GET /big). Prints the Mbit/s of the slow host's bodies.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time

SIZE = 400_000
"""Bytes of a body: less than a socket takes at once."""
AHEAD = 4
"""Pairs of requests on their way."""
FIRST = 4_000_000
"""Bytes for the fast host in the beginning, so that the socket's buffer grows."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WIDE = 0x7FFF_FFFF


def http1(sock: socket.socket, up: bool, slow: str, fast: str, until: float) -> int:
    """Bytes of the slow host's bodies that arrived: counted by answers or, for those asked for, as they come."""
    if up:
        pair = f"PUT /up HTTP/1.1\r\nHost: {slow}\r\nContent-Length: {SIZE}\r\n\r\n".encode() + bytes(SIZE)
    else:
        pair = f"GET /big HTTP/1.1\r\nHost: {slow}\r\n\r\n".encode()
    pair += f"GET /who HTTP/1.1\r\nHost: {fast}\r\n\r\n".encode()
    sock.setblocking(False)
    asked = came = 0
    first = f"PUT /up HTTP/1.1\r\nHost: {fast}\r\nContent-Length: {FIRST}\r\n\r\n".encode() + bytes(FIRST)
    unsent = memoryview(first if up else b"")
    answers = -1 if up else 0
    tail = b""
    while (left := until - time.monotonic()) > 0:
        if not unsent and asked < answers // 2 + AHEAD and answers >= 0:
            unsent, asked = memoryview(pair), asked + 1
        readable, writable, _ = select.select([sock], [sock] if unsent else [], [], left)
        if writable:
            unsent = unsent[sock.send(unsent) :]
        if readable:
            data = sock.recv(1 << 18)
            if not data:
                raise SystemExit("the server ended the connection")
            came += len(data)
            answers += (tail + data).count(b"HTTP/1.1 2")
            tail = data[-9:]
    return (answers + 1) // 2 * SIZE if up else came


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(stream: int, host: str, method: str, path: str, end: bool) -> bytes:
    """A request without compression (RFC 7541 6.2.2: a literal field with a literal name)."""
    block = b""
    for name, value in ((":method", method), (":scheme", "http"), (":path", path), (":authority", host)):
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(1, 4 | end, stream, block)


def http2(sock: socket.socket, up: bool, slow: str, fast: str, until: float) -> int:
    """The same by streams: with each one for the slow host comes one for the fast host."""
    sock.setblocking(False)
    unsent = PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, WIDE)) + frame(8, 0, 0, struct.pack(">I", WIDE - 65_535))
    stream, came, stored, got = 1, 0, 0, b""
    puts = set()
    window = {0: 65_535}
    initial = 65_535
    body = 0  # the stream that is sent, or asked for
    left_of_body = 0
    while (left := until - time.monotonic()) > 0:
        if not body and len(unsent) < SIZE:
            body, left_of_body = stream, SIZE
            window[body] = initial
            unsent += headers(stream, slow, "PUT" if up else "GET", "/up" if up else "/big", end=not up)
            unsent += headers(stream + 2, fast, "GET", "/who", end=True)
            stream += 4
        if up and body:
            size = min(left_of_body, window[0], window[body], 16_384)
            if size > 0 and len(unsent) < SIZE:
                left_of_body -= size
                unsent += frame(0, not left_of_body, body, bytes(size))
                window[0] -= size
                window[body] -= size
                if not left_of_body:
                    puts.add(body)
                    body = 0
        busy = up and body and min(window[0], window[body]) > 0 and len(unsent) < SIZE
        readable, writable, _ = select.select([sock], [sock] if unsent else [], [], 0 if busy else left)
        if writable:
            unsent = unsent[sock.send(unsent) :]
        if readable:
            data = sock.recv(1 << 18)
            if not data:
                raise SystemExit("the server ended the connection")
            came += len(data)
            got += data
            while len(got) >= 9 and len(got) >= (end := 9 + int.from_bytes(got[:3], "big")):
                kind, flags, number, payload = got[3], got[4], int.from_bytes(got[5:9], "big"), got[9:end]
                got = got[end:]
                if kind == 8:
                    window[number] = window.get(number, initial) + int.from_bytes(payload, "big")
                elif kind == 4 and not flags:
                    unsent += frame(4, 1, 0)
                    for at in range(0, len(payload), 6):
                        name, value = struct.unpack_from(">HI", payload, at)
                        if name == 4:
                            initial = value
                            window.update({each: value for each in window if each})
                elif kind in (0, 1) and flags & 1:
                    stored += number in puts
                    body = body if up or number != body else 0
                elif kind == 7:
                    raise SystemExit(f"the server ended the connection: {payload!r}")
    return stored * SIZE if up else came


def main() -> None:
    version, way, address, port, slow, fast, seconds = sys.argv[1:]
    sock = socket.create_connection((address, int(port)), 10)
    began = time.monotonic()
    moved = (http1 if version == "1" else http2)(sock, way == "up", slow, fast, began + float(seconds))
    print(f"{moved * 8 / float(seconds) / 1e6:.2f}")


if __name__ == "__main__":
    main()
