"""Mangle rules as data: the small part of iptables that Podlane uses, typed.

A :class:`Rule` is an AND of optional criteria and one action; a criterion left at its default is not written at all,
as in iptables(8). Ordered rules make a :class:`Chain`, and :class:`FamilyRules` is everything one address family gets.
:mod:`datapath.netfilter.ruleset` makes them from a policy, :mod:`datapath.netfilter.render` writes them down.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from traffic_policy.marks import Mark
from traffic_policy.policy import Network, PortRange, TransportProtocol

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

CHAIN_PREFIX: Final = "PODLANE-"
"""Every chain of ours begins so, and no chain of others does: that is how leftovers are recognised."""
MULTIPORT_SLOTS: Final = 15
"""XT_MULTI_PORTS of linux/netfilter/xt_multiport.h: a port takes one slot, a range two."""


class Family(IntEnum):
    """Address families; the value is the IP version."""

    V4 = 4
    V6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


LOOPBACK: Final = {Family.V4: "127.0.0.0/8", Family.V6: "::1/128"}
"""The addresses of lo, as iproute2 and rtnetlink have them."""
LINK_LOCAL: Final = ipaddress.IPv6Network("fe80::/10")
"""Not relayed: such an address means nothing without its interface, which the way over lo loses (RFC 4007)."""


class ConntrackDirection(StrEnum):
    """Which way of a tracked connection a packet goes, as ``--ctdir`` says it (iptables-extensions(8), conntrack)."""

    ORIGINAL = "ORIGINAL"
    REPLY = "REPLY"


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the calling chain."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The packet is not sent: in OUTPUT the sender's call fails at once, with EPERM."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The packet, a TCP one, is answered with RST (only in the filter table)."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Walk another chain and come back (``-j``)."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Walk another chain and come back to where *this* chain was called from (``-g``): the walk here is over."""

    chain: str


@dataclass(frozen=True, slots=True)
class SetMark:
    """Write bits of the packet's mark."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class SetConnmark:
    """Write bits of the connection's mark; does nothing to a packet without conntrack entry."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class SaveMark:
    """Copy the bits of ``mask`` from the packet's mark to the connection's."""

    mask: int


@dataclass(frozen=True, slots=True)
class RestoreMark:
    """Copy the bits of ``mask`` from the connection's mark to the packet's."""

    mask: int


@dataclass(frozen=True, slots=True)
class Nfqueue:
    """Show the packet to whoever has the NFQUEUE of that number; if nobody has, it goes on (``--queue-bypass``)."""

    number: int


@dataclass(frozen=True, slots=True)
class Tproxy:
    """Hand the packet to a local transparent socket (only in mangle PREROUTING)."""

    address: Address
    port: int
    mark: Mark


Action = Return | Drop | Reject | Jump | Goto | SetMark | SetConnmark | SaveMark | RestoreMark | Nfqueue | Tproxy


@dataclass(frozen=True, slots=True)
class Rule:
    """Criteria that must all hold, and what then happens. ICMP is that of the family which the rule is for.

    ``ports`` are destination ports. ``to_here``: the destination address is this machine's. ``has_socket``: a socket
    here would take the packet, be it a listening one. ``carries_data`` is about TCP packets and ``quic_initial`` about
    UDP packets: see :mod:`datapath.netfilter.packet_filters`.
    ``user`` and ``group`` own the socket that sends. ``original_port``: where whoever opened the connection meant to
    go, whatever nat has made of it.
    """

    action: Action
    protocol: TransportProtocol | None = None
    source: Network | None = None
    destination: Network | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    not_out_interface: str | None = None
    syn: bool = False
    ports: tuple[PortRange, ...] = ()
    source_ports: tuple[PortRange, ...] = ()
    mark: Mark | None = None
    connmark: Mark | None = None
    direction: ConntrackDirection | None = None
    to_here: bool = False
    has_socket: bool = False
    carries_data: bool = False
    quic_initial: bool = False
    user: int | None = None
    group: int | None = None
    original_port: PortRange | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours with its rules in order."""

    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a chain of ours is called: the first rule of a built-in mangle chain."""

    builtin: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """What is looked up in ``table``, where everything is local to this machine (ip-rule(8)).

    Packets with ``mark``; or else what programs here send from their loopback address.
    """

    mark: Mark | None
    table: int
    preference: int


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """Everything one address family gets. No chains: nothing is wanted here."""

    family: Family
    chains: tuple[Chain, ...] = ()
    hooks: tuple[Hook, ...] = ()
    routes: tuple[PolicyRoute, ...] = ()


def merge_ports(ports: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in order, with overlapping and adjoining ranges made one."""
    merged: list[PortRange] = []
    for item in sorted(ports):
        if merged and item.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, item.last))
        else:
            merged.append(item)
    return tuple(merged)


def port_groups(ports: Iterable[PortRange]) -> tuple[tuple[PortRange, ...], ...]:
    """The ports in portions of which each fits in one rule; one empty portion ("any port") when there are none."""
    groups: list[list[PortRange]] = [[]]
    free = MULTIPORT_SLOTS
    for item in merge_ports(ports):
        slots = 1 if item.first == item.last else 2
        if slots > free:
            groups.append([])
            free = MULTIPORT_SLOTS
        groups[-1].append(item)
        free -= slots
    return tuple(tuple(group) for group in groups)
