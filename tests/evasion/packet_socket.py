"""Sends UDP in whole Ethernet frames past the IP layer, and so past all rules of netfilter (packet(7)).

Needs CAP_NET_RAW.

    packet_socket.py INTERFACE MAC SOURCE ADDRESS PORT SECONDS [--mark 0x1000000] [--priority 0x10101] [--bypass]

MAC is the gateway's. ``--bypass`` is PACKET_QDISC_BYPASS: frames go to the driver, past every queue of the interface.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h
SO_MARK = 36
SIZE = 1372


def number(text: str) -> int:
    return int(text, 0)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(chosen: argparse.Namespace, mine: bytes) -> bytes:
    here, there = (socket.inet_aton(a) for a in (chosen.source, chosen.address))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + SIZE, 0, 0, 64, 17, 0) + here + there
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    ethernet = bytes.fromhex(chosen.mac.replace(":", "")) + mine + b"\x08\x00"
    return ethernet + head + struct.pack("!HHHH", 40000, chosen.port, 8 + SIZE, 0) + bytes(SIZE)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("interface", "mac", "source", "address"):
        parser.add_argument(name)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--mark", type=number, default=0)
    parser.add_argument("--priority", type=number, default=0)
    parser.add_argument("--bypass", action="store_true")
    chosen = parser.parse_args()
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((chosen.interface, 0))
    if chosen.mark:
        sender.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", chosen.mark))
    if chosen.priority:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, chosen.priority)
    if chosen.bypass:
        sender.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    data = frame(chosen, sender.getsockname()[4])
    end = time.monotonic() + chosen.seconds
    while time.monotonic() < end:
        try:
            sender.send(data)
        except OSError as error:
            if error.errno != 105:  # ENOBUFS: the queue is full
                raise


if __name__ == "__main__":
    main()
