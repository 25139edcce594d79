"""Netlink messages and attributes, as bytes in and bytes out (linux/netlink.h, netlink(7)).

A message is a ``struct nlmsghdr``, a head of its family, and attributes. Numbers are in host byte order, except where a
family says otherwise (netfilter's attributes are in network byte order).
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

REQUEST: Final = 0x01
ACK: Final = 0x04
DUMP: Final = 0x300
"""NLM_F_ROOT | NLM_F_MATCH: all objects there are."""
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
DUMP_INTERRUPTED: Final = 0x10
"""NLM_F_DUMP_INTR: what is dumped changed meanwhile, so that parts of it may be old."""
_CAPPED: Final = 0x100
_ACK_TLVS: Final = 0x200

NLMSG_ERROR: Final = 2
"""An error, or with error 0 the acknowledgement that was asked for."""
NLMSG_DONE: Final = 3
NESTED: Final = 0x8000
"""NLA_F_NESTED: the attribute holds attributes."""
_TYPE: Final = 0x3FFF
"""NLA_TYPE_MASK: the attribute's type without its flags."""
_ERROR_MESSAGE: Final = 1
"""NLMSGERR_ATTR_MSG: the kernel's own words."""

NLMSGHDR: Final = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port."""
_NLATTR: Final = struct.Struct("=HH")
_unpack_head: Final = _NLATTR.unpack_from
_ERROR: Final = struct.Struct("=i")


class NetlinkError(OSError):
    """The kernel refused a request. ``words`` are its own explanation (NETLINK_EXT_ACK), empty without one."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.words = words.strip().rstrip(".")

    @property
    def detail(self) -> str:
        """The kernel's words, with the meaning of the number behind them."""
        meaning = str(self.strerror)
        return f"{self.words} ({meaning})" if self.words and self.words != meaning else meaning


class Message(NamedTuple):
    """A message as received: what follows its header is ``data[start:end]``."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the message with its header."""
        return self.end - self.start + NLMSGHDR.size


def message(kind: int, payload: bytes, *, flags: int = REQUEST, sequence: int = 0) -> bytes:
    """A whole message."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(payload), kind, flags, sequence, 0) + payload


def attribute(kind: int, data: bytes = b"") -> bytes:
    """One attribute, padded to a multiple of four bytes."""
    return _NLATTR.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """An attribute with a number of 32 bits; a negative one as its two's complement."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, sys.byteorder))


def u64(kind: int, value: int) -> bytes:
    """An attribute with a number of 64 bits."""
    return attribute(kind, value.to_bytes(8, sys.byteorder))


def text(kind: int, value: str) -> bytes:
    """An attribute with a text, which a zero byte ends."""
    return attribute(kind, value.encode() + b"\0")


def read_messages(data: bytes | bytearray, size: int) -> Iterator[Message]:
    """The messages in the first ``size`` bytes; what is cut off at the end is left out."""
    at = 0
    while at + NLMSGHDR.size <= size:
        length, kind, flags, sequence, _ = NLMSGHDR.unpack_from(data, at)
        if length < NLMSGHDR.size or at + length > size:
            return
        yield Message(kind, flags, sequence, at + NLMSGHDR.size, at + length)
        at += length + 3 & ~3


def read_attributes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each attribute's data."""
    while start + 4 <= end:
        length, kind = _NLATTR.unpack_from(data, start)
        if length < 4 or start + length > end:
            return
        yield kind & _TYPE, start + 4, start + length
        start += length + 3 & ~3


Attributes = Mapping[int, bytes]
"""The data of attributes by their type."""


def attributes(data: bytes, start: int = 0) -> Attributes:
    """The attributes from ``start`` to the end of ``data``; of a type that is there twice, the last."""
    # As read_attributes() does it, which takes twice as long: an answer about a link has fifty of them.
    found = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _unpack_head(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & _TYPE] = data[start + 4 : start + length]
        start += length + 3 & ~3
    return found


def number(found: Attributes, kind: int, default: int = 0, *, signed: bool = False) -> int:
    """The number in an attribute, or the default where the kernel sends none."""
    data = found.get(kind)
    return default if data is None else int.from_bytes(data, sys.byteorder, signed=signed)


def string(found: Attributes, kind: int) -> str:
    """The text in an attribute; empty where the kernel sends none."""
    return found.get(kind, b"").partition(b"\0")[0].decode("utf-8", "replace")


def error_of(data: bytes | bytearray, found: Message) -> int:
    """The errno in a message of the kind NLMSG_ERROR; 0: an acknowledgement."""
    return -int(_ERROR.unpack_from(data, found.start)[0])


def words_of(data: bytes | bytearray, found: Message) -> str:
    """The kernel's explanation in a message of the kind NLMSG_ERROR, behind the request that it repeats; or nothing."""
    if not found.flags & _ACK_TLVS:
        return ""
    (length,) = struct.unpack_from("=I", data, found.start + _ERROR.size)
    repeated = NLMSGHDR.size if found.flags & _CAPPED else length + 3 & ~3
    said = attributes(bytes(data[found.start + _ERROR.size + repeated : found.end]))
    return string(said, _ERROR_MESSAGE)
