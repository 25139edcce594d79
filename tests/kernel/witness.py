"""Every packet that leaves an interface, below its queues: when and how large, for each flow."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from podlane.netns.lab import Host

_ETH_P_IP = 0x0800
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_TIME = struct.Struct("@qq")
_ROOM = 64 << 20

Flow = tuple[int, int]
"""IP protocol and destination port."""


class Witness:
    """Packets by flow: (nanoseconds on the system's clock, bytes on the link), in order."""

    def __init__(self, tap: socket.socket) -> None:
        self.packets: dict[Flow, list[tuple[int, int]]] = defaultdict(list)
        self._tap = tap

    def missed(self) -> int:
        """Packets that the witness had no room for; whoever was not seen cannot be told of."""
        _, dropped = struct.unpack("II", self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(dropped)

    def read(self, until: threading.Event) -> None:
        """Write down what leaves, until told to end."""
        head = bytearray(64)
        while not until.is_set():
            try:
                size, ancillary, _, address = self._tap.recvmsg_into([head], 64, socket.MSG_TRUNC)
            except TimeoutError:
                continue
            if address[2] != socket.PACKET_OUTGOING or address[1] != _ETH_P_IP:
                continue
            seconds, nanoseconds = _TIME.unpack(ancillary[0][2][: _TIME.size])
            at = 14 + (head[14] & 15) * 4
            self.packets[head[23], int.from_bytes(head[at + 2 : at + 4], "big")].append(
                (seconds * 10**9 + nanoseconds, size)
            )


@contextmanager
def witnessing(host: Host, interface: str) -> Iterator[Witness]:
    """Watch what leaves by an interface during the block."""
    with host.namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL: only those see what leaves
    with tap:
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.bind((interface, 3))
        tap.settimeout(0.1)
        witness, over = Witness(tap), threading.Event()
        thread = threading.Thread(target=witness.read, args=[over])
        thread.start()
        try:
            yield witness
        finally:
            over.set()
            thread.join()


def most_within(packets: Sequence[tuple[int, int]], seconds: float) -> int:
    """The most bytes in any stretch of time of this length."""
    span = int(seconds * 1e9)
    most = now = first = 0
    for at, size in packets:
        now += size
        while packets[first][0] <= at - span:
            now -= packets[first][1]
            first += 1
        most = max(most, now)
    return most
