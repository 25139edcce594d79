"""What nftables tells of a network namespace in one question: which tables there are, and whether any has changed
(linux/netfilter/nf_tables.h). ``iptables-nft`` keeps its rules there."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Final, NamedTuple

from tc_core.netlink.codec import DUMP, REQUEST, NetlinkError, attributes, string
from tc_core.netlink.netfilter import NFGENMSG_SIZE, message
from tc_core.netlink.socket import NETFILTER, NetlinkSocket

_NFTABLES: Final = 10 << 8
"""NFNL_SUBSYS_NFTABLES"""
_GETTABLE, _GETGEN = _NFTABLES | 1, _NFTABLES | 16
_TABLE_NAME, _GEN_ID = 1, 1
"""NFTA_TABLE_NAME, NFTA_GEN_ID"""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Generation(NamedTuple):
    """The state of all tables of a network namespace: while it is the same, nobody has changed any of them.

    ``namespace`` is a number that no other network namespace has had since ``boot``. ``number`` grows by one with each
    transaction.
    """

    boot: str
    namespace: int
    number: int

    @property
    def untouched(self) -> bool:
        """Whether nobody has ever changed a table (``base_seq`` of nf_tables_init_net() in nf_tables_api.c)."""
        return self.number == 1

    def after(self, transactions: int) -> Generation:
        """What it is after so many, without those of others."""
        return self._replace(number=self.number + transactions)


def generation() -> Generation | None:
    """That of the calling thread's network namespace; None if the kernel does not tell (it does since Linux 5.14)."""
    try:
        with NetlinkSocket(NETFILTER) as sock:
            [answer] = sock.ask(message(_GETGEN))
            namespace = sock.namespace()
    except NetlinkError:
        return None
    number = attributes(answer, NFGENMSG_SIZE).get(_GEN_ID, b"")
    return Generation(_boot(), namespace, int.from_bytes(number, "big"))


def tables(family: socket.AddressFamily) -> tuple[str, ...] | None:
    """The names of one family's tables in the calling thread's network namespace; None if the kernel does not tell."""
    try:
        with NetlinkSocket(NETFILTER) as sock:
            found = sock.ask(message(_GETTABLE, family=family, flags=REQUEST | DUMP))
    except NetlinkError:
        return None
    return tuple(string(attributes(each, NFGENMSG_SIZE), _TABLE_NAME) for each in found)


@functools.cache
def _boot() -> str:
    return _BOOT.read_text().strip()
