"""Detects Istio by its native nftables rules (``values.global.nativeNftables``). Pure.

``iptables-save`` does not show them. The tables are named ``istio-proxy-…`` for the sidecar and ``istio-ambient-…`` in
the ambient mode (https://github.com/istio/istio/blob/master/tools/istio-nftables/pkg/README.md); their rules are
equivalent to those that :mod:`datapath.mesh.detect` reads. A rule is a sequence of the kernel's expressions
(linux/netfilter/nf_tables.h), which load registers, compare them and finally act.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from datapath.mesh.detect import REDIRECT, TPROXY, DetectedMesh
from datapath.mesh.types import ISTIO, ISTIO_AMBIENT
from tc_core.netlink.codec import attributes
from traffic_policy.marks import Mark
from traffic_policy.settings import Mesh

_SIDECAR: Final = "istio-proxy-"
_AMBIENT: Final = "istio-ambient-"
_OUTPUT: Final = "istio-output"
"""The chain that returns the proxy's own packets, in any of its tables."""
_META_KEY, _KEY_MARK, _KEY_SKGID = 2, 3, 11
"""NFTA_META_KEY, NFT_META_MARK, NFT_META_SKGID."""
_CMP_OP, _CMP_DATA, _EQUAL, _OTHER = 2, 3, 0, 1
"""NFTA_CMP_OP, NFTA_CMP_DATA, NFT_CMP_EQ, NFT_CMP_NEQ."""
_BITWISE_MASK: Final = 4
_IMMEDIATE_DATA: Final = 2
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE = 1, 2, 1
_RETURN: Final = (-5).to_bytes(4, "big", signed=True)
"""NFT_RETURN"""
_PORT_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression of a rule: its name, and its attributes as received from the kernel."""

    name: str
    attributes: bytes

    def attribute(self, *path: int) -> bytes:
        """The payload of the attribute at this path of nested types; empty if missing."""
        data = self.attributes
        for kind in path:
            data = attributes(data).get(kind, b"")
        return data

    def number(self, kind: int) -> int:
        """A number in network byte order; -1 if missing."""
        data = self.attribute(kind)
        return int.from_bytes(data, "big") if data else -1


@dataclass(frozen=True, slots=True)
class NativeRule:
    """A rule of nftables, with its table and chain."""

    table: str
    chain: str
    expressions: tuple[Expression, ...]


def detect_native_mesh(rules: Sequence[NativeRule]) -> DetectedMesh | None:
    """The mesh whose rules are among these; None if no known one."""
    if ambient := [rule for rule in rules if rule.table.startswith(_AMBIENT)]:
        mark = next(_marks_redirected(ambient), ISTIO_AMBIENT.mark)
        return DetectedMesh(Mesh.ISTIO, ISTIO_AMBIENT.title, replace(ISTIO_AMBIENT, mark=mark), ports=_ports(ambient))
    if sidecar := [rule for rule in rules if rule.table.startswith(_SIDECAR)]:
        proxy = replace(ISTIO, group=next(_groups_let_go(sidecar), ISTIO.group))
        inbound = TPROXY if any(each.name == "tproxy" for rule in sidecar for each in rule.expressions) else REDIRECT
        return DetectedMesh(Mesh.ISTIO, proxy.title, proxy, inbound, _ports(sidecar))
    return None


def _groups_let_go(rules: Iterable[NativeRule]) -> Iterator[int]:
    """``meta skgid N return``: the groups whose packets are returned unconditionally."""
    for rule in rules:
        steps = [each for each in rule.expressions if each.name != "counter"]
        if rule.chain != _OUTPUT or [each.name for each in steps] != ["meta", "cmp", "immediate"]:
            continue
        owner, compared, last = steps
        returns = last.attribute(_IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE) == _RETURN
        if owner.number(_META_KEY) == _KEY_SKGID and compared.number(_CMP_OP) == _EQUAL and returns:
            yield _host_number(compared.attribute(_CMP_DATA, _DATA_VALUE))


def _marks_redirected(rules: Iterable[NativeRule]) -> Iterator[Mark]:
    """``mark and MASK != VALUE … redirect``: the marks whose packets are not redirected."""
    for rule in rules:
        steps = rule.expressions
        if rule.chain != _OUTPUT or not any(each.name == "redir" for each in steps):
            continue
        for loaded, masked, compared in zip(steps, steps[1:], steps[2:], strict=False):
            names = loaded.name, masked.name, compared.name
            if names == ("meta", "bitwise", "cmp") and loaded.number(_META_KEY) == _KEY_MARK:
                mask = _host_number(masked.attribute(_BITWISE_MASK, _DATA_VALUE))
                value = _host_number(compared.attribute(_CMP_DATA, _DATA_VALUE))
                if compared.number(_CMP_OP) == _OTHER and value & mask == value:
                    yield Mark(value, mask)


def _ports(rules: Iterable[NativeRule]) -> tuple[int, ...]:
    """The ports to which rules redirect, without duplicates: the value loaded just before."""
    found: dict[int, None] = {}
    for rule in rules:
        for loaded, done in zip(rule.expressions, rule.expressions[1:], strict=False):
            port = loaded.attribute(_IMMEDIATE_DATA, _DATA_VALUE)
            if done.name in ("redir", "tproxy") and loaded.name == "immediate" and len(port) >= _PORT_BYTES:
                found[int.from_bytes(port[:_PORT_BYTES], "big")] = None
    return tuple(found)


def _host_number(data: bytes) -> int:
    """An id or a mark, which nftables compares in host byte order."""
    return int.from_bytes(data, sys.byteorder)
