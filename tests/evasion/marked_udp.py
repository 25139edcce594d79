"""Sends UDP as fast as it can under a mark and a priority of its choice.

Needs CAP_NET_RAW: SO_MARK takes it (Linux 5.17; NET_ADMIN before), and so does SO_PRIORITY above 6 (socket(7)). IP_TOS
and SO_TXTIME need nothing.

    marked_udp.py ADDRESS PORT SECONDS [--mark 0x1002000] [--priority 0x10101] [--by option|cmsg|raw|icmp] [--tos 16]

``--by cmsg`` gives mark and priority to each sendmsg(2) (SO_PRIORITY there: Linux 6.14), ``raw`` writes the IP header
itself (raw(7), IPPROTO_RAW), ``icmp`` sends echo requests.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time

SO_MARK, SO_PRIORITY, SO_TXTIME = 36, 12, 61  # asm-generic/socket.h
CLOCK_MONOTONIC = 1
SIZE = 1372


def number(text: str) -> int:
    return int(text, 0)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--mark", type=number, default=0)
    parser.add_argument("--priority", type=number, default=0)
    parser.add_argument("--by", choices=["option", "cmsg", "raw", "icmp"], default="option")
    parser.add_argument("--tos", type=number, default=0)
    parser.add_argument("--txtime", action="store_true")
    return parser.parse_args()


def word(value: int) -> bytes:
    return struct.pack("=I", value)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def made(chosen: argparse.Namespace) -> tuple[socket.socket, bytes]:
    """A connected socket, and what to send by it."""
    family = socket.AF_INET6 if ":" in chosen.address else socket.AF_INET
    payload = bytes(SIZE)
    if chosen.by == "raw":
        sender = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sender.connect((chosen.address, 0))
        datagram = struct.pack("!HHHH", 40000, chosen.port, 8 + SIZE, 0) + payload
        here, there = (socket.inet_pton(family, a) for a in (sender.getsockname()[0], chosen.address))
        if family == socket.AF_INET6:
            return sender, struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64) + here + there + datagram
        # The kernel fills in length, identification and checksum.
        return sender, struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, 17, 0) + here + there + datagram
    if chosen.by == "icmp":
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        sender = socket.socket(family, socket.SOCK_RAW, protocol)
        sender.connect((chosen.address, 0))
        kind = 128 if family == socket.AF_INET6 else 8
        echo = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + payload
        return sender, echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.connect((chosen.address, chosen.port))
    return sender, payload


def main() -> None:
    chosen = options()
    sender, data = made(chosen)
    if chosen.tos and ":" in chosen.address:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, chosen.tos)
    elif chosen.tos:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, chosen.tos)
    if chosen.txtime:
        sender.setsockopt(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=iI", CLOCK_MONOTONIC, 0))
    control = []
    if chosen.by == "cmsg":
        control = [(socket.SOL_SOCKET, SO_MARK, word(chosen.mark))] if chosen.mark else []
        control += [(socket.SOL_SOCKET, SO_PRIORITY, word(chosen.priority))] if chosen.priority else []
    else:
        if chosen.mark:
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, word(chosen.mark))
        if chosen.priority:
            sender.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, word(chosen.priority))
    end = time.monotonic() + chosen.seconds
    while time.monotonic() < end:
        try:
            sender.sendmsg([data], control)
        except OSError as error:
            if error.errno not in (105, 111, 1):  # ENOBUFS: full queue; ECONNREFUSED: nobody listens; EPERM: dropped
                raise


if __name__ == "__main__":
    main()
