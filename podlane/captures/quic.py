"""Is a UDP datagram QUIC's? Pure, and no more than can be said without opening it.

Only long headers of the versions 1 and 2 tell (RFC 9000 17.2, RFC 9369 3); every connection begins with some. Version
negotiation, short headers and everything else look like any other bytes.
"""

from __future__ import annotations

from typing import Final

_LONG_AND_FIXED: Final = 0xC0
"""Header form and fixed bit: both are 1 in long headers of these versions."""
_VERSIONS: Final = (b"\x00\x00\x00\x01", b"\x6b\x33\x43\xcf")
_MAX_CONNECTION_ID: Final = 20


def is_quic(data: bytes, start: int) -> bool:
    """Whether the datagram whose payload begins at ``start`` has a QUIC long header of version 1 or 2."""
    if len(data) < start + 7 or data[start] & _LONG_AND_FIXED != _LONG_AND_FIXED:
        return False
    if data[start + 1 : start + 5] not in _VERSIONS:
        return False
    destination_id = data[start + 5]
    at = start + 6 + destination_id
    return destination_id <= _MAX_CONNECTION_ID and len(data) > at and data[at] <= _MAX_CONNECTION_ID
