"""What the settings leave alone, as matches for what arrives. Pure.

For what is sent the rules say so (:mod:`datapath.netfilter.ruleset`); what arrives is told apart before any of them.
"""

from __future__ import annotations

from datapath.netfilter.capture_settings import CaptureSettings
from traffic_policy.policy import Bound, Match, TrafficPolicy


def excluded_matches(policy: TrafficPolicy, settings: CaptureSettings) -> tuple[Match, ...]:
    """Matches of all that is excluded: it is in the default class, whatever the policy says.

    Of excluded clients only what they send to ports of inbound matches; the rest may be the answers of servers there.
    """
    ports = tuple(port for _, match in policy.rules(Bound.INBOUND) for port in match.port)
    found: list[Match] = []
    if settings.exclude_outbound_ports:
        found.append(Match(port=settings.exclude_outbound_ports))
    if settings.exclude_outbound_cidrs:
        found.append(Match(cidr=settings.exclude_outbound_cidrs))
    if settings.exclude_inbound_ports:
        found.append(Match(port=settings.exclude_inbound_ports, direction=Bound.INBOUND))
    if settings.exclude_inbound_cidrs and ports:
        found.append(Match(source=settings.exclude_inbound_cidrs, port=ports, direction=Bound.INBOUND))
    return tuple(found)
