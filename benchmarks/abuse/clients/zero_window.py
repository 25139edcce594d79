"""Readers that do not read: ``zero_window address= port= host= path= count=``.

Each asks for a long answer with the smallest receive buffer that there is (socket(7), SO_RCVBUF) and leaves it there,
so that its kernel soon announces a window of zero. Prints ``open`` and ``failed``; at the end ``left``, how many are
still open.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from benchmarks.abuse.clients.speech import PATIENCE, allow_many_files, arguments, get, reset, say


def main(address: str, port: int, host: str, path: str, count: int) -> None:
    """Ask, report, wait for the end of standard input, report."""
    allow_many_files()
    request = get(host, path)
    kept: list[socket.socket] = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.settimeout(PATIENCE)
        try:
            connection.connect((address, port))
            connection.sendall(request)
        except OSError:
            connection.close()
            continue
        kept.append(connection)
    say(open=len(kept), failed=count - len(kept))
    sys.stdin.read()
    left = 0
    for connection in kept:
        with contextlib.suppress(OSError):
            left += bool(connection.recv(1, socket.MSG_DONTWAIT))
        reset(connection)
    say(left=left)


if __name__ == "__main__":
    _given = arguments()
    main(_given["address"], int(_given["port"]), _given["host"], _given["path"], int(_given["count"]))
