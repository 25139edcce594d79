"""Checks across the parts of a policy: promises that cannot be kept, and matches that can never decide anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from tc_core.errors import Problem
from tc_core.marks import MAX_CLASSES
from tc_core.names import NameSet, parents
from tc_core.policy import MIN_RATE, Match, Network, PortRange, TrafficPolicy, TransportProtocol
from tc_core.units import ByteCount, Rate

_SMALLEST_BURST = ByteCount(3028)
"""Two full Ethernet packets: with less HTB waits for its timer between any two."""
_LONGEST_BURST_SECONDS = 60
"""A burst is what may pass unshaped after a pause; the kernel itself ends at 274 s (32 bits of 64 ns)."""


def check(policy: TrafficPolicy) -> list[Problem]:
    """Everything that is wrong with a policy whose single values are all right. Empty when it can be used."""
    return list(chain(_bandwidths(policy), _names(policy), _matches(policy)))


def _bandwidths(policy: TrafficPolicy) -> Iterable[Problem]:
    total = policy.total
    if total < MIN_RATE:
        yield Problem("total", f"{total.human} is too little to carry packets.", f"Raise it to {MIN_RATE} or more.")
        return
    shares = [(f"classes[{i}]", c.name, c.rate, c.ceil) for i, c in enumerate(policy.classes)]
    shares.append(("default", "default", policy.default.rate or policy.default_rate, policy.default.ceil))
    for path, name, rate, ceil in shares:
        if rate < MIN_RATE:
            yield Problem(f"{path}.rate", f"Class {name} gets {rate.human}, too little to carry packets.",
                          f"Raise it to {MIN_RATE} or more.")  # fmt: skip
        if ceil is not None and ceil < rate:
            yield Problem(
                f"{path}.ceil",
                f"Class {name} cannot be held to {ceil.human} while {rate.human} is guaranteed to it.",
                f"Lower the rate to {ceil} or raise the ceil to {rate}.",
            )
        if rate > total:
            yield _cannot_guarantee(f"{path}.rate", rate, total, f"the rate of class {name}")
    yield from _bursts(policy)
    if any(rate > total for _, _, rate, _ in shares):
        return
    written = [c.rate for c in policy.classes]
    if policy.default.rate is not None:
        written.append(policy.default.rate)
    promised = Rate(sum(rate.bits_per_second for rate in written))
    if promised > total:
        yield _cannot_guarantee("total", promised, total, "the rates of the classes")


def _bursts(policy: TrafficPolicy) -> Iterable[Problem]:
    written = [(f"classes[{i}]", c.rate, c.burst) for i, c in enumerate(policy.classes)]
    written.append(("default", policy.default_rate, policy.default.burst))
    for path, rate, burst in written:
        most = ByteCount(rate.bytes_in(_LONGEST_BURST_SECONDS))
        if burst is not None and burst < _SMALLEST_BURST:
            yield Problem(f"{path}.burst", f"{burst} cannot hold two full packets, so the ceil would not be reached.",
                          f"Raise it to {_SMALLEST_BURST} or more, or leave it out.")  # fmt: skip
        elif burst is not None and burst > most:
            yield Problem(
                f"{path}.burst",
                f"{burst} would let the class ignore its limits for longer than {_LONGEST_BURST_SECONDS} s.",
                f"Lower it to {most.human} or less, or leave it out.",
            )


def _cannot_guarantee(path: str, promised: Rate, total: Rate, whose: str) -> Problem:
    return Problem(
        path,
        f"Cannot guarantee {promised.human} inside {total.human}.",
        f"Lower {whose} or raise total to {promised}.",
    )


def _names(policy: TrafficPolicy) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for i, traffic_class in enumerate(policy.classes):
        other = first.setdefault(traffic_class.name, i)
        if other != i:
            yield Problem(
                f"classes[{i}].name",
                f"There are two classes named {traffic_class.name} (classes[{other}] is the first).",
                "Rename one, or give the first the matches of both: matches are alternatives.",
            )
    if len(policy.classes) > MAX_CLASSES:
        yield Problem(
            "classes",
            f"{len(policy.classes)} classes do not fit in the packet mark, which has room for {MAX_CLASSES}.",
            "Merge classes that have the same limits: one class may have many matches.",
        )


def _matches(policy: TrafficPolicy) -> Iterable[Problem]:
    earlier = _EarlierMatches()
    for i, traffic_class in enumerate(policy.classes):
        if not traffic_class.match:
            yield Problem(
                f"classes[{i}].match",
                "The list is empty, so nothing can ever belong to the class.",
                'Say what does, as in match: [{sni: ["*.example.com"]}].',
            )
        for j, match in enumerate(traffic_class.match):
            path = f"classes[{i}].match[{j}]"
            if not match.model_fields_set or str(match) == "everything":
                yield Problem(path, f"A match of class {traffic_class.name} has no criterion: it would take all.",
                              "Add one, or put these limits under the top-level key default.")  # fmt: skip
                continue
            if match.needs_content and match.protocol == (TransportProtocol.UDP,):
                yield Problem(path, "sni, host and alpn are read from TCP connections, so they cannot match udp.",
                              "Remove protocol: udp, or match the UDP traffic by port and cidr.")  # fmt: skip
                continue
            hider = earlier.hiding(match)
            if hider is not None:
                yield Problem(
                    path,
                    f"This match ({match}) can never decide: everything it takes is taken by {hider} before it.",
                    "Move it before that one, or remove it.",
                )
            earlier.add(path, match)


class _EarlierMatches:
    """The matches so far, found by a name that a match must contain to hide another.

    Comparing each with each would take a minute for a policy of 10,000 names.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], list[tuple[str, Match]]] = {}
        self._nameless: list[tuple[str, Match]] = []

    def add(self, path: str, match: Match) -> None:
        keys = [("sni", n) for n in match.sni] or [("host", n) for n in match.host]
        for key in keys:
            self._by_name.setdefault(key, []).append((path, match))
        if not keys:
            self._nameless.append((path, match))

    def hiding(self, match: Match) -> str | None:
        """The path of an earlier match that takes everything which ``match`` would."""
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
    )


def _names_cover(outer: Sequence[str], inner: Sequence[str]) -> bool:
    if not outer:
        return True
    patterns = NameSet.of(outer)
    return bool(inner) and all(patterns.covers(name) for name in inner)


def _protocols_cover(outer: Match, inner: Match) -> bool:
    if not outer.protocol:
        # Ports exist in tcp and udp only, which a port criterion already implies; content implies tcp.
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
