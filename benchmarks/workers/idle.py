"""Opens connections that then keep silent: ``idle ADDRESS PORT HOST PATH N``.

Each does one request first. Prints one JSON object, ``open`` and ``failed``, and holds the connections until its
standard input ends.
"""

from __future__ import annotations

import json
import socket
import sys

_PATIENCE = 10.0
_GIVE_UP_AFTER = 20
"""Failures in a row after which the rest is not tried."""


def main(address: str, port: int, host: str, path: str, wanted: int) -> None:
    """Open, report, wait."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    kept: list[socket.socket] = []
    failed = in_a_row = 0
    while len(kept) + failed < wanted and in_a_row < _GIVE_UP_AFTER:
        try:
            connection = socket.create_connection((address, port), _PATIENCE)
            connection.sendall(request)
            answered = connection.recv(65536)
        except OSError:
            answered = b""
        if answered:
            kept.append(connection)
            in_a_row = 0
        else:
            failed, in_a_row = failed + 1, in_a_row + 1
    print(json.dumps({"open": len(kept), "failed": wanted - len(kept)}), flush=True)  # noqa: T201 (the result)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
