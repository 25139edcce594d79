"""IPv4 and IPv6 headers: addresses, the transport protocol, and where its header begins. Pure.

Uses ``struct`` and slices, since scapy is too slow for large captures. Checksums are not verified: packets captured on
their way out have none yet (offloading).
"""

from __future__ import annotations

from typing import Final, NamedTuple

TCP: Final = 6
UDP: Final = 17
_TRANSPORT: Final = (TCP, UDP)

_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
"""IPv6 extension headers that say their length alike (RFC 6564): hop-by-hop, routing, destination options, mobility,
HIP, shim6."""
_TCP_CHECKSUM: Final = 16
"""Where it is in TCP's header (RFC 9293 3.1)."""
_MORE_FRAGMENTS_V4: Final = 0x2000
_OFFSET_V4: Final = 0x1FFF


class Fragment(NamedTuple):
    """A fragment's place in its datagram; ``offset`` in bytes."""

    identification: bytes
    offset: int
    more: bool


class Payload(NamedTuple):
    """What an IP packet carries: ``data[start:end]``. ``end`` lies behind the data when not all was captured."""

    addresses: bytes
    """Source, then destination, in network order."""
    protocol: int
    data: bytes
    start: int
    end: int
    fragment: Fragment | None = None


def read_ip(frame: bytes, at: int) -> Payload | None:
    """Read the IP packet at ``at``; None when its headers are not all there or not valid."""
    if len(frame) <= at:
        return None
    version = frame[at] >> 4
    return _ipv4(frame, at) if version == 4 else _ipv6(frame, at) if version == 6 else None


def tcp_as_it_leaves(packet: bytes, *, unsummed: bool) -> bytes | None:
    """A TCP packet with its checksum; None: this is no TCP. ``unsummed``: that was left to the network card.

    The checksum's field has the sum of the pseudo header then (CHECKSUM_PARTIAL, linux/skbuff.h), whatever that is.
    """
    ip = read_ip(packet, 0)
    if ip is None or ip.protocol != TCP or ip.fragment is not None or len(packet) < ip.start + _TCP_CHECKSUM + 2:
        return None
    if not unsummed:
        return packet
    at = ip.start + _TCP_CHECKSUM
    segment = packet[ip.start :] + bytes((len(packet) - ip.start) % 2)
    total = int.from_bytes(segment, "big") % 0xFFFF  # RFC 1071: the sum of 16-bit words, with carries
    return packet[:at] + (0xFFFF - total).to_bytes(2, "big") + packet[at + 2 :]


def _ipv4(frame: bytes, at: int) -> Payload | None:
    """RFC 791 3.1."""
    header = (frame[at] & 15) * 4
    if len(frame) < at + header or header < 20:
        return None
    length = frame[at + 2] << 8 | frame[at + 3]
    # Zero: a packet that the network card will segment, captured before it did.
    end = at + length if length else len(frame)
    if end < at + header:
        return None
    place = (frame[at + 6] << 8 | frame[at + 7]) & (_MORE_FRAGMENTS_V4 | _OFFSET_V4)
    fragment = None
    if place:
        identification = frame[at + 4 : at + 6]
        fragment = Fragment(identification, (place & _OFFSET_V4) * 8, bool(place & _MORE_FRAGMENTS_V4))
    return Payload(frame[at + 12 : at + 20], frame[at + 9], frame, at + header, end, fragment)


def _ipv6(frame: bytes, at: int) -> Payload | None:
    """RFC 8200 3. A payload length of zero is a jumbogram, or is left to the network card to fill in."""
    if len(frame) < at + 40:
        return None
    length = frame[at + 4] << 8 | frame[at + 5]
    end = at + 40 + length if length else len(frame)
    return behind_extensions(Payload(frame[at + 8 : at + 40], frame[at + 6], frame, at + 40, end))


def behind_extensions(payload: Payload) -> Payload | None:
    """Pass over IPv6 extension headers, up to the transport header or a fragment (RFC 8200 4.1)."""
    addresses, kind, data, at, end, _ = payload
    if kind in _TRANSPORT:
        return payload
    while True:
        if kind in _EXTENSIONS or kind == _AUTHENTICATION:
            if len(data) < at + 2:
                return None
            # RFC 4302 2.2: the authentication header counts in words of four bytes, less two.
            size = (data[at + 1] + 2) * 4 if kind == _AUTHENTICATION else (data[at + 1] + 1) * 8
            kind, at = data[at], at + size
        elif kind == _FRAGMENT:
            if len(data) < at + 8:
                return None
            place = data[at + 2] << 8 | data[at + 3]
            fragment = Fragment(data[at + 4 : at + 8], place & 0xFFF8, bool(place & 1))
            if fragment.offset or fragment.more:
                return Payload(addresses, data[at], data, at + 8, end, fragment)
            kind, at = data[at], at + 8  # an atomic fragment is a whole packet (RFC 6946)
        else:
            return Payload(addresses, kind, data, at, end) if at <= end else None
