"""A QUIC client that uploads to one server, and shows the name of another one in datagrams that never arrive.

usage: quic_decoy.py ADDRESS PORT NAME DECOY-NAME SECONDS

The decoys are Initials of other connections, sent from the socket of the true one with a TTL (or hop limit) of 1. Needs
no capability, and a router on the way. Of the standard library alone it could not encrypt: it needs aioquic.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import time

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

EVERY_S = 0.5


def configuration(name: str) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=True, server_name=name, alpn_protocols=["sink"], verify_mode=ssl.CERT_NONE, max_data=1 << 30,
        max_stream_data=1 << 30,
    )  # fmt: skip


def send_decoy(sock: socket.socket, address: str, port: int, name: str) -> None:
    """With a TTL of 1; the socket is what asyncio uses, so its own datagrams wait meanwhile."""
    decoy = QuicConnection(configuration=configuration(name))
    decoy.connect((address, port), now=time.time())
    v6 = sock.family == socket.AF_INET6
    plain = ":" not in address
    target = (f"::ffff:{address}", port, 0, 0) if v6 and plain else (address, port, 0, 0) if v6 else (address, port)
    options = [(socket.IPPROTO_IP, socket.IP_TTL, 64), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 64)]
    for level, option, _ in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, 1)
    for data, _ in decoy.datagrams_to_send(now=time.time()):
        sock.sendto(data, target)
    for level, option, usual in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, usual)


async def main(address: str, port: int, name: str, decoy: str, seconds: float) -> None:
    async with connect(address, port, configuration=configuration(name)) as client:
        sock: socket.socket = client._transport.get_extra_info("socket")._sock  # type: ignore[attr-defined]
        _, writer = await client.create_stream()
        until = time.monotonic() + seconds
        shown = 0.0
        while time.monotonic() < until:
            if time.monotonic() - shown > EVERY_S:
                send_decoy(sock, address, port, decoy)
                shown = time.monotonic()
            writer.write(bytes(1 << 16))
            await asyncio.sleep(0.01)
    # Nothing is waited for: what is not sent by now does not count.


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5])))
