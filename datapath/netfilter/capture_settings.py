"""Settings of the rules that do not come from the policy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from datapath.mesh.types import MeshProxy
from datapath.netfilter.rules import Address, Family
from datapath.routing.table import SILENT_PORTS
from traffic_policy.policy import Match, Network, PortRange
from traffic_policy.settings import INBOUND_PORT, OUTBOUND_PORT, Datapath

ROUTE_TABLE: Final = 15101
"""A routing table of ours, and the preference of the rule that points to it (the next preference is ours, too)."""
OWNER_PART: Final = "owner match"
"""Needed in a Pod with a mesh; without it programs with CAP_NET_RAW can pass for the relay."""
PRIORITY_PART: Final = "CLASSIFY target"
"""Without it programs with CAP_NET_RAW can choose their class by a priority."""
LISTENER_ADDRESS: Final[dict[Family, Address]] = {
    Family.V4: ipaddress.IPv4Address("127.0.0.1"),
    Family.V6: ipaddress.IPv6Address("::1"),
}


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """Ports, exclusions, the interface, and our routing table.

    ``outbound_port`` is the outbound listener's port, or the queue number; ``inbound_port`` the inbound listener's.
    Content matches apply on ``silent_ports`` only when they name the port. Traffic to ``exclude_outbound_ports`` (TCP
    and UDP) or ``exclude_outbound_cidrs`` is in the default class, whatever the policy says; so are replies from
    ``exclude_inbound_ports`` and to ``exclude_inbound_cidrs``. With an ``interface`` the rules match only packets that
    use it; without, all that do not stay on lo. ``route_table`` and ``rule_preference`` (and the next one) must be ours
    alone (not 100, 133, 253-255, which others use). Without ``quic`` no QUIC packet is queued, whatever the policy
    says, since this kernel has no NFQUEUE. ``connmark``: received packets are classified by the connection's mark,
    which the ingress hook copies to each packet. ``own_group`` is the gid of the relay's sockets, None when sockets
    cannot be told by it: then every packet with OWN is taken for the relay's. ``resets_priority``: the kernel has the
    CLASSIFY target. Without ``queue_bypass`` packets whose connection has no class yet are dropped while nobody reads
    the queue. With a ``mesh``, names decide in TCP only for connections of its proxy. ``mesh_marks``: when stepping
    aside the marks that this proxy sets say the class of its connections (:mod:`traffic_policy.mesh`).
    """

    datapath: Datapath = Datapath.RELAY
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    silent_ports: tuple[int, ...] = SILENT_PORTS
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[Network, ...] = ()
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    exclude_inbound_cidrs: tuple[Network, ...] = ()
    route_table: int = ROUTE_TABLE
    rule_preference: int = ROUTE_TABLE
    interface: str | None = None
    connmark: bool = False
    quic: bool = True
    mesh: MeshProxy | None = None
    own_group: int | None = None
    resets_priority: bool = True
    queue_bypass: bool = True
    mesh_marks: bool = False

    @property
    def service_names(self) -> bool:
        """Whether a name may carry another port than the packet's (:mod:`datapath.routing.service_names`)."""
        return self.mesh is not None and self.mesh.service_names

    def any_port(self, match: Match) -> bool:
        """Whether a content match applies on all ports but the silent ones."""
        return bool(self.silent_ports) and not match.port
