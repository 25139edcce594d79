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
    ("not_ip", "packet", "of other protocols than IP (ARP ...) {are} left out."),
)  # fmt: skip
"""The counters, and the remark for each."""
_PROTOCOLS: Final = {
    1: "ICMP", 2: "IGMP", 4: "IPv4 in IP", 41: "IPv6 in IP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 89: "OSPF",
    103: "PIM", 112: "VRRP", 132: "SCTP",
}  # fmt: skip
"""Names of protocol numbers (IANA)."""
_TUNNELS: Final = frozenset({4, 41, 47, 50})


def notes(name: str, damage: str | None, seen: CaptureSummary) -> Iterator[str]:
    """One sentence for each irregularity; none for a complete capture of TCP and UDP."""
    if damage is not None:
        yield f"{name}: {damage}. What comes before that is classified."
    if not seen.packets:
        yield f"{name} has no packets."
    for link_type, frames in sorted(seen.unknown_links.items()):
        yield (
            f"{count(frames, 'packet')} of link type {link_type} cannot be read and {_are(frames)} left out. "
            "Capture on another interface, or convert them."
        )
    for field, noun, text in _SENTENCES:
        if number := getattr(seen, field):
            yield f"{count(number, noun)} {text.format(are=_are(number))}"
    if total := seen.other.total():
        named = ", ".join(f"{_protocol(each)} {number:,}" for each, number in sorted(seen.other.items()))
        tunnels = " What tunnels carry is not classified." if _TUNNELS & seen.other.keys() else ""
        yield f"{count(total, 'packet')} of IP without ports {_are(total)} left out: {named}.{tunnels}"


def _protocol(number: int) -> str:
    return _PROTOCOLS.get(number, f"protocol {number}")


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural if need be."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
