"""Splits a policy into names, for a mesh's proxy, and the rest, for the kernel. Pure.

A proxy that marks its own sockets needs one mark for each name; the rest of a policy, the limits and matches on
packets, is for ``podlane tc``, which matches the marked packets by ``match: {mark: ...}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from traffic_policy.errors import PolicyError, Problem
from traffic_policy.marks import CLASS_MASK, ClassIds, Mark, class_mark
from traffic_policy.policy import Bound, Match, Quic, TrafficPolicy, TransportProtocol
from traffic_policy.policy_file import policy_from_document
from traffic_policy.scope import beyond_packets

MAX_PORTS: Final = 128
"""Maximum ports of one match: each becomes a patch of its own."""


@dataclass(frozen=True, slots=True)
class MeshLane:
    """One match by names: the class, the mark of its packets, and its criteria.

    ``ports`` are single ones; empty: any.
    """

    class_name: str
    mark: Mark
    sni: tuple[str, ...]
    host: tuple[str, ...]
    ports: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, without duplicates."""
        return tuple(dict.fromkeys((*self.sni, *self.host)))


def marks_of(policy: TrafficPolicy) -> dict[str, Mark]:
    """The mark of each class: the ids and the field that the sidecar would use."""
    ids = ClassIds.assign(c.name for c in policy.classes)
    return {c.name: class_mark(ids[c.name]) for c in policy.classes}


def lanes(policy: TrafficPolicy, *, alone: bool = True) -> tuple[MeshLane, ...]:
    """The matches by name, in order of precedence. Raises :class:`PolicyError` for what no mesh's proxy can do.

    ``alone``: nothing of ours but traffic control works beside that proxy. An agent keeps the class of a connection,
    for what arrives on it, too, and can refuse QUIC.
    """
    problems = [each for each in _problems(policy) if alone or not each.path.endswith(("ingress", "quic"))]
    if problems:
        raise PolicyError(problems)
    marks = marks_of(policy)
    return tuple(
        MeshLane(name, marks[name], m.sni, m.host, tuple(p for r in m.port for p in range(r.first, r.last + 1)))
        for name, m in policy.rules()
        if m.needs_content
    )


def for_packets(policy: TrafficPolicy) -> TrafficPolicy:
    """The same policy for ``podlane tc``: matches by name become matches on the mark that the mesh's proxy sets.

    Also raises :class:`PolicyError` for matches that packets alone cannot satisfy.
    """
    if problems := list(_problems(policy)):
        raise PolicyError(problems)
    marks = marks_of(policy)
    document = policy.to_document()
    document.pop("requests", None)  # each request already has a connection of its own class
    for written, known in zip(document.get("classes", []), policy.classes, strict=True):
        plain = [text for text, match in zip(written["match"], known.match, strict=True) if not match.needs_content]
        first = next((i for i, match in enumerate(known.match) if match.needs_content), None)
        if first is not None:
            plain.insert(first, {"mark": str(marks[known.name])})
        written["match"] = plain
    made = policy_from_document(document)
    if problems := beyond_packets(made):
        raise PolicyError(problems)
    return made


def _problems(policy: TrafficPolicy) -> Iterator[Problem]:
    """Everything that would be ignored otherwise. A limit must never be ignored silently."""
    if policy.quic is Quic.BLOCK:
        yield Problem(
            "quic",
            "QUIC does not go through a mesh's proxy, so nobody is there to refuse it.",
            "Remove it, or use podlane sidecar.",
        )
    for i, traffic_class in enumerate(policy.classes):
        for j, match in enumerate(traffic_class.match):
            path = f"classes[{i}].match[{j}]"
            if match.needs_content:
                yield from _beyond_a_proxy(path, match)
            for mark in match.mark:
                if mark.mask & CLASS_MASK:
                    yield Problem(
                        f"{path}.mark",
                        f"The bits {CLASS_MASK:#x} are those that the mesh's proxy sets.",
                        "Use others.",
                    )
        if traffic_class.ingress and any(match.needs_content for match in traffic_class.match):
            yield Problem(
                f"classes[{i}].ingress",
                "What arrives carries no mark, so no name can tell this class apart there.",
                "Remove it, or match by port, cidr or protocol.",
            )


def _beyond_a_proxy(path: str, match: Match) -> Iterator[Problem]:
    if match.direction is not Bound.OUTBOUND:
        yield Problem(
            f"{path}.direction",
            "A mesh's proxy can mark the connections that it opens, not the answers that it gives.",
            "Remove it, or use podlane sidecar.",
        )
    if not match.accepts_protocol(TransportProtocol.TCP):
        yield Problem(
            f"{path}.protocol",
            "A mesh's proxy reads names in TCP alone.",
            "Remove it, or use podlane sidecar, which reads them in QUIC, too.",
        )
    if match.sni and match.host:
        yield Problem(
            path,
            "One match with sni and host asks for both at once, and a mesh's proxy can be asked for one.",
            "Write a match for each, if either will do, or use podlane sidecar.",
        )
    for key in ("alpn", "cidr", "source"):
        if getattr(match, key):
            yield Problem(
                f"{path}.{key}",
                f"Beside a name, a mesh's proxy cannot be asked for {key}.",
                "Remove it, write a match of its own, or use podlane sidecar.",
            )
    if sum(r.last - r.first + 1 for r in match.port) > MAX_PORTS:
        yield Problem(
            f"{path}.port",
            f"A match by name can have {MAX_PORTS} ports here, since each becomes a patch.",
            "Name fewer, or none.",
        )
