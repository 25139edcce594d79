"""Rules that classify packets by the packet alone, and their form as sorted spans of numbers.

All criteria of a rule must hold; the values of one criterion are alternatives; an empty criterion holds for every
packet. A span is a first and a last number: ports, protocols and IPv4 addresses are spans of one number, IPv6 addresses
of four 32-bit words, so that one kind of search finds them all (:mod:`tc_core.bpf.packet_program`). Networks and ranges
that overlap or touch become one.

What the words mean, to the last byte:

* The protocol of an IPv4 packet is that of its header, the protocol of an IPv6 packet that of its last header:
  extension headers (:data:`EXTENSION_HEADERS`) are walked over, at most :data:`MAX_EXTENSION_HEADERS` of them. ESP and
  "no next header" end the walk, being protocols of their own. Where the walk fails (too many headers, a header of
  which the first eight bytes are not there, a later fragment that does not begin with a protocol) the packet has no
  protocol.
* Ports are those of protocols that have them where TCP does (:data:`PORTED`), in whole packets and first fragments.
  Later fragments have none, and neither have packets that end before them. A rule with ports and no protocol means
  TCP and UDP (docs/reference/policy.md).
* A packet without an IPv4 or IPv6 header, or with less than all of it, is matched only by rules without IP criteria.
* IPv4-mapped addresses (::ffff:10.0.0.1) in an IPv6 header are IPv6 addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from tc_core.handles import ROOT, Handle
from traffic_policy.marks import Mark
from traffic_policy.policy import Network, PortRange

TCP, UDP, DCCP, SCTP, UDP_LITE = 6, 17, 33, 132, 136
PORTED: Final = frozenset({TCP, UDP, DCCP, SCTP, UDP_LITE})
"""Protocols whose header begins with the source and the destination port, 16 bits each."""
PORTS_MEAN: Final = frozenset({TCP, UDP})
"""The protocols of a rule that names ports and no protocol."""

FRAGMENT, AUTHENTICATION = 44, 51
EXTENSION_HEADERS: Final = (0, 60, 43, FRAGMENT, AUTHENTICATION, 135, 139, 140)
"""Hop-by-hop and destination options, routing, fragment (RFC 8200 4), AH (RFC 4302 2), mobility (RFC 6275 6.1), HIP
(RFC 7401 5.1), shim6 (RFC 5533 5.1). Their lengths are in units of eight bytes, except that AH counts by four."""
MAX_EXTENSION_HEADERS: Final = 8
"""RFC 8200 4.1 recommends an order that has six before a protocol. Classic BPF has no loops: each one costs room."""

NO_PROTOCOL: Final = 0x100
"""Stands for "cannot be told": protocol numbers end at 255."""


@dataclass(frozen=True, slots=True)
class PacketRule:
    """Packets that meet all criteria belong to class ``target``. Raises ValueError for what no packet can have.

    ``protocols`` are IP protocol numbers, ``ports`` destination ports and ``source_ports`` the others, ``mark`` is
    compared with skb->mark under its mask. ICMP of both families is given as 1 and 58.
    """

    target: Handle
    source: tuple[Network, ...] = ()
    destination: tuple[Network, ...] = ()
    protocols: tuple[int, ...] = ()
    ports: tuple[PortRange, ...] = ()
    mark: Mark | None = None
    source_ports: tuple[PortRange, ...] = ()

    def __post_init__(self) -> None:
        if not (self.target.major and self.target.minor) or self.target == ROOT:
            raise ValueError(f"{self.target} is not the handle of a class. Write one such as 1:10.")
        for protocol in self.protocols:
            if not 0 <= protocol <= 0xFF:
                raise ValueError(f"{protocol} is not an IP protocol. Write a number from 0 to 255.")
        for ports in (*self.ports, *self.source_ports):
            if not 1 <= ports.first <= ports.last <= 0xFFFF:
                raise ValueError(
                    f"{ports} is not a range of ports. Write numbers from 1 to 65535, the lower one first."
                )

    @property
    def is_about_ip(self) -> bool:
        """Whether it needs an IP header."""
        return bool(self.source or self.destination or self.protocols or self.ports or self.source_ports)

    @property
    def takes_everything(self) -> bool:
        """Whether no packet gets past it."""
        return not self.is_about_ip and (self.mark is None or self.mark.mask == 0)


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers ``first`` to ``last``; with ``below``, one number, and the next word must be within one of these."""

    first: int
    last: int
    below: tuple[Span, ...] = ()

    @property
    def depth(self) -> int:
        """How many words have to be looked at."""
        return 1 + max((span.depth for span in self.below), default=0)


Spans = tuple[Span, ...]


def merged(pairs: Iterable[tuple[int, int]]) -> Spans:
    """Sorted spans of the same numbers, none of which touch."""
    spans: list[Span] = []
    for first, last in sorted(pairs):
        if spans and first <= spans[-1].last + 1:
            spans[-1] = Span(spans[-1].first, max(spans[-1].last, last))
        else:
            spans.append(Span(first, last))
    return tuple(spans)


def addresses(networks: Iterable[Network], version: int) -> Spans:
    """The addresses of one IP version in these networks. Spans of the first word, with what is below them."""
    if version == 4:
        v4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
        return _words([(int(n.network_address), n.prefixlen) for n in v4], 32)
    v6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    return _words([(int(n.network_address), n.prefixlen) for n in v6], 128)


def _words(networks: list[tuple[int, int]], bits: int) -> Spans:
    """Spans of the first of ``bits / 32`` words. No network may contain another (collapse_addresses sees to it)."""
    rest = bits - 32
    whole = [(at >> rest, (at >> rest) + (1 << 32 - prefix) - 1) for at, prefix in networks if prefix <= 32]
    longer = [network for network in networks if network[1] > 32]
    parts = [
        Span(word, word, _words([(at & (1 << rest) - 1, prefix - 32) for at, prefix in group], rest))
        for word, group in groupby(longer, key=lambda network: network[0] >> rest)
    ]
    return tuple(sorted((*merged(whole), *parts), key=lambda span: span.first))


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """What a rule asks of the packets of one IP version. Empty again means: anything."""

    target: Handle
    mark: Mark | None
    source: Spans
    destination: Spans
    protocols: frozenset[int]
    ports: Spans
    source_ports: Spans

    @property
    def is_ported(self) -> bool:
        """Whether it asks for a port."""
        return bool(self.ports or self.source_ports)


def for_version(rule: PacketRule, version: int) -> FamilyRule | None:
    """What the rule asks of packets of IP version 4 or 6; None when it can match none of them."""
    source, destination = addresses(rule.source, version), addresses(rule.destination, version)
    if (rule.source and not source) or (rule.destination and not destination):
        return None
    protocols = frozenset(rule.protocols)
    if rule.ports or rule.source_ports:
        protocols = (protocols or PORTS_MEAN) & PORTED
        if not protocols:
            return None
    ports, source_ports = (merged((p.first, p.last) for p in ranges) for ranges in (rule.ports, rule.source_ports))
    return FamilyRule(rule.target, rule.mark, source, destination, protocols, ports, source_ports)


def halves(rule: PacketRule) -> tuple[PacketRule, PacketRule]:
    """Two rules that together match exactly what the rule does: its longest list of alternatives is cut in two."""
    lists = ("source", "destination", "protocols", "ports", "source_ports")
    longest = max(lists, key=lambda name: len(getattr(rule, name)))
    values = getattr(rule, longest)
    middle = len(values) // 2
    return replace(rule, **{longest: values[:middle]}), replace(rule, **{longest: values[middle:]})
