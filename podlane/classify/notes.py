"""Remarks on a capture apart from its flows: everything skipped, counted in part, or missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from podlane.classify.flow import CaptureSummary

_SENTENCES: Final = (
    ("in_the_middle", "connection",
     "began before the capture: judged by what could be seen, which may lack the names."),
    ("cut", "packet", "{are} not captured whole, so first bytes may be missing. Capture with tcpdump -s 0."),
    ("broken", "packet", "{are} left out: cut off before the ports, or not valid."),
    ("fragments_given_up", "fragmented packet", "{are} left out: parts are missing."),
    ("evicted", "flow",
     "had to be judged before the end, there were too many at once. What came of them later counts as further flows."),
    ("other", "packet", "of IP without ports (ICMP ...) {are} left out."),
    ("not_ip", "packet", "of other protocols than IP (ARP ...) {are} left out."),
)  # fmt: skip
"""The counters, and the remark for each."""


def notes(name: str, damage: str | None, seen: CaptureSummary) -> Iterator[str]:
    """One sentence for each irregularity; none for a complete capture of TCP and UDP."""
    if damage is not None:
        yield f"{name}: {damage}. What comes before that is classified."
    if not seen.packets:
        yield f"{name} has no packets."
    for link_type, frames in sorted(seen.unknown_links.items()):
        yield (
            f"{_count(frames, 'packet')} of link type {link_type} cannot be read and {_are(frames)} left out. "
            "Capture on another interface, or convert them."
        )
    for field, noun, text in _SENTENCES:
        if number := getattr(seen, field):
            yield f"{_count(number, noun)} {text.format(are=_are(number))}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
