"""Finds matches that are unreachable since an earlier match covers them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

from traffic_policy.marks import Mark
from traffic_policy.names import NameSet, parents
from traffic_policy.policy import Match, Network, TransportProtocol

MOST_COMPARED: Final = 1_000_000
"""Values of matches that are compared with other matches before :class:`ComparisonError`: half a second. A policy of
250 classes with a dozen ports and networks each needs 700,000."""


class ComparisonError(ValueError):
    """Comparing these matches would take too long."""


class EarlierMatches:
    """The matches so far, found by a name that a match must contain to hide another.

    Comparing all pairs would be too slow for a policy of 10,000 names.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], list[tuple[str, _Criteria]]] = {}
        self._nameless: list[tuple[str, _Criteria]] = []
        self._compared = 0

    def add(self, path: str, match: Match) -> None:
        """Add a match with its path in the policy."""
        keys = [("sni", n) for n in match.sni] or [("host", n) for n in match.host]
        criteria = _Criteria(match)
        for key in dict.fromkeys(keys):
            self._by_name.setdefault(key, []).append((path, criteria))
        if not keys:
            self._nameless.append((path, criteria))

    def hiding(self, match: Match) -> str | None:
        """The path of an earlier match that covers ``match``, if any. Raises :class:`ComparisonError`."""
        candidates = list(self._nameless)
        for criterion, names in (("sni", match.sni), ("host", match.host)):
            # To hide this match another must cover its first name: by that name, or by a wildcard above it.
            for name in names[:1]:
                wider = (name, *(f"*.{domain}" for domain in parents(name.removeprefix("*."))))
                for pattern in wider:
                    candidates += self._by_name.get((criterion, pattern), ())
        inner = _Criteria(match)
        for path, outer in candidates:
            self._compared += inner.size + len(match.mark) * len(outer.match.mark)
            if self._compared > MOST_COMPARED:
                raise ComparisonError("Comparing these matches takes too long.")
            if outer.cover(inner):
                return path
        return None


def covers(outer: Match, inner: Match) -> bool:
    """Whether everything that ``inner`` matches is matched by ``outer`` too."""
    return _Criteria(outer).cover(_Criteria(inner))


class _Criteria:
    """A match, in the forms that are fast to compare. ``size``: how many steps that takes, less one."""

    __slots__ = ("_alpn", "_cidr", "_host", "_ports", "_sni", "_source", "match", "size")

    def __init__(self, match: Match) -> None:
        self.match = match
        self._sni, self._host = NameSet.from_patterns(match.sni), NameSet.from_patterns(match.host)
        self._alpn = frozenset(match.alpn)
        self._ports = _Ranges((p.first, p.last) for p in match.port)
        self._cidr, self._source = _Ranges(map(_ends, match.cidr)), _Ranges(map(_ends, match.source))
        labels = sum(name.count(".") + 1 for name in (*match.sni, *match.host))
        counted = (match.alpn, match.protocol, match.port, match.cidr, match.source)
        self.size = max(0, labels + sum(map(len, counted)) - 1)

    def cover(self, inner: _Criteria) -> bool:
        mine, other = self.match, inner.match
        return (
            _names_cover(self._sni, other.sni)
            and _names_cover(self._host, other.host)
            and (not self._alpn or (bool(inner._alpn) and inner._alpn <= self._alpn))
            and _protocols_cover(mine, other)
            and self._ports.cover(inner._ports)
            and self._cidr.cover(inner._cidr)
            and self._source.cover(inner._source)
            and _marks_cover(mine.mark, other.mark)
            and mine.direction.covers(other.direction)
        )


class _Ranges:
    """Sorted ranges of whole numbers that neither overlap nor touch."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def cover(self, inner: _Ranges) -> bool:
        """Whether each number of ``inner`` is in one of these ranges; none at all stand for all numbers."""
        if not self._firsts:
            return True
        return bool(inner._firsts) and all(map(self._has, inner._firsts, inner._lasts))

    def _has(self, first: int, last: int) -> bool:
        place = bisect_right(self._firsts, first) - 1
        return place >= 0 and last <= self._lasts[place]


def _ends(network: Network) -> tuple[int, int]:
    """The first and last address as numbers; those of IPv6 are beyond those of IPv4, with a gap."""
    beyond = 2**33 if network.version == 6 else 0
    return int(network.network_address) + beyond, int(network.broadcast_address) + beyond


def _names_cover(outer: NameSet, inner: Sequence[str]) -> bool:
    if not outer.exact and not outer.suffixes:
        return True
    return bool(inner) and all(map(outer.covers, inner))


def _protocols_cover(outer: Match, inner: Match) -> bool:
    if not outer.protocol:
        # Ports exist in tcp and udp only, which a port criterion already implies, and so does content.
        return True
    possible = [p for p in TransportProtocol if inner.accepts_protocol(p)]
    has_ports = bool(inner.protocol or inner.port or inner.needs_content)
    return has_ports and set(possible) <= set(outer.protocol)


def _marks_cover(outer: Sequence[Mark], inner: Sequence[Mark]) -> bool:
    if not outer:
        return True
    return bool(inner) and all(
        any(o.mask & i.mask == o.mask and i.value & o.mask == o.value for o in outer) for i in inner
    )
