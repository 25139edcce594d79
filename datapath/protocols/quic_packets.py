"""Parser of QUIC's long headers: the packets in a datagram and their boundaries. No cryptography.

Every connection begins with packets that have long headers, and a datagram may contain several of them (RFC 9000 12.2).
After the last one follows a packet with a short header, which has no length, or padding. Versions 1 and 2 (RFC 9000,
RFC 9369) and the last drafts of version 1 are parsed completely; of other versions only the invariants of RFC 8999.

On the sending machine several datagrams may appear as one large one, which the network card will segment (UDP_SEGMENT
in udp(7)). Initials that fill their datagrams follow each other like coalesced ones; if something else is at the end of
a datagram, the next one is found by the version and the id that it shares with the first.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

VERSION_1: Final = 0x00000001
"""RFC 9000 15."""
VERSION_2: Final = 0x6B3343CF
"""RFC 9369 3.1."""
DRAFTS: Final = range(0xFF00001D, 0xFF000023)
"""draft-ietf-quic-transport-29 to -34, whose packets are those of version 1. Clients and captures of 2020 and 2021 have
them; of older drafts nothing is left."""

MIN_DATAGRAM: Final = 1200
"""Bytes of a client's datagram with an Initial, at least (RFC 9000 14.1)."""

_LONG: Final = 0x80
_MAX_CONNECTION_ID: Final = 20
"""Bytes; more only in other versions (RFC 9000 17.2)."""
_SAMPLE_END: Final = 20
"""Bytes from the packet number to the end of the sample for header protection (RFC 9001 5.4.2): no packet has fewer."""

_VARIABLE_MASKS: Final = {size: (1 << (8 * size - 2)) - 1 for size in (1, 2, 4, 8)}
"""By the bytes of a variable-length integer: all bits but the first two."""


class PacketType(enum.Enum):
    """What a long header begins (RFC 9000 17.2)."""

    INITIAL = enum.auto()
    ZERO_RTT = enum.auto()
    HANDSHAKE = enum.auto()
    RETRY = enum.auto()


_KINDS_1: Final = (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE, PacketType.RETRY)
_KINDS: Final = {
    VERSION_1: _KINDS_1,
    VERSION_2: (PacketType.RETRY, PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE),
    **dict.fromkeys(DRAFTS, _KINDS_1),
}
"""By the two bits of the packet type; version 2 counts from another one (RFC 9369 3.2)."""


class LongHeader(NamedTuple):
    """What all versions have in common (RFC 8999 5.1). ``end`` is where the version's own part begins."""

    first: int
    version: int
    destination_id: bytes
    end: int

    @property
    def known(self) -> bool:
        """Whether packets of this version can be parsed."""
        return self.version in _KINDS


class LongPacket(NamedTuple):
    """A whole packet of a known version: its bytes, and where in them the (protected) packet number begins."""

    version: int
    kind: PacketType
    destination_id: bytes
    data: bytes
    number_at: int


PacketName = tuple[int, bytes]
"""Version and destination id: in a client's first Initial they make the keys of all its Initials."""


class CutShortError(Exception):
    """Bytes are missing. Stays within the readers of QUIC, which turn it into an outcome."""


class Cursor:
    """Reads integers and byte strings one after the other; raises :class:`CutShortError` at the end of the data."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self.at + size
        if end > len(self.data):
            raise CutShortError
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def integer(self, size: int) -> int:
        """An integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def variable(self) -> int:
        """An integer whose first two bits say how many bytes it has (RFC 9000 16)."""
        data, at = self.data, self.at
        end = at + (1 << (data[at] >> 6)) if at < len(data) else at + 1
        if end > len(data):
            raise CutShortError
        self.at = end
        return int.from_bytes(data[at:end], "big") & _VARIABLE_MASKS[end - at]


def read_header(data: bytes, at: int = 0) -> LongHeader | None:
    """The long header at ``at``; None when there is none, or not the whole of it."""
    if len(data) <= at or not data[at] & _LONG:
        return None
    cursor = Cursor(data, at)
    try:
        first, version = cursor.integer(1), cursor.integer(4)
        destination_id = cursor.take(cursor.integer(1))
        source_id = cursor.take(cursor.integer(1))
    except CutShortError:
        return None
    if version in _KINDS and max(len(destination_id), len(source_id)) > _MAX_CONNECTION_ID:
        return None
    return LongHeader(first, version, destination_id, cursor.at)


def read_packets(datagram: bytes) -> list[LongPacket]:
    """The packets of known versions with long headers at the beginning of a datagram, as far as they are whole.

    Those for another destination id than the first one's are left out, as every receiver does (RFC 9000 12.2).
    """
    packets: list[LongPacket] = []
    at = 0
    while at >= 0:
        header = read_header(datagram, at)
        if header is None or not header.known:
            at = _next_segment(datagram, at)
            continue
        kind = _KINDS[header.version][header.first >> 4 & 3]
        if kind is PacketType.RETRY:  # it has no length, and only servers send it
            break
        cursor = Cursor(datagram, header.end)
        try:
            if kind is PacketType.INITIAL:
                cursor.take(cursor.variable())  # the token
            length = cursor.variable()
            number_at = cursor.at
            cursor.take(length)
        except CutShortError:
            break
        if length < _SAMPLE_END:
            break
        if not packets or header.destination_id == packets[0].destination_id:
            data = datagram[at : cursor.at]
            packets.append(LongPacket(header.version, kind, header.destination_id, data, number_at - at))
        at = cursor.at
    return packets


def _next_segment(data: bytes, at: int) -> int:
    """Where the next of several datagrams in one begins like the first; -1 when there is none behind ``at``."""
    first = read_header(data) if len(data) - at >= MIN_DATAGRAM else None
    if first is None or not at:
        return -1
    alike = data[1 : 6 + len(first.destination_id)]
    found = data.find(alike, at + 2)  # not here again, where a header may begin like the first and then be none
    return found - 1 if found > 0 and data[found - 1] & _LONG else -1


def begins_with(datagram: bytes) -> PacketName | None:
    """The name of the first Initial in a datagram, which may stand behind other packets; None when there is none."""
    for packet in read_packets(datagram):
        if packet.kind is PacketType.INITIAL:
            return packet.version, packet.destination_id
    return None


def is_short(datagram: bytes) -> bool:
    """Whether it begins with a packet that has a short header, as clients send when the handshake is behind them."""
    return bool(datagram) and not datagram[0] & _LONG
