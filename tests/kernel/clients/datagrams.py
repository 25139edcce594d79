"""A client that sends numbered datagrams of 200 bytes at a steady pace until its standard input ends; prints how many.

datagrams.py ADDRESS PORT PAUSE
"""

from __future__ import annotations

import select
import socket
import sys


def main(address: str, port: int, pause: float) -> None:
    """Number, send, wait ``pause`` seconds."""
    number = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        while not select.select([sys.stdin], [], [], pause)[0]:
            client.send(number.to_bytes(4, "big") + bytes(196))
            number += 1
    sys.stdout.write(str(number))


main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
