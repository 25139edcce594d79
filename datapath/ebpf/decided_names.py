"""What the programs say of names and matches that decided: the pure part. ``programs/seen.h`` writes it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from datapath.ebpf.numbered_matches import NumberedMatch
from datapath.protocols.detect import Protocol as WireProtocol
from traffic_policy.names import normalise_host
from traffic_policy.policy import DEFAULT_CLASS, Bound, Match

HITS: Final = 512
"""Numbers that count connections by the match that decided; the last one: no match, or one behind all that have a
number of their own."""
MOST_NAMES: Final = 128
"""Names of one interface that wait to be read."""
NAME_KEY: Final = struct.Struct("=64s2sBBI")
NAME_VALUE: Final = struct.Struct("=Q")
_PROTOCOLS: Final = (WireProtocol.TLS, WireProtocol.HTTP1)
"""``WAS_*`` of ``programs/lane.bpf.c`` that have names."""


class NameSeen(NamedTuple):
    """A name in comparable form, the protocol whose beginning had it, and the server's port of the connection."""

    name: str
    protocol: WireProtocol
    port: int
    bound: Bound


class NameObserver(Protocol):
    """Receives what the programs have counted. ``match`` None: no match decided."""

    def hit_in_kernel(self, class_name: str, match: Match | None, count: int) -> None:
        """So many connections more were given their class by a match."""

    def seen_in_kernel(self, seen: NameSeen, class_name: str, match: Match | None, count: int) -> None:
        """So many connections more had a name."""


def judged(matches: Sequence[NumberedMatch], number: int) -> tuple[str, Match | None]:
    """The class and the match of a match's number, as the programs count it."""
    if number < len(matches):
        return matches[number].class_name, matches[number].matcher.match
    return DEFAULT_CLASS, None


def hits_between(
    matches: Sequence[NumberedMatch], before: Sequence[int], after: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Numbers of matches, and how many connections they have taken meanwhile."""
    last = HITS - 1
    for number, (earlier, later) in enumerate(zip(before, after, strict=True)):
        if later > earlier and (number < last or len(matches) <= last):
            yield number, later - earlier


def read_name(key: bytes, value: bytes) -> tuple[NameSeen, int, int] | None:
    """A name, the number of the match that decided, and of how many connections; None: it is no usable name."""
    text, port, was, inbound, number = NAME_KEY.unpack(key)
    (count,) = NAME_VALUE.unpack(value)
    name = normalise_host(text.rstrip(b"\0").decode("ascii", "replace"))
    if name is None or was >= len(_PROTOCOLS) or not count:
        return None
    bound = Bound.INBOUND if inbound else Bound.OUTBOUND
    return NameSeen(name, _PROTOCOLS[was], int.from_bytes(port, "big"), bound), number, count
