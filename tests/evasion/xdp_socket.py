"""Sends UDP in whole Ethernet frames by AF_XDP in copy mode: like packet_socket.py with --bypass, past every queue.

Needs CAP_NET_RAW, and no program (Documentation/networking/af_xdp.rst).

    xdp_socket.py INTERFACE MAC SOURCE ADDRESS PORT SECONDS

MAC is the gateway's.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import socket
import struct
import time
from pathlib import Path

from packet_socket import frame

AF_XDP, SOL_XDP = 44, 283  # linux/socket.h
XDP_MMAP_OFFSETS, XDP_TX_RING, XDP_UMEM_REG, XDP_FILL_RING, XDP_COMPLETION_RING = 1, 3, 4, 5, 6  # linux/if_xdp.h
TX_AT, COMPLETION_AT = 0x80000000, 0x180000000  # XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING
XDP_COPY = 1 << 1
FRAMES, FRAME = 64, 2048


class Ring:
    """One of the socket's rings: numbers of its producer and of its consumer, and entries behind them."""

    def __init__(self, fd: int, at: int, offsets: tuple[int, int, int, int], entry: int) -> None:
        self._producer, self._consumer, self.entries, _ = offsets
        self.memory = mmap.mmap(fd, self.entries + FRAMES * entry, offset=at)

    def producer(self) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_buffer(self.memory, self._producer)

    def consumer(self) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_buffer(self.memory, self._consumer)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("interface", "mac", "source", "address"):
        parser.add_argument(name)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    chosen = parser.parse_args()
    mine = bytes.fromhex(Path(f"/sys/class/net/{chosen.interface}/address").read_text().strip().replace(":", ""))
    data = frame(chosen, mine)
    frames = mmap.mmap(-1, FRAMES * FRAME)
    for i in range(FRAMES):
        frames[i * FRAME : i * FRAME + len(data)] = data
    address = ctypes.addressof(ctypes.c_char.from_buffer(frames))
    sender = socket.socket(AF_XDP, socket.SOCK_RAW)
    sender.setsockopt(SOL_XDP, XDP_UMEM_REG, struct.pack("=QQIIII", address, FRAMES * FRAME, FRAME, 0, 0, 0))
    for ring in (XDP_FILL_RING, XDP_COMPLETION_RING, XDP_TX_RING):
        sender.setsockopt(SOL_XDP, ring, FRAMES)
    offsets = struct.unpack("=16Q", sender.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128))  # rx, tx, fill, completion
    sending = Ring(sender.fileno(), TX_AT, offsets[4:8], 16)
    done = Ring(sender.fileno(), COMPLETION_AT, offsets[12:16], 8)
    # Python's socket module knows no addresses of this family.
    to = struct.pack("=HHIII", AF_XDP, XDP_COPY, socket.if_nametoindex(chosen.interface), 0, 0)
    if ctypes.CDLL(None, use_errno=True).bind(sender.fileno(), to, len(to)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for i in range(FRAMES):
        struct.pack_into("=QII", sending.memory, sending.entries + i * 16, i * FRAME, len(data), 0)
    sent = 0
    end = time.monotonic() + chosen.seconds
    while time.monotonic() < end:
        sent += FRAMES - (sent - done.producer().value)  # as many as have come back
        done.consumer().value = done.producer().value
        sending.producer().value = sent
        try:
            sender.send(b"", socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in (11, 16, 105):  # EAGAIN, EBUSY, ENOBUFS
                raise


if __name__ == "__main__":
    main()
