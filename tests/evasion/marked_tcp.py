"""Connects, sends some first bytes, and then as much as it can under a mark and a priority of its choice.

Needs CAP_NET_RAW, as marked_udp.py does. ``--group`` takes a gid first, which needs CAP_SETGID.

    marked_tcp.py ADDRESS PORT SECONDS [--mark 0x1002000] [--priority 0x10000] [--late] [--group 0] [--first TEXT]

``--late`` sets both after the first bytes. It ends early when the connection is refused or reset.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import struct
import time
from contextlib import suppress

SO_MARK = 36  # asm-generic/socket.h


def number(text: str) -> int:
    return int(text, 0)


def until_acknowledged(sender: socket.socket, block: bytes) -> None:
    """Send as much as there is room for, and wait until some of it has arrived, which makes room again."""
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sender.send(block)
    select.select([], [sender], [])
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--mark", type=number, default=0)
    parser.add_argument("--priority", type=number, default=0)
    parser.add_argument("--late", action="store_true")
    parser.add_argument("--group", type=int)
    parser.add_argument("--first", default="")
    chosen = parser.parse_args()
    if chosen.group is not None:
        os.setgid(chosen.group)

    def claim(sender: socket.socket) -> None:
        if chosen.mark:
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", chosen.mark))
        if chosen.priority:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, chosen.priority)

    end = time.monotonic() + chosen.seconds
    family = socket.AF_INET6 if ":" in chosen.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sender:
        if not chosen.late:
            claim(sender)
        sender.settimeout(chosen.seconds)
        sender.connect((chosen.address, chosen.port))
        sender.sendall(chosen.first.encode().decode("unicode_escape").encode())
        block = bytes(65536)
        if chosen.late:
            until_acknowledged(sender, block)
            claim(sender)
        sender.settimeout(0.1)
        while time.monotonic() < end:
            try:
                sender.send(block)
            except TimeoutError:
                continue


if __name__ == "__main__":
    main()
