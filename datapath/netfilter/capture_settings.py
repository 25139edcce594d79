"""What a policy does not say about the rules that put it in force."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from datapath.kinds import Datapath
from datapath.mesh.types import MeshProxy
from datapath.netfilter.rules import Address, Family
from datapath.routing.table import SILENT_PORTS
from traffic_policy.policy import Match, Network, PortRange

if TYPE_CHECKING:
    from sidecar.config.settings import SidecarSettings  # which itself names ways to install rules

LISTENER_ADDRESS: Final[dict[Family, Address]] = {
    Family.V4: ipaddress.IPv4Address("127.0.0.1"),
    Family.V6: ipaddress.IPv6Address("::1"),
}


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """Ports, exclusions, the interface, and numbers of our own.

    ``outbound_port`` is the listener's, or the number of the queue; ``inbound_port`` the other listener's. Content
    matches apply on ``silent_ports`` only when they name the port. What goes to ``exclude_outbound_ports`` (TCP and
    UDP) or ``exclude_outbound_cidrs`` is in the default class, whatever the policy says; so are answers from
    ``exclude_inbound_ports`` and to ``exclude_inbound_cidrs``. With an ``interface`` the rules touch only what leaves
    or comes in by it; without, everything that does not stay on lo. ``route_table`` and ``rule_preference`` (and the
    one after it) are ours alone (not 100, 133, 253-255, which others use). Without ``quic`` no packet of QUIC is shown
    to anybody, whatever the policy says: this kernel has no queue for it. ``connmark``: what arrives is told by the
    connection's mark, which gives it to each packet at the ingress hook. With a ``mesh`` names
    decide, in TCP, only about what its proxy sends.
    """

    datapath: Datapath = Datapath.RELAY
    outbound_port: int = 15101
    inbound_port: int = 15106
    silent_ports: tuple[int, ...] = SILENT_PORTS
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    exclude_outbound_cidrs: tuple[Network, ...] = ()
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    exclude_inbound_cidrs: tuple[Network, ...] = ()
    route_table: int = 15101
    rule_preference: int = 15101
    interface: str | None = None
    connmark: bool = False
    quic: bool = True
    mesh: MeshProxy | None = None

    @property
    def service_names(self) -> bool:
        """Whether a name may tell another port than the packet's (:mod:`datapath.routing.service_names`)."""
        return self.mesh is not None and self.mesh.service_names

    def any_port(self, match: Match) -> bool:
        """Whether a content match applies on all ports but the silent ones."""
        return bool(self.silent_ports) and not match.port


def capture_settings(
    settings: SidecarSettings,
    *,
    interface: str | None,
    mesh: MeshProxy | None,
    quic: bool = True,
    connmark: bool = False,
    apart: Iterable[int] = (),
) -> CaptureSettings:
    """Those of a sidecar. Clients of the admin server, and of the ports ``apart``, are left alone."""
    alone = {*apart, settings.admin_port} - {0}
    return CaptureSettings(
        datapath=settings.datapath,
        outbound_port=settings.outbound_port,
        silent_ports=settings.silent_ports,
        exclude_outbound_ports=settings.exclude_outbound_ports,
        exclude_outbound_cidrs=settings.exclude_outbound_cidrs,
        inbound_port=settings.inbound_port,
        exclude_inbound_ports=settings.exclude_inbound_ports + tuple(PortRange(p, p) for p in sorted(alone)),
        exclude_inbound_cidrs=settings.exclude_inbound_cidrs,
        interface=interface,
        connmark=connmark,
        quic=quic,
        mesh=mesh,
    )
