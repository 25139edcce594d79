"""Why a connection is in its class: where in the policy the match is that decided, and which of its values held. Pure.

For people who ask (``podlane classify``, a control plane's "try a connection"); the proxy asks the table itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from datapath.mesh.types import MeshProxy
from datapath.routing.flow import NO_CONTENT, Address, Content, Destination
from datapath.routing.table import SILENT_PORTS, Matcher, RoutingTable
from traffic_policy.policy import Match, TrafficPolicy, TransportProtocol
from traffic_policy.services import service_named

_KEPT: Final = 4096
"""Matches cached: similar connections are decided by the same values."""


@dataclass(frozen=True, slots=True)
class Decision:
    """``at``: indices of the class and of its match that decided, ``held``: that match, with those of its values that
    held; None of both: no match did, and it is in the default class.

    ``silenced``: names do not count on this port, where the server speaks first, and otherwise they would have decided.
    ``refused``: a QUIC connection is refused, so that its client takes TCP.
    """

    class_name: str
    at: tuple[int, int] | None
    held: Match | None
    silenced: bool
    refused: bool


class Decider:
    """A policy's routing table, with what it does not keep: how the policy was written."""

    def __init__(
        self, policy: TrafficPolicy, *, silent_ports: tuple[int, ...] = SILENT_PORTS, mesh: MeshProxy | None = None
    ) -> None:
        self.table = RoutingTable.from_policy(policy, silent_ports, mesh)
        self._table_of_all_ports = RoutingTable.from_policy(policy, (), mesh)
        # The table has services by port; people write their names.
        self._written: dict[Match, tuple[tuple[int, int], Match]] = {}
        for place, each in enumerate(policy.classes):
            for index, match in enumerate(each.match):
                for expanded in match.expanded():
                    self._written.setdefault(expanded, ((place, index), match))

    def decide(
        self, destination: Destination, content: Content = NO_CONTENT, *, source: Address | None = None
    ) -> Decision:
        """As :meth:`RoutingTable.route` does, and why."""
        route = self.table.route(destination, content, source=source)
        at, held = None, None
        if route.match is not None:
            at, written = self._written[route.match]
            held = _holding(written, destination, source, self.table.understood(content, destination.protocol))
        silenced = (
            destination.port in self.table.silent_ports
            and self._table_of_all_ports.route(destination, content, source=source).class_name != route.class_name
        )
        return Decision(route.class_name, at, held, silenced, self.table.refuses_quic(destination, source=source))


@lru_cache(_KEPT)
def _holding(match: Match, destination: Destination, source: Address | None, content: Content) -> Match:
    """The match with those of its alternatives only that held: one name of fifty."""
    port, protocol = destination.port, destination.protocol
    kept: dict[str, Any] = {}
    for key in ("sni", "host", "alpn", "port", "cidr", "source"):
        kept[key] = tuple(
            value
            for value in getattr(match, key)
            if _holds(Matcher.from_match(match.model_copy(update={key: (value,)})), destination, source, content)
        )
    services = [(name, service_named(name)) for name in match.application]
    kept["application"] = tuple(name for name, s in services if s.port == port and protocol in s.protocols)
    if match.protocol or match.application or protocol is TransportProtocol.UDP:
        kept["protocol"] = (protocol,)
    return match.model_copy(update=kept)


def _holds(matcher: Matcher, destination: Destination, source: Address | None, content: Content) -> bool:
    return (
        matcher.accepts_a_port(destination, content)
        and matcher.accepts_ends(destination, source)
        and matcher.accepts_content(content)
    )
