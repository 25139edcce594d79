"""Mangle rules as data: the subset of iptables that Podlane uses.

A :class:`Rule` is an AND of optional criteria, and one action; a criterion with its default value is omitted, as in
iptables(8). A :class:`Chain` has rules in order, and :class:`FamilyRules` is everything of one address family.
:mod:`datapath.netfilter.ruleset` compiles a policy to them, :mod:`datapath.netfilter.render` writes them as text.
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
"""Prefix of all our chains and of no others, by which leftovers are recognised."""
MULTIPORT_SLOTS: Final = 15
"""XT_MULTI_PORTS of linux/netfilter/xt_multiport.h: a port takes one slot, a range two."""


class Family(IntEnum):
    """Address families; the value is the IP version."""

    V4 = 4
    V6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


LOOPBACK: Final = {Family.V4: "127.0.0.0/8", Family.V6: "::1/128"}
"""The addresses of lo, in the notation of iproute2."""
LINK_LOCAL: Final = ipaddress.IPv6Network("fe80::/10")
"""Not relayed: such an address is ambiguous without its interface (RFC 4007), which is lost on the way over lo."""


class ConntrackDirection(StrEnum):
    """Direction of a packet in its tracked connection: ``--ctdir`` (iptables-extensions(8), conntrack)."""

    ORIGINAL = "ORIGINAL"
    REPLY = "REPLY"


@dataclass(frozen=True, slots=True)
class Return:
    """Return to the calling chain."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the packet; in OUTPUT the sender's call fails at once with EPERM."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer the TCP packet with RST (only in the filter table)."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Walk another chain and return here (``-j``)."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Continue in another chain, which returns to the caller of *this* chain (``-g``)."""

    chain: str


@dataclass(frozen=True, slots=True)
class SetMark:
    """Write bits of the packet's mark."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class ResetPriority:
    """Set the packet's priority to 0 (``CLASSIFY --set-class 0:0``)."""


@dataclass(frozen=True, slots=True)
class SetConnmark:
    """Write bits of the connection's mark; no effect on an untracked packet."""

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
    """Queue the packet to the NFQUEUE of that number; without a listener it continues (``--queue-bypass``), or is
    dropped."""

    number: int
    bypass: bool = True


@dataclass(frozen=True, slots=True)
class Tproxy:
    """Hand the packet to a local transparent socket (only in mangle PREROUTING)."""

    address: Address
    port: int
    mark: Mark


Action = (
    Return
    | Drop
    | Reject
    | Jump
    | Goto
    | SetMark
    | ResetPriority
    | SetConnmark
    | SaveMark
    | RestoreMark
    | Nfqueue
    | Tproxy
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Criteria that must all hold, and an action. ICMP is that of the rule's address family.

    ``ports`` are destination ports. ``to_here``: the destination address is local. ``has_socket``: a local socket,
    possibly a listening one, would receive the packet. ``carries_data`` applies to TCP packets and ``quic_initial`` to
    UDP packets: see :mod:`datapath.netfilter.packet_filters`. ``user`` and ``group`` own the sending socket;
    ``ownerless``: there is none, or no program has it any more. ``original_port`` is the connection's destination port
    before nat.
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
    ownerless: bool = False
    original_port: PortRange | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours with its rules in order."""

    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A rule that calls a chain of ours: the first one of a built-in mangle chain."""

    builtin: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """A rule that selects packets for ``table``, in which every address is local (ip-rule(8)).

    It selects packets with ``mark``, or without one, packets sent from a loopback address.
    """

    mark: Mark | None
    table: int
    preference: int


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """All rules of one address family; no chains if none are wanted."""

    family: Family
    chains: tuple[Chain, ...] = ()
    hooks: tuple[Hook, ...] = ()
    routes: tuple[PolicyRoute, ...] = ()


def merge_ports(ports: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The ports in order, with overlapping and adjacent ranges merged."""
    merged: list[PortRange] = []
    for item in sorted(ports):
        if merged and item.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, item.last))
        else:
            merged.append(item)
    return tuple(merged)


def port_groups(ports: Iterable[PortRange]) -> tuple[tuple[PortRange, ...], ...]:
    """The ports in groups that each fit in one rule; one empty group ("any port") without ports."""
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
