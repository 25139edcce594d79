"""The routing table: an ordered list of matchers, first match wins, then the default class.

The same walk is written down twice, here for the proxy and in :mod:`sidecar.netfilter.ruleset` for the kernel; the two
must agree on what is decided without content, and a test compares them.

**Silent ports.** On some ports the server speaks first (SMTP, MySQL ...), so waiting for the client's first bytes would
cost every connection the whole detection timeout. A match by content applies there only when it names the port itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.routing.flow import NO_CONTENT, Address, Content, Destination
from sidecar.routing.matchers import Matcher
from tc_core.policy import DEFAULT_CLASS, Match, TrafficPolicy

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

    @classmethod
    def of(cls, policy: TrafficPolicy, silent_ports: tuple[int, ...] = SILENT_PORTS) -> RoutingTable:
        entries = tuple((name, Matcher.of(match)) for name, match in policy.rules())
        return cls(entries, frozenset(silent_ports))

    @property
    def needs_capture(self) -> bool:
        """Whether any match needs content: without one nothing has to be captured."""
        return any(matcher.match.needs_content for _, matcher in self.entries)

    @property
    def reads_source(self) -> bool:
        """Whether any match asks where a connection comes from."""
        return any(matcher.sources for _, matcher in self.entries)

    def route(self, destination: Destination, content: Content = NO_CONTENT, *, source: Address | None = None) -> Route:
        """The class of a connection. Without content, that is the port's class or the default one.

        ``source`` is the client's address; None: not known, so that no match by source holds.
        """
        for name, matcher in self.entries:
            if (
                matcher.accepts_packets(destination, source)
                and not self._silenced(matcher, destination.port)
                and matcher.accepts_content(content)
            ):
                return Route(name, matcher.match)
        return Route(DEFAULT_CLASS, None)

    def undecided(self, destination: Destination, *, source: Address | None = None) -> bool:
        """Whether content could still decide: a content match comes before the first match that needs none."""
        for _, matcher in self.entries:
            if matcher.accepts_packets(destination, source) and not self._silenced(matcher, destination.port):
                return matcher.match.needs_content
        return False

    def _silenced(self, matcher: Matcher, port: int) -> bool:
        return matcher.match.needs_content and not matcher.match.port and port in self.silent_ports
