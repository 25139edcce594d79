"""The edge to nftables: the rules that are in this network namespace, over netlink, without the program nft.

Works in the network namespace of the calling thread, and takes CAP_NET_ADMIN.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from datapath.errors import RulesetError
from datapath.mesh.detect_nft import Expression, NativeRule
from datapath.stepaside.nfnetlink import DUMP, REQUEST, message, read_attributes
from datapath.stepaside.nfnetlink_socket import dumped, opened

_NFTABLES: Final = 10 << 8
"""NFNL_SUBSYS_NFTABLES"""
_NEWRULE: Final = _NFTABLES | 6
_GETRULE: Final = _NFTABLES | 7
_INET: Final = 1
"""NFPROTO_INET, the family of Istio's tables."""
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4
"""NFTA_RULE_…"""
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_PATIENCE: Final = 5.0
_TRIES: Final = 3
"""Dumps of rules that change meanwhile may lack some: try again, but not for ever."""


def inet_rules() -> list[NativeRule]:
    """The rules of all tables for both families (``table inet``). Raises :class:`RulesetError`."""
    try:
        with opened(_PATIENCE) as sock:
            for _ in range(_TRIES):
                found, complete = _dump(sock)
                if complete:
                    break
            return found
    except OSError as error:
        raise RulesetError(f"The rules of nftables cannot be read: {error.strerror or error}.") from None


def _dump(sock: socket.socket) -> tuple[list[NativeRule], bool]:
    """All rules, and whether that was all."""
    found: list[NativeRule] = []
    request = message(_GETRULE, b"", family=_INET, flags=REQUEST | DUMP, sequence=1)
    complete = dumped(sock, request, _NEWRULE, lambda data, start, end: found.append(read_rule(bytes(data[start:end]))))
    return found, complete


def read_rule(attributes: bytes) -> NativeRule:
    """A rule, of a message's attributes. Pure."""
    held = {kind: attributes[start:end] for kind, start, end in read_attributes(attributes, 0, len(attributes))}
    expressions = tuple(_expressions(held.get(_EXPRESSIONS, b"")))
    return NativeRule(_text(held.get(_TABLE, b"")), _text(held.get(_CHAIN, b"")), expressions)


def _expressions(data: bytes) -> Iterator[Expression]:
    for _, start, end in read_attributes(data, 0, len(data)):
        held = {kind: data[at:to] for kind, at, to in read_attributes(data, start, end)}
        yield Expression(_text(held.get(_EXPRESSION_NAME, b"")), held.get(_EXPRESSION_DATA, b""))


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
