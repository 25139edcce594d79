"""Whether a client that has said so much has nothing more to say before it is answered. Pure."""

from __future__ import annotations

import re
from typing import Final

from datapath.protocols.sniff import TLS_BEGINNING

_RECORD_HEADER: Final = 5
"""Bytes (RFC 8446 5.1)."""
_EARLY_DATA: Final = b"\0\x2a\0\0"
"""The extension early_data of a ClientHello, which is empty (RFC 8446 4.2.10). Chance may bring the same bytes."""
_WITHOUT_BODY: Final = (b"GET ", b"HEAD ")
_BODY: Final = re.compile(rb"\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)
"""Fields that announce a body (RFC 9112 6); GET may have one."""


def awaits_answer(data: bytes | bytearray) -> bool:
    """Whether ``data``, the first bytes of a connection, ends with a request that has no body, or with a ClientHello.

    When in doubt it says no.
    """
    if data[:2] == TLS_BEGINNING:
        whole = len(data) > _RECORD_HEADER and len(data) == _RECORD_HEADER + (data[3] << 8 | data[4])
        return whole and _EARLY_DATA not in data
    return data.startswith(_WITHOUT_BODY) and data.endswith(b"\r\n\r\n") and _BODY.search(data) is None
