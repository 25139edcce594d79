"""Link layers: finds the offset of the IP packet in a frame. Pure.

Numbers are those of the files (https://www.tcpdump.org/linktypes.html). Tags and encapsulations between the link layer
and IP are skipped, in any order and number: 802.1Q and 802.1ad tags, LLC with SNAP, MPLS, PPPoE sessions, PPP.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

NOT_IP: Final = -1
"""The frame has another payload (ARP, LLDP, LCP ...), or is truncated before its IP header."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100})
"""EtherTypes of VLAN tags: 802.1Q, 802.1ad (QinQ), and what QinQ used before it had a number of its own."""
_MPLS: Final = frozenset({0x8847, 0x8848})
_LABEL: Final = 4
_LONGEST_802_3: Final = 1500
"""Up to here the number is a length, and LLC follows (IEEE 802.3 3.2.6)."""
_SNAP: Final = b"\xaa\xaa\x03\0\0\0"
"""LLC header and an organization code that says: an EtherType follows (RFC 1042)."""
_PPPOE_SESSION: Final = 0x8864
_PPPOE_HEADER: Final = 6
_PPP_IP: Final = frozenset({0x0021, 0x0057})
"""PPP protocol numbers of IPv4 and IPv6 (RFC 1332, RFC 5072)."""


def ip_start(link_type: int, frame: bytes) -> int:
    """The offset of the IP packet, or :data:`NOT_IP`. Raises KeyError for a link type that is not :func:`known`."""
    return _READERS[link_type](frame)


def known(link_type: int) -> bool:
    """Whether frames of this link type can be read."""
    return link_type in _READERS


def _after_type(frame: bytes, at: int) -> int:
    """The IP packet after the EtherType at ``at``, skipping tags."""
    while len(frame) >= at + 2:
        kind = frame[at] << 8 | frame[at + 1]
        if kind in (_IPV4, _IPV6):
            return at + 2
        if kind == _PPPOE_SESSION:
            return _ppp_at(frame, at + 2 + _PPPOE_HEADER)
        if kind in _MPLS:
            return _after_labels(frame, at + 2)
        if kind <= _LONGEST_802_3 and frame.startswith(_SNAP, at + 2):
            at += 2 + len(_SNAP)
        elif kind in _TAGS:
            at += 4  # two bytes of tag, then the next EtherType
        else:
            break
    return NOT_IP


def _after_labels(frame: bytes, at: int) -> int:
    """The IP packet after a stack of MPLS labels, the last of which has the lowest bit of its third byte (RFC 3032
    2.1).

    Nothing names the payload: a control word or Ethernet (RFC 4385) do not begin as IP does, except by chance.
    """
    while len(frame) > at + _LABEL:
        last = frame[at + 2] & 1
        at += _LABEL
        if last:
            return _raw_at(frame, at)
    return NOT_IP


def _ppp_at(frame: bytes, at: int) -> int:
    """The IP packet in a PPP frame.

    Address and control may be left out (RFC 1662 3.1), and so may the first byte of the protocol number (RFC 1661 6.5):
    the first one of two is even, the last one is odd.
    """
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    return _ppp_protocol(frame, at)


def _ppp_protocol(frame: bytes, at: int) -> int:
    if len(frame) < at + 2:
        return NOT_IP
    if frame[at] & 1:
        return at + 1 if frame[at] in _PPP_IP else NOT_IP
    return at + 2 if frame[at] << 8 | frame[at + 1] in _PPP_IP else NOT_IP


def _ppp_pppd(frame: bytes) -> int:
    """The direction stands where the address was: 00 or 01, then the control byte."""
    return _ppp_protocol(frame, 2) if frame[1:2] == b"\x03" else _ppp_at(frame, 0)


def _cooked2(frame: bytes) -> int:
    """The protocol comes first, the payload after 20 bytes; a VLAN tag stands in the payload."""
    kind = frame[:2]
    if kind in (b"\x08\x00", b"\x86\xdd"):
        return _raw_at(frame, 20)
    return _after_type(frame, 22) if int.from_bytes(kind, "big") in _TAGS else NOT_IP


def _raw_at(frame: bytes, at: int) -> int:
    return at if len(frame) > at and frame[at] >> 4 in (4, 6) else NOT_IP


_raw = partial(_raw_at, at=0)
_ppp = partial(_ppp_at, at=0)
# Four bytes of address family in some machine's byte order and numbering: the IP version tells more.
_loopback = partial(_raw_at, at=4)
_READERS: Final[dict[int, Callable[[bytes], int]]] = {
    0: _loopback,  # NULL: BSD loopback
    1: partial(_after_type, at=12),  # Ethernet
    9: _ppp,
    12: _raw,  # RAW as most systems number it inside, and some programs in files
    14: _raw,  # ... and OpenBSD
    50: _ppp,  # in HDLC-like framing
    51: partial(_ppp_at, at=_PPPOE_HEADER),
    101: _raw,
    108: _loopback,  # LOOP: OpenBSD loopback
    113: partial(_after_type, at=14),  # Linux cooked v1
    166: _ppp_pppd,
    204: partial(_ppp_at, at=1),  # behind a byte of direction
    228: _raw,  # IPv4
    229: _raw,  # IPv6
    276: _cooked2,  # Linux cooked v2
}
