"""Watches how much arrives at the sink beside it: ``counts SECONDS PORT [PORT ...]``.

Says ``looking``, waits until something comes to a port, and then looks at that port for so long. Prints one JSON
object: for each port a list of seconds since its first byte and bytes so far.
"""

from __future__ import annotations

import json
import socket
import sys
import time

ASK = b"COUNT\n"
_EVERY = 0.05
_PATIENCE = 20.0
"""Seconds to wait for the first byte."""


def main(seconds: float, ports: list[int]) -> int:
    """Look, print; 1 when nothing came to some port."""
    counters = {port: socket.create_connection(("127.0.0.1", port), _PATIENCE) for port in ports}
    before = {port: so_far(counter) for port, counter in counters.items()}
    print("looking", flush=True)  # noqa: T201 (the line that the harness waits for)
    began: dict[int, float] = {}
    seen: dict[int, list[tuple[float, int]]] = {port: [] for port in ports}
    give_up = time.monotonic() + _PATIENCE
    while left := [port for port in ports if port not in began or time.monotonic() - began[port] < seconds]:
        for port in left:
            count = so_far(counters[port]) - before[port]
            now = time.monotonic()
            if count:
                seen[port].append((now - began.setdefault(port, now), count))
            elif now > give_up:
                print(f"nothing came to port {port} within {_PATIENCE:g} s", file=sys.stderr)  # noqa: T201 (the reason)
                return 1
        time.sleep(_EVERY)
    print(json.dumps(seen))  # noqa: T201 (the result)
    return 0


def so_far(counter: socket.socket) -> int:
    """Bytes that have come to the sink's port behind this connection. Raises EOFError when the sink has ended."""
    counter.sendall(ASK)
    answer = b""
    while not answer.endswith(b"\n"):
        chunk = counter.recv(64)
        if not chunk:
            raise EOFError
        answer += chunk
    return int(answer)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), [int(argument) for argument in sys.argv[2:]]))
