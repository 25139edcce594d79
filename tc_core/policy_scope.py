"""What of a policy each way of finding a packet's class can honour. A limit must never be ignored silently. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tc_core.errors import Problem
from tc_core.policy import Match, Shaper, TrafficPolicy


def beyond_packets(policy: TrafficPolicy) -> list[Problem]:
    """What traffic control alone cannot do: ``podlane tc`` and the library see packets, not what they say."""
    return [
        Problem(
            path,
            f"{_written(match, 'sni', 'host', 'alpn')} can be seen only by a proxy that reads the first bytes.",
            "Use podlane run or podlane sidecar, or match by port, cidr, source, protocol or mark.",
        )
        for path, match in _matches(policy)
        if match.needs_content
    ]


def beyond_sidecar(policy: TrafficPolicy) -> list[Problem]:
    """What ``podlane run`` and the sidecar cannot do (yet): there, marks tell the classes apart."""
    problems = []
    if policy.shaper is not Shaper.HTB:
        problems.append(
            Problem(
                "shaper",
                f"The sidecar shares the total by guarantees, not by {policy.shaper}.",
                "Write shaper: htb, or use podlane tc.",
            )
        )
    if policy.ingress is not None:
        problems.append(
            Problem("ingress", "The sidecar does not limit what arrives yet.", "Remove it, or use podlane tc.")
        )
    problems += (
        Problem(
            f"{path}.mark",
            "The sidecar writes the mark itself, so it cannot tell traffic apart by it.",
            "Match by port, cidr, source, application or name, or use podlane tc.",
        )
        for path, match in _matches(policy)
        if match.mark
    )
    return problems


def _matches(policy: TrafficPolicy) -> Iterator[tuple[str, Match]]:
    for i, traffic_class in enumerate(policy.classes):
        for j, match in enumerate(traffic_class.match):
            yield f"classes[{i}].match[{j}]", match


def _written(match: Match, *keys: str) -> str:
    return " and ".join(key for key in keys if getattr(match, key))
