"""Checks across the parts of a policy: rates that cannot be guaranteed, and matches that can never apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from traffic_policy.errors import Mend, Problem
from traffic_policy.marks import MAX_CLASSES
from traffic_policy.overlap import ComparisonError, EarlierMatches
from traffic_policy.policy import (
    DEFAULT_CLASS,
    MIN_RATE,
    DefaultClass,
    Match,
    Queue,
    Quic,
    Rehearsal,
    Shaper,
    TrafficClass,
    TrafficPolicy,
    TransportProtocol,
)
from traffic_policy.units import ByteCount, Duration, Rate

MAX_BANDS: Final = 16
"""TCQ_PRIO_BANDS of linux/pkt_sched.h."""
_SMALLEST_BURST: Final = ByteCount(3028)
"""Two full Ethernet packets: with less HTB waits for its timer between any two."""
_LONGEST_BURST_SECONDS: Final = 60
"""A burst is what may pass unshaped after a pause; the kernel itself ends at 274 s (32 bits of 64 ns)."""
_LONGEST_DELAY: Final = Duration.from_seconds(60)
"""A path to the Moon and back takes 2.6 s."""


def check(policy: TrafficPolicy) -> list[Problem]:
    """All problems of a policy whose individual values are valid. Empty if the policy is usable."""
    parts = (_shaper, _bandwidths, _budget, _ingress, _names, _waiting, _matches)
    return [problem for part in parts for problem in part(policy)]


def _everyone(policy: TrafficPolicy) -> list[tuple[str, str, TrafficClass | DefaultClass]]:
    """Path, name and limits of each class, the default class last."""
    named = [(f"classes[{i}]", c.name, c) for i, c in enumerate(policy.classes)]
    return [*named, ("default", DEFAULT_CLASS, policy.default)]


def rate_is_missing(path: str) -> Problem:
    """A class without a guarantee where the shaper needs one."""
    return Problem(path, "rate is missing.", "Add what is guaranteed to the class, as in rate: 10Mbit.")


# --- how the total is shared -----------------------------------------------------------------------------------------


def _shaper(policy: TrafficPolicy) -> Iterable[Problem]:
    """What the shaper of a policy cannot do, or needs."""
    shaper, default = policy.shaper, policy.default
    if shaper is Shaper.HTB:
        yield from (rate_is_missing(f"classes[{i}]") for i, c in enumerate(policy.classes) if c.rate is None)
        return
    if policy.classes and not shaper.has_classes:
        yield Problem(
            "classes",
            f"{shaper} treats all traffic alike, so the limits of these classes could not be kept.",
            "Remove the classes, or write shaper: htb.",
        )
        return
    if shaper is Shaper.PRIO and len(policy.classes) >= MAX_BANDS:
        yield Problem(
            "classes",
            f"prio has {MAX_BANDS} bands: one for each class and one for the default.",
            f"Merge classes until {MAX_BANDS - 1} are left, or write shaper: htb.",
        )
    for path, _, each in _everyone(policy):
        if each.rate is not None:
            yield Problem(f"{path}.rate", f"{shaper} gives no guarantees.", "Remove the rate, or write shaper: htb.")
        if each.burst is not None:
            yield Problem(f"{path}.burst", f"{shaper} has no burst for a class.", "Remove it, or write shaper: htb.")
    if not shaper.has_classes and {"ceil", "priority"} & default.model_fields_set:
        yield Problem("default", f"{shaper} limits all traffic to the total alone.", "Remove its ceil and priority.")
    if shaper is Shaper.CAKE and (default.queue is not Queue.AUTO or default.rehearsal or policy.rehearsal):
        yield Problem(
            "shaper",
            "cake has its own queues, below which there can be no other queue and no rehearsal.",
            "Remove queue and rehearsal, or write shaper: tbf.",
        )


def _bandwidths(policy: TrafficPolicy) -> Iterable[Problem]:
    total, default = policy.total, policy.default
    if total < MIN_RATE:
        yield _too_little("total", "The total is", total)
        return
    shares = [_Share(path, name, each.rate, each.ceil) for path, name, each in _everyone(policy)]
    if policy.shaper is not Shaper.HTB:
        yield from _shares(shares, total)
        return
    shares[-1] = _Share("default", DEFAULT_CLASS, default.rate or policy.default_rate, default.ceil)
    yield from _shares(shares, total)
    yield from _bursts(policy)
    promised = [each.rate for _, _, each in _everyone(policy) if each.rate is not None]
    yield from _promises(shares, promised, total, "total")


def _budget(policy: TrafficPolicy) -> Iterable[Problem]:
    """What one Pod is promised has to fit into what all may use together."""
    if policy.budget is None:
        return
    most = policy.budget.node
    if most < MIN_RATE:
        yield _too_little("budget.node", "The budget of a node is", most)
        return
    written = [each.rate.bits_per_second for _, _, each in _everyone(policy) if each.rate is not None]
    if (promised := Rate(sum(written))) > most:
        yield _cannot_guarantee("budget.node", promised, most, "the rates of the classes", "budget.node")


def _ingress(policy: TrafficPolicy) -> Iterable[Problem]:
    limits = [(f"{path}.ingress", name, each.ingress) for path, name, each in _everyone(policy) if each.ingress]
    if policy.ingress is None:
        for path, name, _ in limits:
            yield Problem(
                path,
                f"Class {name} limits what it receives, but the bandwidth of what arrives is not given.",
                "Add it at the top, as in ingress: {total: 100Mbit}.",
            )
        return
    total = policy.ingress.total
    if total < MIN_RATE:
        yield _too_little("ingress.total", "The total of what arrives is", total)
        return
    shares = [_Share(path, name, ingress.rate, ingress.ceil) for path, name, ingress in limits]
    yield from _shares(shares, total)
    yield from _promises(shares, [ingress.rate for _, _, ingress in limits], total, "ingress.total")


@dataclass(frozen=True, slots=True)
class _Share:
    """What one class is promised of a total, and where that is written."""

    path: str
    name: str
    rate: Rate | None
    ceil: Rate | None


def _shares(shares: Iterable[_Share], total: Rate) -> Iterable[Problem]:
    for share in shares:
        path, rate, ceil = share.path, share.rate, share.ceil
        if rate is not None and rate < MIN_RATE:
            yield _too_little(f"{path}.rate", f"Class {share.name} gets", rate)
        if rate is None and ceil is not None and ceil < MIN_RATE:
            yield _too_little(f"{path}.ceil", f"Class {share.name} is held to", ceil)
        if rate is not None and ceil is not None and ceil < rate:
            yield Problem(
                f"{path}.ceil",
                f"Class {share.name} cannot be held to {ceil.human} while {rate.human} is guaranteed to it.",
                f"Lower the rate to {ceil} or raise the ceil to {rate}.",
                (Mend(f"{path}.rate", str(ceil), raises=False), Mend(f"{path}.ceil", str(rate), raises=True)),
            )
        if rate is not None and rate > total:
            key = "ingress.total" if path.endswith("ingress") else "total"
            yield _cannot_guarantee(f"{path}.rate", rate, total, f"the rate of class {share.name}", key)


def _promises(shares: Iterable[_Share], written: Iterable[Rate], total: Rate, path: str) -> Iterable[Problem]:
    """The guarantees together, unless one alone is too much."""
    promised = Rate(sum(rate.bits_per_second for rate in written))
    if promised > total and not any(s.rate is not None and s.rate > total for s in shares):
        yield _cannot_guarantee(path, promised, total, "the rates of the classes", path)


def _bursts(policy: TrafficPolicy) -> Iterable[Problem]:
    for path, _, each in _everyone(policy):
        rate, burst = policy.default_rate if each is policy.default else each.rate, each.burst
        if rate is None or burst is None:
            continue
        most = ByteCount(rate.bytes_in(_LONGEST_BURST_SECONDS))
        if burst < _SMALLEST_BURST:
            yield Problem(f"{path}.burst", f"{burst} cannot hold two full packets, so the ceil would not be reached.",
                          f"Raise it to {_SMALLEST_BURST} or more, or leave it out.",
                          (Mend(f"{path}.burst", str(_SMALLEST_BURST), raises=True),))  # fmt: skip
        elif burst > most:
            yield Problem(
                f"{path}.burst",
                f"{burst} would let the class ignore its limits for longer than {_LONGEST_BURST_SECONDS} s.",
                f"Lower it to {most.human} or less, or leave it out.",
            )


def _too_little(path: str, what: str, rate: Rate) -> Problem:
    mends = (Mend(path, str(MIN_RATE), raises=True),)
    return Problem(
        path, f"{what} {rate.human}, too little to carry packets.", f"Raise it to {MIN_RATE} or more.", mends
    )


def _cannot_guarantee(path: str, promised: Rate, total: Rate, whose: str, key: str) -> Problem:
    mends = [Mend(key, str(promised), raises=True)]
    if path.endswith("rate"):
        mends.insert(0, Mend(path, str(total), raises=False))
    return Problem(
        path,
        f"Cannot guarantee {promised.human} inside {total.human}.",
        f"Lower {whose} or raise {key} to {promised}.",
        tuple(mends),
    )


# --- the rest --------------------------------------------------------------------------------------------------------


def _waiting(policy: TrafficPolicy) -> Iterable[Problem]:
    """Queues, and rehearsals in their place."""
    yield from _rehearsal("rehearsal", policy.rehearsal)
    for path, _, each in _everyone(policy):
        yield from _rehearsal(f"{path}.rehearsal", each.rehearsal)
        if each.queue is not Queue.AUTO and (each.rehearsal or policy.rehearsal):
            yield Problem(
                f"{path}.queue",
                "Delayed packets wait in the queue of the rehearsal, so there is no other.",
                "Remove queue, or the rehearsal.",
            )


def _rehearsal(path: str, rehearsal: Rehearsal | None) -> Iterable[Problem]:
    if rehearsal is None:
        return
    if not rehearsal.model_dump(exclude_none=True):
        yield Problem(path, "It is empty, so nothing is worse.", "Say what is, as in rehearsal: {delay: 50ms}.")
    delay, jitter = rehearsal.delay, rehearsal.jitter
    if jitter is not None and (delay is None or jitter > delay):
        yield Problem(
            f"{path}.jitter",
            f"A delay of {delay or '0ms'} cannot vary by {jitter}: packets would leave before they came.",
            f"Write delay: {jitter} or more.",
        )
    if delay is not None and delay > _LONGEST_DELAY:
        yield Problem(f"{path}.delay", f"{delay} is longer than any path.", f"Write {_LONGEST_DELAY} or less.")


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
    earlier = EarlierMatches()
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
            if contradiction := _contradiction(path, match):
                yield contradiction
                continue
            if policy.quic is Quic.BLOCK and match.needs_content and not match.accepts_protocol(TransportProtocol.TCP):
                yield Problem(path, "quic: block refuses QUIC, and a name in UDP is in nothing else.",
                              "Remove protocol, or write quic: classify.")  # fmt: skip
                continue
            expanded = list(match.expanded())
            try:
                hiders = [earlier.hiding(part) for part in expanded]
            except ComparisonError:
                yield Problem(
                    "classes",
                    "To find out which of these matches can never decide takes too long.",
                    "Write fewer matches, or fewer ports, networks and names in each.",
                )
                return
            if hiders and hiders[0] is not None and None not in hiders:
                yield Problem(
                    path,
                    f"This match ({match}) can never decide: everything it takes is taken by {hiders[0]} before it.",
                    "Move it before that one, or remove it.",
                )
            for part in expanded:
                earlier.add(path, part)


def _contradiction(path: str, match: Match) -> Problem | None:
    """Criteria that cannot all hold for any packet."""
    if match.application and match.port:
        return Problem(
            path, "application and port both say which ports.", "Keep one, or make two matches: they are alternatives."
        )
    if match.source and match.cidr and not {n.version for n in match.source} & {n.version for n in match.cidr}:
        return Problem(
            path, "source and cidr are of different families, so no packet has both.", "Write both as IPv4, or as IPv6."
        )
    if any(match.accepts_protocol(protocol) for protocol in TransportProtocol):
        return None
    written = ", ".join(match.protocol)
    if match.needs_content:
        seen = "host is read from TCP connections" if match.host else "sni and alpn are read from TCP and QUIC"
        return Problem(path, f"{seen}, so {'it' if match.host else 'they'} cannot match {written}.",
                       "Remove protocol, or match that traffic by port and cidr.")  # fmt: skip
    if match.application:
        services = ", ".join(match.application)
        return Problem(path, f"{services} does not use {written}.", "Remove protocol: the service says it.")
    return Problem(path, f"{written} has no ports.", "Remove port, or write protocol: tcp or udp.")
