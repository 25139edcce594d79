"""UDP packets for tests, as the kernel shows them."""

from __future__ import annotations

import ipaddress
import struct

from tcp_packets import CLIENT, CLIENT6, SERVER, SERVER6


def udp_packet(datagram: bytes, *, port: int = 443, client_port: int = 40000, v6: bool = False) -> bytes:
    """An IPv4 or IPv6 packet."""
    udp = struct.pack(">HHHH", client_port, port, 8 + len(datagram), 0) + datagram
    source, destination = (CLIENT6, SERVER6) if v6 else (CLIENT, SERVER)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    if v6:
        return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + ends + udp
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0) + ends + udp
