"""QUIC in UDP flows: which datagrams are QUIC's. Pure.

Only long headers of the versions 1 and 2 tell (RFC 9000 17.2, RFC 9369 3); every connection begins with some. Version
negotiation, short headers and everything else look like any other bytes. Whether the Initials can then be opened, and
in which direction, is for :class:`datapath.protocols.quic_initial.QuicInitialReader` to say.
"""

from __future__ import annotations

from typing import Final

from datapath.protocols.quic_packets import read_header

_FIXED: Final = 0x40
"""Is 1 in packets of these versions, or the server would have had to allow otherwise before (RFC 9287)."""


def is_quic(data: bytes, start: int = 0) -> bool:
    """Whether the datagram whose payload begins at ``start`` has a QUIC long header of version 1 or 2."""
    header = read_header(data, start)
    return header is not None and header.known and bool(header.first & _FIXED)
