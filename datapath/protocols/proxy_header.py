"""The PROXY protocol: what a load balancer says of its client before the client's own bytes. Passed over, not believed.

A header comes first and once, before anything else; what follows it is the connection as the client began it
(https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, 2). Addresses in it are not used here: classes are chosen
by those that packets have.

* Version 1 (2.1): ``PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\\r\\n``, or ``PROXY UNKNOWN`` with anything behind it.
* Version 2 (2.2): a signature, version and command, family, and the length of what follows, addresses and TLVs.
"""

from __future__ import annotations

import re
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""Of version 2."""
MAX_V1: Final = 107
"""Bytes of version 1 with its line end (2.1)."""
MAX_V2: Final = 4096
"""Bytes of version 2. Receivers must take 536 (2.2); what has a client's certificate in a TLV may be longer."""
_V2_HEAD: Final = 16
_V2: Final = 2
_V1_BEGINNING: Final = b"PROXY "
_V1: Final = re.compile(
    rb"PROXY (?:TCP[46](?: [0-9A-Fa-f:.]{2,39}){2}(?: [0-9]{1,5}){2}|UNKNOWN(?! +HTTP/1\.)(?: [^\r\n]*)?)\r\n"
)
"""(``PROXY UNKNOWN HTTP/1.1`` would be a request.)"""
FIRST_BYTES: Final = (_V1_BEGINNING[:1], SIGNATURE[:1])
"""How a stream must begin for :func:`header_size` to be worth its call."""


def header_size(data: bytes | bytearray) -> int | None:
    """How many bytes a header takes at the beginning of ``data``; 0: there is none, None: more bytes must tell."""
    if data.startswith(_V1_BEGINNING):
        found = _V1.match(data, 0, MAX_V1)
        if found is not None:
            return found.end()
        return 0 if len(data) >= MAX_V1 or b"\n" in data else None
    if not data.startswith(SIGNATURE):
        return None if SIGNATURE.startswith(data) or _V1_BEGINNING.startswith(data) else 0
    if len(data) < _V2_HEAD:
        return None
    size = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if data[12] >> 4 != _V2 or size > MAX_V2:
        return 0
    return size if len(data) >= size else None


def bytes_to_come(data: bytes | bytearray) -> int:
    """How many more :func:`header_size` needs at least, if it has said that it does."""
    if data.startswith(SIGNATURE) and len(data) >= _V2_HEAD:
        return _V2_HEAD + int.from_bytes(data[14:16], "big") - len(data)
    return 1
