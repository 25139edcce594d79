"""The routing table: an ordered list of matchers, first match wins, then the default class.

The walk is implemented twice, here for the proxy and in :mod:`datapath.netfilter.ruleset` for the kernel. Both must
agree on what is decided without content; a test compares them.

**Silent ports.** On some ports the server speaks first (SMTP, MySQL ...), so waiting for the client's first bytes would
delay every connection by the detection timeout. A match by content applies there only when it names the port.

**QUIC** is the only UDP protocol whose content is read, on the ports of
:attr:`traffic_policy.policy.Match.quic_ports`. It is not read under a policy that blocks it.

**With a mesh**, TCP connections to the mesh's own ports are never classified by name. Istio's service names contain a
host and a port (:mod:`datapath.routing.service_names`), so a match by name and port holds for either port: that of the
connection, which is the Pod's, or that of the service.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from datapath.mesh.types import MeshProxy
from datapath.routing.flow import NO_CONTENT, Address, Content, Destination
from datapath.routing.service_names import understood
from traffic_policy.names import NameSet
from traffic_policy.policy import (
    DEFAULT_CLASS,
    Bound,
    Match,
    Network,
    PortRange,
    Quic,
    Requests,
    TrafficPolicy,
    TransportProtocol,
)
from traffic_policy.units import Rate

SILENT_PORTS: tuple[int, ...] = (21, 25, 53, 110, 143, 587, 3306, 4444, 5432, 6379, 9300, 11211)
"""Ports to which content matches apply only if they name them: server-first protocols, and DNS (53), since name
resolution must not depend on a proxy."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One match of a policy, compiled for fast evaluation; absent criteria are None."""

    match: Match
    sni: NameSet | None
    host: NameSet | None
    alpn: frozenset[str] | None
    ports: tuple[PortRange, ...]
    udp_ports: tuple[PortRange, ...]
    networks: tuple[Network, ...]
    sources: tuple[Network, ...]

    @classmethod
    def from_match(cls, match: Match) -> Matcher:
        return cls(
            match,
            NameSet.from_patterns(match.sni) if match.sni else None,
            NameSet.from_patterns(match.host) if match.host else None,
            frozenset(match.alpn) if match.alpn else None,
            match.ports_of(TransportProtocol.TCP),
            match.ports_of(TransportProtocol.UDP),
            match.cidr,
            match.source,
        )

    def accepts_port(self, port: int | None, protocol: TransportProtocol) -> bool:
        """Whether the match accepts this port."""
        allowed = self.udp_ports if protocol is TransportProtocol.UDP else self.ports
        return not allowed or (port is not None and any(port in ports for ports in allowed))

    def accepts_a_port(self, destination: Destination, content: Content) -> bool:
        """Whether the match accepts the connection's port, or the one in its service name."""
        return any(self.accepts_port(port, destination.protocol) for port in (destination.port, content.port))

    def accepts_ends(self, destination: Destination, source: Address | None) -> bool:
        """Whether the packet criteria other than the port hold: direction, protocol, networks.

        A ``source`` of None is unknown and in no network.
        """
        if not self.match.direction.covers(destination.bound):
            return False
        if not self.match.accepts_protocol(destination.protocol):
            return False
        if self.sources and (source is None or not _within(source, self.sources)):
            return False
        return not self.networks or _within(destination.address, self.networks)

    def accepts_content(self, content: Content) -> bool:
        """Whether the content criteria hold."""
        if self.sni is not None and (content.sni is None or content.sni not in self.sni):
            return False
        if self.host is not None and (content.host is None or content.host not in self.host):
            return False
        return self.alpn is None or not self.alpn.isdisjoint(content.alpn)


@dataclass(frozen=True, slots=True)
class Route:
    """The class of a connection, and the match that decided (None: the default class)."""

    class_name: str
    match: Match | None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Ordered matchers with the class of each."""

    entries: tuple[tuple[str, Matcher], ...]
    silent_ports: frozenset[int]
    requests: Requests = Requests.FIRST
    strictness: tuple[str, ...] = ()
    """The classes by ascending ceil, then guarantee."""
    limits: tuple[tuple[Rate, Rate], ...] = ()
    """Ceil and guarantee of each of them."""
    quic: Quic = Quic.CLASSIFY
    mesh: MeshProxy | None = None

    @classmethod
    def from_policy(
        cls, policy: TrafficPolicy, silent_ports: tuple[int, ...] = SILENT_PORTS, mesh: MeshProxy | None = None
    ) -> RoutingTable:
        entries = tuple((name, Matcher.from_match(match)) for name, match in policy.rules())
        by_limits = sorted(policy.resolved(), key=lambda c: (c.ceil, c.rate))
        return cls(
            entries,
            frozenset(silent_ports),
            policy.requests,
            tuple(c.name for c in by_limits),
            tuple((c.ceil, c.rate) for c in by_limits),
            policy.quic,
            mesh,
        )

    @property
    def needs_capture(self) -> bool:
        """Whether any match reads content of TCP connections; without one nothing is captured."""
        return self.captures(Bound.INBOUND) or self.captures(Bound.OUTBOUND)

    def captures(self, bound: Bound) -> bool:
        """Whether connections in this direction must be captured."""
        return any(
            m.match.needs_content
            and m.match.direction.covers(bound)
            and m.match.accepts_protocol(TransportProtocol.TCP)
            for _, m in self.entries
        )

    @property
    def reads_quic(self) -> bool:
        """Whether any match reads the first packets of QUIC."""
        return self.quic is Quic.CLASSIFY and any(m.match.quic_ports for _, m in self.entries)

    @property
    def hears_quic(self) -> bool:
        """Whether any match reads them in what clients open."""
        return self.quic is Quic.CLASSIFY and any(
            m.match.quic_ports and m.match.direction.covers(Bound.INBOUND) for _, m in self.entries
        )

    @property
    def reads_services(self) -> bool:
        """Whether a name in TCP may be Istio's of a service, with a host and a port."""
        return self.mesh is not None and self.mesh.service_names

    @property
    def reads_source(self) -> bool:
        """Whether any match has a source criterion."""
        return any(matcher.sources for _, matcher in self.entries)

    def route(self, destination: Destination, content: Content = NO_CONTENT, *, source: Address | None = None) -> Route:
        """The class of a connection. Without content, it is the port's class or the default class.

        ``source`` is the client's address; None if unknown, so that no match by source holds.
        """
        content = self.understood(content, destination.protocol)
        for name, matcher in self.entries:
            if (
                self._may_hold(matcher, destination, source)
                and matcher.accepts_a_port(destination, content)
                and matcher.accepts_content(content)
            ):
                return Route(name, matcher.match)
        return Route(DEFAULT_CLASS, None)

    def undecided(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether content could still decide: a content match comes before the first match that needs none."""
        for _, matcher in self.entries:
            if self._may_hold(matcher, destination, source):
                return matcher.match.needs_content
        return False

    def refuses_quic(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether an outbound QUIC connection is refused: a name could decide, and the policy blocks it."""
        if self.quic is not Quic.BLOCK or destination.bound is not Bound.OUTBOUND:
            return False
        return destination.protocol is TransportProtocol.UDP and replace(self, quic=Quic.CLASSIFY).undecided(
            destination, source=source
        )

    def requests_may_differ(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether the policy classifies each request, and two of one connection could get different classes."""
        return self.requests is not Requests.FIRST and len(self._classes_of_requests(destination, source)) > 1

    def is_laxer(self, class_name: str, than: str) -> bool:
        """Whether a class may send more than another. Of one that is gone (a reload is in progress): no."""
        limits = dict(zip(self.strictness, self.limits, strict=True))
        return class_name in limits and than in limits and limits[class_name] > limits[than]

    def strictest(self, destination: Destination, *, source: Address | None = None) -> str:
        """The class with the lowest ceil of those that a request to this destination could get."""
        possible = self._classes_of_requests(destination, source)
        return next(name for name in self.strictness if name in possible)

    def strictest_of_all(self, destination: Destination, *, source: Address | None = None) -> str:
        """The class with the lowest ceil of those that any content could get there."""
        possible = {self.route(destination, source=source).class_name}
        for name, matcher in self.entries:
            if self._may_hold(matcher, destination, source) and matcher.match.needs_content:
                possible.add(name)
        return next(name for name in self.strictness if name in possible)

    def _classes_of_requests(self, destination: Destination, source: Address | None) -> set[str]:
        """The classes of plaintext requests: those of matches by host, and that of all other requests."""
        possible = {
            name
            for name, matcher in self.entries
            if matcher.host is not None
            and matcher.sni is None
            and matcher.alpn is None
            and matcher.accepts_port(destination.port, destination.protocol)
            and self._may_hold(matcher, destination, source)
        }
        return possible | {self.route(destination, source=source).class_name}

    def understood(self, content: Content, protocol: TransportProtocol) -> Content:
        """The content as matches see it: with Istio, service names in TCP are replaced by host and port."""
        return understood(content) if self.reads_services and protocol is TransportProtocol.TCP else content

    def _may_hold(self, matcher: Matcher, destination: Destination, source: Address | None) -> bool:
        """Whether the packet criteria of a match hold; content is not evaluated.

        The packet's port must match, unless the match's names may carry a port.
        """
        port = destination.port
        by_content = matcher.match.needs_content
        if by_content and (self._closed(destination) or self._refused(destination)):
            return False
        if matcher.accepts_port(port, destination.protocol):
            silenced = by_content and not matcher.match.port and port in self.silent_ports
        else:
            may_tell = by_content and self.reads_services and destination.protocol is TransportProtocol.TCP
            silenced = not may_tell or port in self.silent_ports
        return not silenced and matcher.accepts_ends(destination, source)

    def _closed(self, destination: Destination) -> bool:
        """Whether the port is a TCP port of the mesh, to which matches by name do not apply."""
        ports = self.mesh.ports if self.mesh is not None and destination.protocol is TransportProtocol.TCP else ()
        return any(destination.port in own for own in ports)

    def _refused(self, destination: Destination) -> bool:
        return destination.protocol is TransportProtocol.UDP and self.quic is not Quic.CLASSIFY


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(n.version == address.version and address in n for n in networks)
