"""Deletes an nftables chain or table if, and only if, nothing is in it.

``nft delete table`` takes everything in the table along, so whoever adds a rule between a look and the deletion loses
it. The kernel knows better: with NLM_F_NONREC it refuses to delete what is not empty (nf_tables_api.c). No command has
a word for that, hence these two netlink messages.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES; the rest is from linux/netfilter/nfnetlink.h and nf_tables.h."""
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_DELETE_TABLE: Final = 2
_DELETE_CHAIN: Final = 5
_TABLE_NAME: Final = 1
"""NFTA_TABLE_NAME, and NFTA_CHAIN_TABLE likewise."""
_CHAIN_NAME: Final = 3
_ERROR: Final = 2
"""NLMSG_ERROR, which carries an errno; 0 is an acknowledgement."""
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_NONREC: Final = 0x100
_FAMILY: Final = {4: 2, 6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6."""
_OURS: Final = 2
"""The sequence number of the message whose answer counts."""
_PATIENCE: Final = 5.0
"""Seconds for an answer; the kernel answers at once."""
_NO_MATTER: Final = (errno.ENOENT, errno.EBUSY)


def delete_empty_chain(version: int, table: str, chain: str) -> bool:
    """Delete a chain without rules; False when it has some or does not exist. Raises OSError for anything else."""
    return _delete(version, _DELETE_CHAIN, _attribute(_TABLE_NAME, table) + _attribute(_CHAIN_NAME, chain))


def delete_empty_table(version: int, table: str) -> bool:
    """Delete a table without chains; False when it has some or does not exist. Raises OSError for anything else."""
    return _delete(version, _DELETE_TABLE, _attribute(_TABLE_NAME, table))


def _delete(version: int, kind: int, attributes: bytes) -> bool:
    batch = (
        _message(_BATCH_BEGIN, _REQUEST, 1, 0, _SUBSYSTEM)
        + _message(_SUBSYSTEM << 8 | kind, _REQUEST | _ACK | _NONREC, _OURS, _FAMILY[version], 0, attributes)
        + _message(_BATCH_END, _REQUEST, 3, 0, _SUBSYSTEM)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(_PATIENCE)
        netlink.bind((0, 0))
        netlink.send(batch)
        number = _answer(netlink)
    if number and number not in _NO_MATTER:
        raise OSError(number, os.strerror(number))
    return number == 0


def _answer(netlink: socket.socket) -> int:
    """The errno that the kernel gives for our message, or for the batch as a whole; 0 for success."""
    while True:
        data = netlink.recv(65536)
        while len(data) >= 20:
            length, kind, _flags, sequence, _port, result = struct.unpack_from("=IHHIIi", data)
            if kind == _ERROR and (result or sequence == _OURS):
                return -int(result)
            data = data[(length + 3) & ~3 :]


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, attributes: bytes = b"") -> bytes:
    """A netlink header (netlink(7)), nfgenmsg, and attributes."""
    body = struct.pack("!BBH", family, 0, resource) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
