"""Fields of requests and answers: HPACK (RFC 7541), and what RFC 9113 8 forbids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])")
"""RFC 9113 8.2.1."""
_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""RFC 9113 8.2.2."""
EMPTY_TABLE: Final = b"\x20"
"""At the start of a block: the dynamic table is empty and stays so (RFC 7541 6.3). What we send needs none."""


class MalformedFieldsError(Exception):
    """RFC 9113 8.1.1."""


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """As literals that nobody indexes (RFC 7541 6.2.2): needs no state on either side."""
    block = bytearray()
    for name, value in fields:
        block.append(0)
        for text in (name, value):
            _encode_length(len(text), block)
            block += text
    return bytes(block)


def _encode_length(value: int, block: bytearray) -> None:
    """An integer with a prefix of seven bits (RFC 7541 5.1)."""
    if value < 127:
        block.append(value)
        return
    block.append(127)
    value -= 127
    while value >= 128:
        block.append(value & 0x7F | 0x80)
        value >>= 7
    block.append(value)


def request_fields(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The fields of a request, of those with one name the first. Raises :class:`MalformedFieldsError`."""
    found: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in found:
                raise MalformedFieldsError(f"{_shown(name)} must not be there")
        else:
            regular = True
            _check_regular(name, value)
            if name == b"content-length" and found.get(name, value) != value:
                raise MalformedFieldsError("there are two lengths")
        if not _VALUE.fullmatch(value):
            raise MalformedFieldsError(f"the value of {_shown(name)} has forbidden characters")
        found.setdefault(name, value)
    if not (found.get(b":method") and found.get(b":scheme") and found.get(b":path")):
        raise MalformedFieldsError("method, scheme or path is missing")
    length = found.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) < 20):
        raise MalformedFieldsError("the length is no number")
    return found


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises :class:`MalformedFieldsError`."""
    for name, value in fields:
        _check_regular(name, value)


def _check_regular(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedFieldsError(f"{_shown(name)} is no name of a field")
    if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
        raise MalformedFieldsError(f"{_shown(name)} does not belong into HTTP/2")


def _shown(name: bytes) -> str:
    return repr(name[:40].decode("ascii", "replace"))
