"""Reads the nftables rules of the calling thread's network namespace over netlink, without the program nft.

Requires CAP_NET_ADMIN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from datapath.errors import RulesetError
from datapath.mesh.detect_nft import Expression, NativeRule
from tc_core.netlink.codec import DUMP, REQUEST, NetlinkError, attributes, read_attributes, string
from tc_core.netlink.netfilter import NFGENMSG_SIZE, message
from tc_core.netlink.socket import NETFILTER, NetlinkSocket

_NFTABLES: Final = 10 << 8
"""NFNL_SUBSYS_NFTABLES"""
_GETRULE: Final = _NFTABLES | 7
_INET: Final = 1
"""NFPROTO_INET, the family of Istio's tables."""
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4
"""NFTA_RULE_…"""
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2


def inet_rules() -> list[NativeRule]:
    """The rules of all tables for both families (``table inet``). Raises :class:`RulesetError`."""
    try:
        with NetlinkSocket(NETFILTER) as sock:
            found = sock.ask(message(_GETRULE, family=_INET, flags=REQUEST | DUMP))
    except NetlinkError as error:
        raise RulesetError(f"The rules of nftables cannot be read: {error.detail}.") from None
    return [read_rule(payload[NFGENMSG_SIZE:]) for payload in found]


def read_rule(data: bytes) -> NativeRule:
    """Parse a rule from a message's attributes. Pure."""
    held = attributes(data)
    return NativeRule(string(held, _TABLE), string(held, _CHAIN), tuple(_expressions(held.get(_EXPRESSIONS, b""))))


def _expressions(data: bytes) -> Iterator[Expression]:
    for _, start, end in read_attributes(data, 0, len(data)):
        held = attributes(data[start:end])
        yield Expression(string(held, _EXPRESSION_NAME), held.get(_EXPRESSION_DATA, b""))
