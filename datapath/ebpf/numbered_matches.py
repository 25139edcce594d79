"""The numbers that the matches of a routing table have in the programs. Pure.

Each match has one, in order of precedence. Beside Istio a match by name and port has a second one, right behind: it
holds for the port in a name, where the first holds for the connection's (:mod:`datapath.routing.service_names`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from datapath.routing.table import Matcher, RoutingTable
from traffic_policy.policy import Match, TransportProtocol

MOST_MATCHES: Final = 1024
"""Numbers: bits of a vector."""


class NumberedMatch(NamedTuple):
    """A match and its class. ``by_named_port``: it holds where the name of a service has a port of the match, whatever
    the connection's port is."""

    class_name: str
    matcher: Matcher
    by_named_port: bool = False


def numbered(table: RoutingTable) -> tuple[NumberedMatch, ...]:
    """By number."""
    found = []
    for class_name, matcher in table.entries:
        found.append(NumberedMatch(class_name, matcher))
        if table.reads_services and _may_be_named(matcher.match):
            found.append(NumberedMatch(class_name, matcher, by_named_port=True))
    return tuple(found)


def too_many(matches: Iterable[Match], *, services: bool) -> str:
    """Why the programs cannot have so many matches, as a sentence; empty if they can. ``services``: names may be
    Istio's of services."""
    every = list(matches)
    twice = sum(map(_may_be_named, every)) if services else 0
    if len(every) + twice <= MOST_MATCHES:
        return ""
    why = f" (beside Istio {twice} of them, by name and port, count twice)" if twice else ""
    return f"The policy has {len(every)} matches{why}; datapath: ebpf takes {MOST_MATCHES}."


def _may_be_named(match: Match) -> bool:
    """Whether it asks for a name and for a port, which the name of a service may have."""
    return match.needs_content and bool(match.port) and match.accepts_protocol(TransportProtocol.TCP)
