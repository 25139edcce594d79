"""The head of netfilter's messages, for all its subsystems (linux/netfilter/nfnetlink.h). No I/O.

What their attributes hold is in network byte order throughout.
"""

from __future__ import annotations

import struct
from typing import Final

from tc_core.netlink import codec
from tc_core.netlink.codec import NLMSGHDR, REQUEST

_NFGENMSG: Final = struct.Struct(">BBH")
"""struct nfgenmsg: family, version, resource id."""
NFGENMSG_SIZE: Final = _NFGENMSG.size
HEAD: Final = NLMSGHDR.size + NFGENMSG_SIZE
"""Bytes of both heads: where the attributes begin."""


def message(
    kind: int, attributes: bytes = b"", *, family: int = 0, resource: int = 0, flags: int = REQUEST, sequence: int = 0
) -> bytes:
    """A whole message. ``kind`` is the subsystem in the upper byte and the operation in the lower one.

    ``family`` is an AF number; ``resource`` is a queue's number, or a batch's subsystem.
    """
    return codec.message(kind, _NFGENMSG.pack(family, 0, resource) + attributes, flags=flags, sequence=sequence)
