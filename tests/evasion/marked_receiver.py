"""Downloads over a TCP connection whose socket it marks as the proxy marks its own.

Needs CAP_NET_RAW, as marked_udp.py does.

    marked_receiver.py ADDRESS PORT SECONDS --mark 0x1002000
"""

from __future__ import annotations

import argparse
import socket
import struct
import time

SO_MARK = 36  # asm-generic/socket.h


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--mark", type=lambda text: int(text, 0), default=0)
    chosen = parser.parse_args()
    end = time.monotonic() + chosen.seconds
    with socket.create_connection((chosen.address, chosen.port)) as receiver:
        if chosen.mark:
            receiver.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", chosen.mark))
        while time.monotonic() < end and receiver.recv(1 << 20):
            pass


if __name__ == "__main__":
    main()
