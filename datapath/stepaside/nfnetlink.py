"""Netfilter's netlink messages: heads and attributes, as bytes in and bytes out.

linux/netlink.h and linux/netfilter/nfnetlink.h. A message is a ``struct nlmsghdr`` (host byte order), a
``struct nfgenmsg`` (whose resource id is in network byte order) and attributes; what attributes hold is in network byte
order throughout netfilter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

HEAD: Final = 20
"""Bytes of both heads: where the attributes begin."""
REQUEST: Final = 0x01
ACK: Final = 0x04
DUMP: Final = 0x300
"""NLM_F_ROOT | NLM_F_MATCH: all objects there are."""
DUMP_INTERRUPTED: Final = 0x10
"""NLM_F_DUMP_INTR: what is dumped changed meanwhile."""
NLMSG_ERROR: Final = 2
"""An error, or with error 0 the acknowledgement that was asked for."""
NLMSG_DONE: Final = 3

NESTED: Final = 0x8000
"""NLA_F_NESTED: the attribute holds attributes."""
_TYPE: Final = 0x3FFF
"""NLA_TYPE_MASK: the attribute's type without its flags."""
_NLMSGHDR: Final = struct.Struct("=IHHII")
_NFGENMSG: Final = struct.Struct(">BBH")
_NLATTR: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")


class Message(NamedTuple):
    """A message as received: its attributes are ``data[start:end]``.

    ``kind`` is the subsystem in the upper byte and the operation in the lower one; ``resource`` is the queue's number.
    """

    kind: int
    flags: int
    sequence: int
    resource: int
    start: int
    end: int


def message(
    kind: int, attributes: bytes, *, family: int = 0, resource: int = 0, flags: int = REQUEST, sequence: int = 0
) -> bytes:
    """A whole message. ``family`` is an AF number."""
    head = _NLMSGHDR.pack(HEAD + len(attributes), kind, flags, sequence, 0)
    return head + _NFGENMSG.pack(family, 0, resource) + attributes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to a multiple of four bytes."""
    return _NLATTR.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def read_messages(data: bytes | bytearray, size: int) -> Iterator[Message]:
    """The messages in the first ``size`` bytes; what is cut off at the end is left out."""
    at = 0
    while at + HEAD <= size:
        length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, at)
        if length < HEAD or at + length > size:
            return
        yield Message(kind, flags, sequence, data[at + 18] << 8 | data[at + 19], at + HEAD, at + length)
        at += length + 3 & ~3


def read_attributes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each attribute's data."""
    while start + 4 <= end:
        length, kind = _NLATTR.unpack_from(data, start)
        if length < 4 or start + length > end:
            return
        yield kind & _TYPE, start + 4, start + length
        start += length + 3 & ~3


def error_of(data: bytes | bytearray, found: Message) -> int:
    """The errno in a message of the kind NLMSG_ERROR (which has no ``struct nfgenmsg``); 0: an acknowledgement."""
    return -int(_ERROR.unpack_from(data, found.start - _NFGENMSG.size)[0])
