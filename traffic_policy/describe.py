"""Describes a policy in plain words: how the total is shared, how packets wait, which traffic belongs to a class.

Pure. The terms are those of ``docs/reference/policy.md``. The text holds for any way of putting the policy in force;
:mod:`datapath.explain.policy` adds what concerns the proxy only. :func:`describe` returns the complete text, for use
without the sidecar.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from traffic_policy.marks import Mark
from traffic_policy.policy import (
    DEFAULT_CLASS,
    Bound,
    Match,
    Queue,
    Rehearsal,
    ResolvedClass,
    Shaper,
    TrafficPolicy,
    TransportProtocol,
)
from traffic_policy.services import service_named
from traffic_policy.units import Percentage, Rate

_WIDTH: Final = 100
"""Columns of prose."""

_WHOLE_MARK: Final = 0xFFFFFFFF

_QUEUES: Final[Mapping[Queue, str]] = {
    Queue.AUTO: "",
    Queue.LOW_LATENCY: "Low latency: its queue is kept shorter, at some cost to flows over long distances.",
    Queue.FAIR: "Fair queuing: its flows take turns, in whichever of fq_codel, sfq and cake the kernel has.",
    Queue.FQ_CODEL: "Its packets wait in fq_codel: flows take turns, and the queue is kept short.",
    Queue.SFQ: "Its packets wait in sfq: flows take turns.",
    Queue.CAKE: "Its packets wait in cake: flows take turns, and the queue is kept short.",
    Queue.FIFO: "Its packets wait in a FIFO: first come, first served.",
}


def describe(policy: TrafficPolicy, *, interface: str | None = None) -> str:
    """A checked policy in plain text, for use without the sidecar; lines of at most 100 columns where words allow."""
    return "\n".join(_description(policy, interface))


def _description(policy: TrafficPolicy, interface: str | None) -> Iterator[str]:
    yield from _prose(f"{headline(policy, interface)}.")
    yield ""
    yield from _prose(sharing(policy))
    received = policy.received()
    for each in policy.resolved():
        yield ""
        yield from _prose(f"{each.name} {limits(each, policy)}")
        for sentence in (*waiting(each), *receiving(each.name, received)):
            yield from _prose(sentence, "  ")
        traffic = [traffic_words(match) for match in each.match] or [rest_words(policy)]
        for words in traffic:
            yield from _prose(words, "  - ", "    ")
    notes = list(bandwidth_notes(policy))
    if notes:
        yield ""
    for note in notes:
        yield from _prose(note, "- ", "  ")


def _prose(text: str, first: str = "", rest: str | None = None) -> list[str]:
    indent = first if rest is None else rest
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# --- bandwidth -------------------------------------------------------------------------------------------------------


def headline(policy: TrafficPolicy, interface: str | None = None) -> str:
    """The total, and among whom it is shared: no sentence yet, and without a full stop."""
    count = len(policy.classes)
    among = "the default class alone" if count == 0 else f"{count} class{'es' if count > 1 else ''} and the default one"
    how = {
        Shaper.HTB: f"shared by {among}",
        Shaper.PRIO: f"in strict priority for {among}",
        Shaper.TBF: "for all traffic together",
        Shaper.CAKE: "for all traffic together, shared fairly (CAKE)",
    }
    where = f" on {interface}" if interface else ""
    return f"{policy.total.human}{where}, {how[policy.shaper]}"


def limits(resolved: ResolvedClass, policy: TrafficPolicy) -> str:
    """What a class may send, as the rest of a sentence that begins with its name."""
    if policy.shaper is Shaper.HTB:
        return _guarantee(resolved, policy, "of the total")
    most = f"at most {resolved.ceil.human}"
    if policy.shaper is Shaper.PRIO and policy.classes:
        before = list(itertools.takewhile(lambda name: name != resolved.name, _names(_in_order(policy))))
        leave = "leaves" if len(before) == 1 else "leave"
        when = f"is sent when {every(before)} {leave} room" if before else "is sent first of all"
        return f"{when}, {most} (priority {resolved.priority})."
    return f"may send {most}."


def sharing(policy: TrafficPolicy) -> str:
    """How the classes share the total: who is lent unused bandwidth first, or who goes before whom. And what Pods share
    among them."""
    return f"{_sharing(policy)} {_together(policy)}".rstrip()


def _sharing(policy: TrafficPolicy) -> str:
    match policy.shaper:
        case Shaper.HTB:
            return _lending(policy.resolved())
        case Shaper.PRIO if policy.classes:
            order = ", then ".join(_names(_in_order(policy)))
            return (
                f"Strict priority: first {order}. Nothing is guaranteed: a class that always has something to send "
                "starves those behind it, unless it has a ceil."
            )
        case Shaper.CAKE:
            return (
                f"All traffic together is held to {policy.total.human}. CAKE shares it fairly between hosts, and "
                "between the flows of each; DSCP values ask it for more or less urgency."
            )
        case _:
            return f"All traffic together is held to {policy.total.human}, and no part of it is guaranteed to anything."


def _together(policy: TrafficPolicy) -> str:
    """What several Pods share; empty where each is alone."""
    if policy.budget is None:
        return ""
    return (
        f"All Pods of a node that have this policy send at most {policy.budget.node.human} together: the node's agent "
        "shares that out among them by what they want, and no Pod gets more than the total."
    )


def percent(share: float) -> str:
    """A share of the total: ``20 %``, ``0.5 %``, ``< 0.01 %``."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return f"{share * 100:.3g} %"


def bandwidth_notes(policy: TrafficPolicy) -> Iterator[str]:
    """What of the limits is not as it is written, or not written at all."""
    yield from _cut_ceils("its ceil", [(c.name, c.ceil) for c in policy.classes], policy.default.ceil, policy.total)
    if policy.shaper is Shaper.HTB and policy.default.rate is None:
        yield f"default: no rate is written for it, so it gets {policy.default_rate.human} (1 % of the total, or less)."
    if policy.ingress is None:
        yield "What the interface sends is shaped. What it receives is not."
        return
    written = [(c.name, c.ingress.ceil) for c in policy.classes if c.ingress]
    rest = policy.default.ingress.ceil if policy.default.ingress else None
    yield from _cut_ceils("its ingress ceil", written, rest, policy.ingress.total)
    yield (
        f"What the interface receives is held to {policy.ingress.total.human}. Ports and destination networks of a "
        "match are then those of the other end."
    )


def _cut_ceils(what: str, ceils: Iterable[tuple[str, Rate | None]], default: Rate | None, total: Rate) -> Iterator[str]:
    for name, ceil in (*ceils, (DEFAULT_CLASS, default)):
        if ceil is not None and ceil > total:
            yield f"{name}: {what} of {ceil.human} is above the total and is cut to {total.human}."


def _guarantee(resolved: ResolvedClass, policy: TrafficPolicy, of_what: str) -> str:
    """A class's rate and ceil where bandwidth is guaranteed and lent."""
    share = resolved.rate.bits_per_second / policy.total.bits_per_second
    if resolved.ceil <= resolved.rate:
        lent = "and never more, since its ceil is its rate"
    else:
        turns = sorted({c.priority for c in policy.resolved()})
        place = _place(turns.index(resolved.priority) + 1, len(turns))
        lent = (
            f"and may borrow up to {resolved.ceil.human} while others leave bandwidth unused "
            f"(priority {resolved.priority}{place})"
        )
    return f"is guaranteed {resolved.rate.human} ({percent(share)} {of_what}), {lent}."


def _place(turn: int, turns: int) -> str:
    if turns == 1:
        return ""
    return ": lent to first" if turn == 1 else ": lent to last" if turn == turns else ""


def _lending(classes: Sequence[ResolvedClass]) -> str:
    borrowers = [c for c in classes if c.ceil > c.rate]
    if not borrowers:
        return "No class may borrow: each has exactly what is guaranteed to it."
    groups = [
        (priority, _names(group))
        for priority, group in itertools.groupby(sorted(borrowers, key=lambda c: c.priority), key=lambda c: c.priority)
    ]
    steps = ", then to ".join(f"{every(names)} (priority {priority})" for priority, names in groups)
    equals = any(len(names) > 1 for _, names in groups)
    among = " Classes of one priority share it in proportion to their guarantees." if equals else ""
    return f"What a class does not use is lent to {steps}, to each up to its ceil.{among}"


def _in_order(policy: TrafficPolicy) -> list[ResolvedClass]:
    """Strict priority: of classes with the same number, the one that is written first goes first."""
    return sorted(policy.resolved(), key=lambda c: c.priority)


def _names(classes: Iterable[ResolvedClass]) -> list[str]:
    return [c.name for c in classes]


# --- waiting and receiving -------------------------------------------------------------------------------------------


def waiting(resolved: ResolvedClass) -> tuple[str, ...]:
    """Sentences about a class's queue and rehearsal; none where nothing is asked for."""
    if resolved.rehearsal is not None:
        return (f"Rehearsal: {_rehearsal(resolved.rehearsal)}.",)
    sentence = _QUEUES[resolved.queue]
    return (sentence,) if sentence else ()


def receiving(name: str, received: TrafficPolicy | None) -> tuple[str, ...]:
    """Sentences about what a class may receive; none where nothing limits it.

    ``received`` is what :meth:`TrafficPolicy.received` gives.
    """
    if received is None:
        return ()
    resolved = next((c for c in received.resolved() if c.name == name), None)
    if resolved is None:
        return ("What it receives counts as the default class's.",)
    return (f"Of what arrives, it {_guarantee(resolved, received, 'of the total there')}",)


def _rehearsal(rehearsal: Rehearsal) -> str:
    parts = []
    if rehearsal.delay is not None:
        jitter = f", give or take {rehearsal.jitter}" if rehearsal.jitter is not None else ""
        parts.append(f"each packet leaves {rehearsal.delay} later{jitter}")
    fates = ((rehearsal.loss, "lost"), (rehearsal.duplicate, "sent twice"), (rehearsal.corrupt, "damaged in one bit"))
    shares = [f"{_share(share)} {fate}" for share, fate in fates if share is not None]
    if shares:
        parts.append(f"of the packets {every(shares)} at random")
    return "; ".join(parts)


def _share(share: Percentage) -> str:
    verb = "is" if share.parts_per_million == 10_000 else "are"
    return f"{str(share).removesuffix('%')} % {verb}"


# --- traffic ---------------------------------------------------------------------------------------------------------


def traffic_words(match: Match) -> str:
    """The traffic that a match takes: ``TLS connections to api.example.com on port 443``."""
    subjects = []
    carrier = "QUIC" if match.protocol == (TransportProtocol.UDP,) else "TLS"
    if match.sni:
        subjects.append(f"{carrier} connections to {_patterns(match.sni)}")
    if match.host:
        subjects.append(f"HTTP requests to {_patterns(match.host)} (Host or :authority)")
    if match.alpn:
        offer = f"offering {either(match.alpn)} by ALPN"
        subjects = [f"{s} {offer}" for s in subjects] or [f"{carrier} connections {offer}"]
    text = " that are also ".join(subjects) or _packets(match)
    if subjects and match.application:
        text += f" on port {either(f'{service_named(name).port} ({name})' for name in match.application)}"
    if match.port:
        text += f" on port {either(str(p) for p in match.port)}"
    if match.cidr:
        text += f" {'in' if subjects else 'to'} {either(str(n) for n in match.cidr)}"
    if match.source:
        text += f" from {either(str(n) for n in match.source)}"
    if match.mark:
        text += f" with the packet mark {either(_mark(m) for m in match.mark)}"
    if match.direction is Bound.INBOUND:
        return f"answers to {text}, opened by clients"
    if match.direction is Bound.BOTH:
        return f"{text}, opened by either side"
    return text


def rest_words(policy: TrafficPolicy) -> str:
    """The traffic of the default class."""
    return "Everything that no class takes." if policy.classes else "Everything."


def either(items: Iterable[str]) -> str:
    """``a, b or c``; at least one item."""
    return _listed(list(items), "or")


def every(items: Iterable[str]) -> str:
    """``a, b and c``; at least one item."""
    return _listed(list(items), "and")


def _packets(match: Match) -> str:
    """What can be told without reading the first bytes: services, protocols."""
    if match.application:
        return either(_service(match, name) for name in match.application)
    if match.protocol:
        return _protocols(match.protocol)
    if match.port:
        return _protocols(p for p in TransportProtocol if p.has_ports)
    return "everything (TCP, UDP, ICMP ...)"


def _service(match: Match, name: str) -> str:
    """``ssh (port 22, TCP)``, with those of its protocols that the match leaves."""
    service = service_named(name)
    left = [p for p in service.protocols if not match.protocol or p in match.protocol]
    return f"{name} (port {service.port}, {_protocols(left or service.protocols)})"


def _protocols(protocols: Iterable[TransportProtocol]) -> str:
    wanted = frozenset(protocols)
    return every(p.value.upper() for p in TransportProtocol if p in wanted)


def _mark(mark: Mark) -> str:
    return f"{mark.value:#x}" if mark.mask == _WHOLE_MARK else str(mark)


def _patterns(patterns: Sequence[str]) -> str:
    return either(f"any name below {p[2:]}" if p.startswith("*.") else p for p in patterns)


def _listed(items: Sequence[str], word: str) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"
