"""A client that sends first what the server's TCP drops, with one name, and then its request, with another name.

usage: raw_client.py ADDRESS PORT NAME DECOY-NAME WAY SECONDS (IPv4)

For a remote machine: needs root there (CAP_NET_RAW for the decoy, CAP_NET_ADMIN for TCP_REPAIR, which tells the
connection's numbers). WAY is what is wrong with the decoy:

    none       nothing is: no decoy is sent
    timestamp  an old timestamp (PAWS, RFC 7323 5)
    signature  a signature (RFC 2385) that the server does not expect
    ahead      it stands where later bytes of the stream will
    behind     it stands before the first byte of the stream
    checksum   a wrong checksum
    syn        it follows the request, and a SYN, as if a new connection began

Downloads for SECONDS and prints the Mbit/s.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_TIMESTAMP = 19, 20, 21, 24
RECEIVING, SENDING = 1, 2
ON, OFF_WITHOUT_PROBE = 1, -1
SYN, PSH, ACK = 0x02, 0x08, 0x10
AN_HOUR_MS = 3_600_000
SIGNATURE = bytes([1, 1, 19, 18]) + bytes(16)
PAUSE_S = 0.05
"""Until the decoy has been looked at, and the server has read the request."""


def head(name: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def numbers(sock: socket.socket) -> tuple[int, int, int]:
    """What the connection sends next, has received, and its clock."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, ON)
    found = []
    for queue in (SENDING, RECEIVING):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        found.append(sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) % 2**32)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, OFF_WITHOUT_PROBE)
    return found[0], found[1], sock.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP) % 2**32


def checksum(data: bytes) -> int:
    """RFC 1071."""
    return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def send_decoy(sock: socket.socket, way: str, text: bytes, flags: int = ACK | PSH) -> None:
    (mine, my_port), (theirs, port) = sock.getsockname(), sock.getpeername()
    sequence, received, clock = numbers(sock)
    sequence += {"ahead": len(text), "behind": -len(text)}.get(way, 0)
    stamp = clock - AN_HOUR_MS if way == "timestamp" else clock
    options = SIGNATURE if way == "signature" else struct.pack(">BBBBII", 1, 1, 8, 10, stamp % 2**32, 0)
    words = 5 + len(options) // 4
    if flags & SYN:
        received = 0
    tcp = struct.pack(">HHIIBBHHH", my_port, port, sequence % 2**32, received, words << 4, flags, 500, 0, 0)
    tcp += options + text
    ends = ipaddress.ip_address(mine).packed + ipaddress.ip_address(theirs).packed
    right = checksum(ends + struct.pack(">HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    wrong = right ^ 0x5555 if way == "checksum" else right
    tcp = tcp[:16] + struct.pack(">H", wrong) + tcp[18:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(tcp, (theirs, 0))
    time.sleep(PAUSE_S)


def main() -> None:
    address, port, name, decoy, way, seconds = sys.argv[1:]
    with socket.create_connection((address, int(port)), 10) as sock:
        time.sleep(PAUSE_S)  # the server's half of the handshake
        if way == "syn":
            sock.sendall(head(name))
            time.sleep(PAUSE_S)
            send_decoy(sock, way, b"", SYN)
            sock.sendall(head(decoy))
        else:
            if way != "none":
                send_decoy(sock, way, head(decoy))
            sock.sendall(head(name))
            if way == "ahead":
                sock.sendall(head(decoy))
        began = time.monotonic()
        count = 0
        while (now := time.monotonic()) < began + float(seconds):
            count += len(sock.recv(1 << 16))
        print(count * 8 / (now - began) / 1e6)


if __name__ == "__main__":
    main()
