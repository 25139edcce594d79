"""A storm of resets: ``resets address= port= host= path= rate= seconds=``.

Connections that are reset at once, after a part of a head, after a request, and in the middle of a long answer, in
turn. Prints ``sending`` at the beginning; at the end ``opened`` and ``failed``.
"""

from __future__ import annotations

import socket
import time

from benchmarks.abuse.clients.speech import PATIENCE, arguments, get, reset, say

_SOME = 4096
"""Bytes of the long answer that are read before the reset."""


def main(address: str, port: int, host: str, path: str, rate: float, seconds: float) -> None:
    """``path`` has a long answer."""
    request = get(host, path)
    say(sending=rate)
    began = time.monotonic()
    opened = failed = 0
    while (now := time.monotonic()) < began + seconds:
        if opened + failed >= (now - began) * rate:
            time.sleep(1 / rate)
            continue
        try:
            connection = socket.create_connection((address, port), PATIENCE)
        except OSError:
            failed += 1
            continue
        kind = opened % 4
        opened += 1
        try:
            if kind:
                connection.sendall(request[:10] if kind == 1 else request)
            if kind == 3:
                connection.recv(_SOME)
        except OSError:
            failed += 1
        reset(connection)
    say(opened=opened, failed=failed)


if __name__ == "__main__":
    _given = arguments()
    main(
        _given["address"],
        int(_given["port"]),
        _given["host"],
        _given["path"],
        float(_given["rate"]),
        float(_given["seconds"]),
    )
