"""The messages of NFQUEUE: binding a queue, the packets it shows, and verdicts.

linux/netfilter/nfnetlink_queue.h. A queued packet waits in the kernel until its verdict; every verdict here is
"accept", with or without another mark. An accepted packet goes on behind the mangle chain that queued it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from tc_core.netlink.codec import ACK, REQUEST, attribute
from tc_core.netlink.netfilter import HEAD, message

_SUBSYSTEM: Final = 3 << 8
PACKET: Final = _SUBSYSTEM | 0
_VERDICT: Final = _SUBSYSTEM | 1
_CONFIG: Final = _SUBSYSTEM | 2

_PACKET_HDR, _VERDICT_HDR, _MARK, _PAYLOAD, _WHOLE_SIZE, _INFO = 1, 2, 3, 10, 13, 14
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND, _UNBIND, _COPY_PACKET = 1, 2, 2
_FAIL_OPEN, _GSO = 1 << 0, 1 << 2
_NO_CHECKSUM: Final = 1 << 0
"""NFQA_SKB_CSUMNOTREADY: the checksum is left to the network card."""
_PRE_ROUTING: Final = 0
"""NF_INET_PRE_ROUTING of linux/netfilter.h."""
_HEADER: Final = 4 + 7
"""Bytes of the attribute with struct nfqnl_msg_packet_hdr, which is packed: id, protocol of the link layer, hook."""
_ACCEPT: Final = 1
"""NF_ACCEPT of linux/netfilter.h."""
MAX_COPY: Final = 0xFFFF - 4
"""NFQNL_MAX_COPY_RANGE: bytes of a packet that can be shown."""
MAX_MESSAGE: Final = MAX_COPY + 1024
"""Bytes that hold any packet message: the payload, and attributes of which there are far fewer than 1 KiB."""

_MESSAGE: Final = struct.Struct("=IH")
"""The beginning of struct nlmsghdr: length and type."""
_LENGTH: Final = struct.Struct("=I")
_ATTRIBUTE: Final = struct.Struct("=HH")
_BIG: Final = struct.Struct(">I")


class QueuedPacket(NamedTuple):
    """A packet that waits for its verdict. ``ticket`` names it in the verdict; ``data`` begins with the IP header.

    ``arrived``: it came in from outside, else it is one of our own on its way out. ``whole``: ``data`` is all of it.
    ``unsummed``: its checksum is left to the network card.
    """

    ticket: bytes
    mark: int
    data: bytes
    arrived: bool = False
    whole: bool = True
    unsummed: bool = False


def bind(queue: int, *, max_packets: int, sequence: int, fail_open: bool = True) -> tuple[bytes, ...]:
    """Requests that make a queue ours and set it up, each to be acknowledged; numbered from ``sequence`` on.

    Whole packets are shown, large ones (GSO) in one piece; when more than ``max_packets`` wait, or the socket has no
    room, packets pass unseen instead of being dropped (``fail_open``).
    """
    flags = _BIG.pack(_FAIL_OPEN | _GSO if fail_open else _GSO)
    mask = _BIG.pack(_FAIL_OPEN | _GSO)
    return tuple(
        message(_CONFIG, attributes, resource=queue, flags=REQUEST | ACK, sequence=sequence + number)
        for number, attributes in enumerate(
            (
                attribute(_CFG_CMD, struct.pack(">BBH", _BIND, 0, 0)),
                attribute(_CFG_PARAMS, struct.pack(">IB", MAX_COPY, _COPY_PACKET))
                + attribute(_CFG_MAXLEN, _BIG.pack(max_packets))
                + attribute(_CFG_FLAGS, flags)
                + attribute(_CFG_MASK, mask),
            )
        )
    )


def wake(queue: int) -> bytes:
    """A request without effect, whose acknowledgement wakes the thread that reads from the socket."""
    return message(_CONFIG, b"", resource=queue, flags=REQUEST | ACK)


def unbind(queue: int, *, sequence: int) -> bytes:
    """The request that gives a queue back. The kernel drops what waits in it: give the verdicts first."""
    command = attribute(_CFG_CMD, struct.pack(">BBH", _UNBIND, 0, 0))
    return message(_CONFIG, command, resource=queue, flags=REQUEST | ACK, sequence=sequence)


def read_packets(data: bytearray, size: int) -> list[QueuedPacket]:
    """The packets in the messages of one read; other messages are left out. As :func:`read_messages`, but quicker."""
    found = []
    at = 0
    while at + HEAD <= size:
        length, kind = _MESSAGE.unpack_from(data, at)
        end = at + length
        if length < HEAD or end > size:
            break
        if kind == PACKET:
            packet = _read_packet(data, at + HEAD, end)
            if packet is not None:
                found.append(packet)
        at = end + 3 & ~3
    return found


def _read_packet(data: bytearray, start: int, end: int) -> QueuedPacket | None:
    """The packet in a message's attributes; None when there is none."""
    ticket = payload = b""
    mark = 0
    arrived = unsummed = False
    whole = True
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        stop = start + length
        if length < 4 or stop > end:
            break
        if kind == _PAYLOAD:
            payload = bytes(data[start + 4 : stop])
        elif kind == _PACKET_HDR and length == _HEADER:
            ticket = bytes(data[start + 4 : start + 8])
            arrived = data[stop - 1] == _PRE_ROUTING
        elif kind == _MARK and length == 8:
            (mark,) = _BIG.unpack_from(data, start + 4)
        elif kind == _INFO and length == 8:
            unsummed = bool(data[stop - 1] & _NO_CHECKSUM)
        elif kind == _WHOLE_SIZE:  # only there when it is more than what is shown
            whole = False
        start = stop + 3 & ~3
    return QueuedPacket(ticket, mark, payload, arrived, whole, unsummed) if ticket else None


class Verdicts:
    """Makes the verdicts of one queue."""

    __slots__ = ("_accept", "_accept_marked")

    def __init__(self, queue: int) -> None:
        # All that is the same in each of them: heads, the verdict attribute up to the ticket, and the mark's head.
        verdict = _ATTRIBUTE.pack(12, _VERDICT_HDR) + _BIG.pack(_ACCEPT)
        blank = bytes(4)
        self._accept = message(_VERDICT, verdict + blank, resource=queue)[:-4]
        marked = message(_VERDICT, verdict + blank + attribute(_MARK, blank), resource=queue)
        self._accept_marked = marked[: HEAD + 8]

    def accept(self, ticket: bytes) -> bytes:
        """Let the packet go on as it is."""
        return self._accept + ticket

    def accept_marked(self, ticket: bytes, mark: int) -> bytes:
        """Let the packet go on with another mark."""
        return self._accept_marked + ticket + _MARK_HEAD + _BIG.pack(mark)

    def accept_as_read(self, ticket: bytes, mark: int, data: bytes) -> bytes:
        """Let the packet go on with another mark, and with these bytes."""
        request = self.accept_marked(ticket, mark) + attribute(_PAYLOAD, data)
        return _LENGTH.pack(len(request)) + request[_LENGTH.size :]


_MARK_HEAD: Final = _ATTRIBUTE.pack(8, _MARK)
