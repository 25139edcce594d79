"""TCP packets for the tests of the step-aside datapath, as the kernel shows them."""

from __future__ import annotations

import ipaddress
import struct

CLIENT = "192.0.2.1"
SERVER = "203.0.113.9"
CLIENT6 = "2001:db8::1"
SERVER6 = "2001:db8:5::9"

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


def tcp_packet(
    text: bytes,
    *,
    seq: int = 1000,
    port: int = 443,
    client_port: int = 40000,
    flags: int = ACK | PSH,
    v6: bool = False,
    options: bytes = b"",
) -> bytes:
    """An IPv4 or IPv6 packet; ``options`` are TCP's, a multiple of four bytes."""
    source, destination = (CLIENT6, SERVER6) if v6 else (CLIENT, SERVER)
    words = 5 + len(options) // 4
    tcp = struct.pack(">HHIIBBHHH", client_port, port, seq % 2**32, 77, words << 4, flags, 65535, 0, 0) + options + text
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    if v6:
        return struct.pack(">IHBB", 6 << 28, len(tcp), 6, 64) + ends + tcp
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, 0) + ends + tcp


def flow_of(packet: bytes) -> bytes:
    """Addresses and ports, as the classifier and conntrack name a connection."""
    size, start, at = (16, 8, 40) if packet[0] >> 4 == 6 else (4, 12, 20)
    return packet[start : start + 2 * size] + packet[at : at + 4]
