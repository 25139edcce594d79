"""Finds matches that are unreachable since an earlier match covers them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from traffic_policy.marks import Mark
from traffic_policy.names import NameSet, parents
from traffic_policy.policy import Match, Network, PortRange, TransportProtocol


class EarlierMatches:
    """The matches so far, found by a name that a match must contain to hide another.

    Comparing all pairs would be too slow for a policy of 10,000 names.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], list[tuple[str, Match]]] = {}
        self._nameless: list[tuple[str, Match]] = []

    def add(self, path: str, match: Match) -> None:
        """Add a match with its path in the policy."""
        keys = [("sni", n) for n in match.sni] or [("host", n) for n in match.host]
        for key in keys:
            self._by_name.setdefault(key, []).append((path, match))
        if not keys:
            self._nameless.append((path, match))

    def hiding(self, match: Match) -> str | None:
        """The path of an earlier match that covers ``match``, if any."""
        candidates = list(self._nameless)
        for criterion, names in (("sni", match.sni), ("host", match.host)):
            # To hide this match another must cover its first name: by that name, or by a wildcard above it.
            for name in names[:1]:
                wider = (name, *(f"*.{domain}" for domain in parents(name.removeprefix("*."))))
                for pattern in wider:
                    candidates += self._by_name.get((criterion, pattern), ())
        return next((path for path, other in candidates if covers(other, match)), None)


def covers(outer: Match, inner: Match) -> bool:
    """Whether everything that ``inner`` matches is matched by ``outer`` too."""
    return (
        _names_cover(outer.sni, inner.sni)
        and _names_cover(outer.host, inner.host)
        and (not outer.alpn or (bool(inner.alpn) and set(inner.alpn) <= set(outer.alpn)))
        and _protocols_cover(outer, inner)
        and _ports_cover(outer.port, inner.port)
        and _networks_cover(outer.cidr, inner.cidr)
        and _networks_cover(outer.source, inner.source)
        and _marks_cover(outer.mark, inner.mark)
        and outer.direction.covers(inner.direction)
    )


def _names_cover(outer: Sequence[str], inner: Sequence[str]) -> bool:
    if not outer:
        return True
    patterns = NameSet.from_patterns(outer)
    return bool(inner) and all(patterns.covers(name) for name in inner)


def _protocols_cover(outer: Match, inner: Match) -> bool:
    if not outer.protocol:
        # Ports exist in tcp and udp only, which a port criterion already implies, and so does content.
        return True
    possible = [p for p in TransportProtocol if inner.accepts_protocol(p)]
    has_ports = bool(inner.protocol or inner.port or inner.needs_content)
    return has_ports and set(possible) <= set(outer.protocol)


def _ports_cover(outer: Sequence[PortRange], inner: Sequence[PortRange]) -> bool:
    if not outer:
        return True
    merged: list[PortRange] = []
    for ports in sorted(outer):
        if merged and ports.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, ports.last))
        else:
            merged.append(ports)
    return bool(inner) and all(any(m.first <= i.first and i.last <= m.last for m in merged) for i in inner)


def _networks_cover(outer: Sequence[Network], inner: Sequence[Network]) -> bool:
    if not outer:
        return True
    return bool(inner) and all(
        any(o.version == i.version and o.supernet_of(i) for o in outer)  # type: ignore[arg-type]
        for i in inner
    )


def _marks_cover(outer: Sequence[Mark], inner: Sequence[Mark]) -> bool:
    if not outer:
        return True
    return bool(inner) and all(
        any(o.mask & i.mask == o.mask and i.value & o.mask == o.value for o in outer) for i in inner
    )
