"""Deletes an nftables chain or table if, and only if, it is empty.

``nft delete table`` deletes the table with its content, so a rule added between a check and the deletion would be lost.
With NLM_F_NONREC the kernel refuses to delete what is not empty (nf_tables_api.c). No command sets this flag, hence
these two netlink messages.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from tc_core.netlink.codec import ACK, REQUEST, NetlinkError, text
from tc_core.netlink.netfilter import message
from tc_core.netlink.socket import NETFILTER, NetlinkSocket

_SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES; the rest is from linux/netfilter/nfnetlink.h and nf_tables.h."""
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_DELETE_TABLE: Final = _SUBSYSTEM << 8 | 2
_DELETE_CHAIN: Final = _SUBSYSTEM << 8 | 5
_TABLE_NAME: Final = 1
"""NFTA_TABLE_NAME; NFTA_CHAIN_TABLE has the same number."""
_CHAIN_NAME: Final = 3
_NONREC: Final = 0x100
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
"""NFPROTO_IPV4 and NFPROTO_IPV6 have the same numbers."""
_NO_MATTER: Final = (errno.ENOENT, errno.EBUSY)


def delete_empty_chain(version: int, table: str, chain: str) -> bool:
    """Delete a chain without rules; False if it has some or does not exist. Raises OSError for other errors."""
    return _delete(version, _DELETE_CHAIN, text(_TABLE_NAME, table) + text(_CHAIN_NAME, chain))


def delete_empty_table(version: int, table: str) -> bool:
    """Delete a table without chains; False if it has some or does not exist. Raises OSError for other errors."""
    return _delete(version, _DELETE_TABLE, text(_TABLE_NAME, table))


def _delete(version: int, kind: int, attributes: bytes) -> bool:
    batch = (
        message(_BATCH_BEGIN, resource=_SUBSYSTEM)
        + message(kind, attributes, family=_FAMILY[version], flags=REQUEST | ACK | _NONREC)
        + message(_BATCH_END, resource=_SUBSYSTEM)
    )
    try:
        with NetlinkSocket(NETFILTER) as netlink:
            netlink.ask(batch)
    except NetlinkError as error:
        if error.errno not in _NO_MATTER:
            raise
        return False
    return True
