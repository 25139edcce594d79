"""A small request again and again on one connection, timed: ``probe ADDRESS PORT HOST PATH SECONDS``.

Prints one JSON object: ``count``, ``errors``, and ``p50``, ``p99`` and ``maximum`` in microseconds.
"""

from __future__ import annotations

import json
import socket
import sys
import time

_PATIENCE = 10.0
"""Seconds to wait for an answer before it counts as an error."""


def percentile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of the ordered ones lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main(address: str, port: int, host: str, path: str, seconds: float) -> None:
    """Ask for ``seconds`` and print the result."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    took: list[float] = []
    errors = 0
    connection = socket.create_connection((address, port), _PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    length = _answer(connection, request)  # the first one carries the connection's set-up
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        try:
            _answer(connection, request, length)
        except (OSError, EOFError):
            errors += 1
            break
        took.append((time.monotonic() - began) * 1e6)
    took.sort()
    result: dict[str, float] = {"count": len(took), "errors": errors}
    if took:
        result |= {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "maximum": took[-1]}
    print(json.dumps(result))  # noqa: T201 (the result)


def _answer(connection: socket.socket, request: bytes, length: int | None = None) -> int:
    """Send a request and read the answer to its end; gives its length. ``length``: what it is known to be."""
    connection.sendall(request)
    data = bytearray()
    while length is None or len(data) < length:
        chunk = connection.recv(65536)
        if not chunk:
            raise EOFError
        data += chunk
        if length is None and (head := data.find(b"\r\n\r\n")) >= 0:
            fields = bytes(data[:head]).lower().split(b"\r\n")
            body = next(int(f.split(b":")[1]) for f in fields if f.startswith(b"content-length:"))
            length = head + 4 + body
    return len(data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
