"""The routing table: an ordered list of matchers, first match wins, then the default class.

The same walk is written down twice, here for the proxy and in :mod:`sidecar.netfilter.ruleset` for the kernel; the two
must agree on what is decided without content, and a test compares them.

**Silent ports.** On some ports the server speaks first (SMTP, MySQL ...), so waiting for the client's first bytes would
cost every connection the whole detection timeout. A match by content applies there only when it names the port itself.

**QUIC** is all of UDP in which content is read; :attr:`tc_core.policy.Match.quic_ports` says where. A policy that
refuses it reads none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sidecar.routing.flow import NO_CONTENT, Address, Content, Destination
from sidecar.routing.matchers import Matcher
from tc_core.policy import DEFAULT_CLASS, Bound, Match, Quic, Requests, TrafficPolicy, TransportProtocol

SILENT_PORTS: tuple[int, ...] = (21, 25, 53, 110, 143, 587, 3306, 4444, 5432, 6379, 9300, 11211)
"""Ports left alone by content matches that do not name them: server-first protocols, and DNS (53), whose resolver must
not depend on a proxy."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a connection goes: the class, and the match that decided (None: the default class)."""

    class_name: str
    match: Match | None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Ordered matchers with the class of each."""

    entries: tuple[tuple[str, Matcher], ...]
    silent_ports: frozenset[int]
    requests: Requests = Requests.FIRST
    strictness: tuple[str, ...] = ()
    """The classes, the one with the lowest ceil (then guarantee) first."""
    quic: Quic = Quic.CLASSIFY

    @classmethod
    def of(cls, policy: TrafficPolicy, silent_ports: tuple[int, ...] = SILENT_PORTS) -> RoutingTable:
        entries = tuple((name, Matcher.of(match)) for name, match in policy.rules())
        by_limits = sorted(policy.resolved(), key=lambda c: (c.ceil, c.rate))
        return cls(entries, frozenset(silent_ports), policy.requests, tuple(c.name for c in by_limits), policy.quic)

    @property
    def needs_capture(self) -> bool:
        """Whether any match reads content in TCP connections: without one nothing has to be captured."""
        return self.captures(Bound.INBOUND) or self.captures(Bound.OUTBOUND)

    def captures(self, bound: Bound) -> bool:
        """Whether connections opened that way have to be."""
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
    def reads_source(self) -> bool:
        """Whether any match asks where a connection comes from."""
        return any(matcher.sources for _, matcher in self.entries)

    def route(self, destination: Destination, content: Content = NO_CONTENT, *, source: Address | None = None) -> Route:
        """The class of a connection. Without content, that is the port's class or the default one.

        ``source`` is the client's address; None: not known, so that no match by source holds.
        """
        for name, matcher in self.entries:
            if self._may_take(matcher, destination, source) and matcher.accepts_content(content):
                return Route(name, matcher.match)
        return Route(DEFAULT_CLASS, None)

    def undecided(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether content could still decide: a content match comes before the first match that needs none."""
        for _, matcher in self.entries:
            if self._may_take(matcher, destination, source):
                return matcher.match.needs_content
        return False

    def refuses_quic(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether a QUIC connection that we open there is refused: a name could decide, and the policy blocks it."""
        if self.quic is not Quic.BLOCK or destination.bound is not Bound.OUTBOUND:
            return False
        return destination.protocol is TransportProtocol.UDP and replace(self, quic=Quic.CLASSIFY).undecided(
            destination, source=source
        )

    def requests_may_differ(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether the policy wants each request looked at, and two of one connection could get different classes."""
        return self.requests is not Requests.FIRST and len(self._classes_of_requests(destination, source)) > 1

    def strictest(self, destination: Destination, *, source: Address | None = None) -> str:
        """Of the classes that a request could get there, the one with the lowest ceil."""
        possible = self._classes_of_requests(destination, source)
        return next(name for name in self.strictness if name in possible)

    def _classes_of_requests(self, destination: Destination, source: Address | None) -> set[str]:
        """The classes of plain requests: those that matches by host lead to, and that of all others."""
        possible = {
            name
            for name, matcher in self.entries
            if matcher.host is not None
            and matcher.sni is None
            and matcher.alpn is None
            and self._may_take(matcher, destination, source)
        }
        return possible | {self.route(destination, source=source).class_name}

    def _may_take(self, matcher: Matcher, destination: Destination, source: Address | None) -> bool:
        """Whether all holds that can be known before the content."""
        return (
            matcher.accepts_packets(destination, source)
            and not self._silenced(matcher, destination.port)
            and not self._refused(matcher, destination)
        )

    def _refused(self, matcher: Matcher, destination: Destination) -> bool:
        reads_udp = matcher.match.needs_content and destination.protocol is TransportProtocol.UDP
        return reads_udp and self.quic is not Quic.CLASSIFY

    def _silenced(self, matcher: Matcher, port: int) -> bool:
        return matcher.match.needs_content and not matcher.match.port and port in self.silent_ports
