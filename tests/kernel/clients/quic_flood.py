"""A client that sends as fast as it may: quic_flood.py ADDRESS PORT NAME.

It begins as a QUIC client does, with the first datagrams of aioquic, and goes on with packets that have short headers. It
costs next to no CPU time: the socket has room for two packets, so that each waits until the one before is on its way.
"""

from __future__ import annotations

import socket
import sys
import time

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection


def main(address: str, port: str, name: str) -> None:
    """Send until killed."""
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True, server_name=name))
    there = (address, int(port))
    connection.connect(there, now=time.time())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for datagram, _ in connection.datagrams_to_send(now=time.time()):
            sock.sendto(datagram, there)
        while True:
            sock.sendto(b"\x40" + bytes(1199), there)


main(*sys.argv[1:4])
