"""Connects to whatever the sidecar listens on, and says nothing, so that probes find no room.

    python silent_clients.py SECONDS [PORT ...]

Takes eight connections to each abstract Unix socket of the network namespace that has "podlane" in its name, and 40 to
each TCP PORT of 127.0.0.1, and connects again whenever one of them is closed. Needs no capability, and no user in
particular. Prints "begun" when it has them all.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path


def abstract_sockets() -> Iterator[tuple[str, int]]:
    """Name and type of each abstract socket of the sidecar (proc_net(5))."""
    for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[7].startswith("@") and "podlane" in words[7]:
            yield "\0" + words[7][1:], int(words[4], 16)


def to_abstract(name: str, kind: int) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, kind)
    client.setblocking(False)
    client.connect(name)
    return client


def to_port(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 1)


def main() -> None:
    seconds, *ports = map(int, sys.argv[1:])
    opened = selectors.DefaultSelector()

    def take(connect: Callable[[], socket.socket]) -> None:
        with suppress(OSError):  # nobody listens, or there is no room
            opened.register(connect(), selectors.EVENT_READ, connect)

    for name, kind in abstract_sockets():
        for _ in range(8):
            take(lambda name=name, kind=kind: to_abstract(name, kind))
    for port in ports:
        for _ in range(40):
            take(lambda port=port: to_port(port))
    print("begun", flush=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for key, _ in opened.select(left):
            opened.unregister(key.fileobj)
            key.fileobj.close()
            take(key.data)


main()
