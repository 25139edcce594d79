"""One match of a policy, compiled for quick evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datapath.routing.flow import Address, Content, Destination
from traffic_policy.names import NameSet
from traffic_policy.policy import Match, Network, PortRange, TransportProtocol


@dataclass(frozen=True, slots=True)
class Matcher:
    """All criteria of one match; an absent criterion is None."""

    match: Match
    sni: NameSet | None
    host: NameSet | None
    alpn: frozenset[str] | None
    ports: tuple[PortRange, ...]
    udp_ports: tuple[PortRange, ...]
    networks: tuple[Network, ...]
    sources: tuple[Network, ...]

    @classmethod
    def of(cls, match: Match) -> Matcher:
        return cls(
            match,
            NameSet.of(match.sni) if match.sni else None,
            NameSet.of(match.host) if match.host else None,
            frozenset(match.alpn) if match.alpn else None,
            match.ports_of(TransportProtocol.TCP),
            match.ports_of(TransportProtocol.UDP),
            match.cidr,
            match.source,
        )

    def accepts_port(self, port: int | None, protocol: TransportProtocol) -> bool:
        """Whether the match is about this port, or about any."""
        allowed = self.udp_ports if protocol is TransportProtocol.UDP else self.ports
        return not allowed or (port is not None and any(port in ports for ports in allowed))

    def accepts_a_port(self, destination: Destination, content: Content) -> bool:
        """Whether the match is about the connection's port, or about the one that its name tells."""
        return any(self.accepts_port(port, destination.protocol) for port in (destination.port, content.port))

    def accepts_ends(self, destination: Destination, source: Address | None) -> bool:
        """Whether the criteria hold that the kernel can see beside the port: direction, protocol, networks.

        A ``source`` of None is not known, and in no network.
        """
        if not self.match.direction.covers(destination.bound):
            return False
        if not self.match.accepts_protocol(destination.protocol):
            return False
        if self.sources and (source is None or not _within(source, self.sources)):
            return False
        return not self.networks or _within(destination.address, self.networks)

    def accepts_content(self, content: Content) -> bool:
        """Whether the criteria hold that only the first bytes can tell."""
        if self.sni is not None and (content.sni is None or content.sni not in self.sni):
            return False
        if self.host is not None and (content.host is None or content.host not in self.host):
            return False
        return self.alpn is None or not self.alpn.isdisjoint(content.alpn)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(n.version == address.version and address in n for n in networks)
