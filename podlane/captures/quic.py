"""QUIC in UDP flows: which datagrams are QUIC's, and what the client's first ones say. Pure.

Only long headers of the versions 1 and 2 tell (RFC 9000 17.2, RFC 9369 3); every connection begins with some. Version
negotiation, short headers and everything else look like any other bytes. Whether the Initials can then be opened, and
in which direction, is for :class:`sidecar.protocols.quic_initial.QuicInitialReader` to say.
"""

from __future__ import annotations

from typing import Final

from podlane.errors import CaptureError
from sidecar.protocols.client_hello import ClientHello
from sidecar.protocols.detect import Detection, Protocol
from sidecar.protocols.outcome import NeedMore, Reason, Rejected
from sidecar.protocols.quic_initial import QuicInitialReader
from sidecar.protocols.quic_packets import read_header

_FIXED: Final = 0x40
"""Is 1 in packets of these versions, or the server would have had to allow otherwise before (RFC 9287)."""


def is_quic(data: bytes, start: int = 0) -> bool:
    """Whether the datagram whose payload begins at ``start`` has a QUIC long header of version 1 or 2."""
    header = read_header(data, start)
    return header is not None and header.known and bool(header.first & _FIXED)


def read_datagram(reader: QuicInitialReader, datagram: bytes) -> Detection | None:
    """Show a side's next datagram to its reader; what that decided, or None. Raises CaptureError.

    The protocol is given as TLS: it is TLS's handshake that QUIC carries (RFC 9001).
    """
    try:
        outcome = reader.feed(datagram)
    except ImportError:
        raise CaptureError(
            "QUIC in a capture cannot be read without the package cryptography. Run: pip install 'podlane[captures]'"
        ) from None
    match outcome:
        case NeedMore():
            return None
        case Rejected(reason):
            return Detection(Protocol.TLS, reason)
        case ClientHello(sni, alpn, ech):
            return Detection(Protocol.TLS, Reason.FOUND, sni=sni, alpn=alpn, ech=ech)
