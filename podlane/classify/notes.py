"""What to say of a capture besides its flows: everything that was passed over, counted in part, or missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from podlane.classify.flow import Seen


def notes(name: str, damage: str | None, seen: Seen) -> Iterator[str]:
    """One sentence for each thing to know; none for a whole capture of TCP and UDP."""
    if damage is not None:
        yield f"{name}: {damage}. What comes before that is classified."
    if not seen.packets:
        yield f"{name} has no packets."
    for link_type, frames in sorted(seen.unknown_links.items()):
        yield (
            f"{_count(frames, 'packet')} of link type {link_type} cannot be read and {_are(frames)} left out. "
            "Capture on another interface, or convert them."
        )
    if seen.in_the_middle:
        yield (
            f"{_count(seen.in_the_middle, 'connection')} began before the capture: "
            "judged by what could be seen, which may lack the names."
        )
    if seen.cut:
        yield (
            f"{_count(seen.cut, 'packet')} {_are(seen.cut)} not captured whole, so first bytes may be missing. "
            "Capture with tcpdump -s 0."
        )
    if seen.broken:
        yield f"{_count(seen.broken, 'packet')} {_are(seen.broken)} left out: cut off before the ports, or not valid."
    if seen.fragments_given_up:
        lost = seen.fragments_given_up
        yield f"{_count(lost, 'fragmented packet')} {_are(lost)} left out: parts are missing."
    if seen.evicted:
        yield (
            f"{_count(seen.evicted, 'flow')} had to be judged before the end, there were too many at once. "
            "What came of them later counts as further flows."
        )
    if seen.other:
        yield f"{_count(seen.other, 'packet')} of IP without ports (ICMP ...) {_are(seen.other)} left out."
    if seen.not_ip:
        yield f"{_count(seen.not_ip, 'packet')} of other protocols than IP (ARP ...) {_are(seen.not_ip)} left out."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
