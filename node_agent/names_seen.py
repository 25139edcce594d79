"""Which names the connections of one workload had, how often, and which match decided: in bounded memory, since any
program can invent names without end."""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple

from datapath.ebpf.decided_names import NameSeen
from traffic_policy.policy import Match

MOST_SORTED: Final = 24
"""Names of a workload that are kept, of those that a match by name has put into their class."""
MOST_UNSORTED: Final = 32
"""And of all others. They do not take each other's place."""
_MOST_MATCHES: Final = 1100
"""Matches whose connections are counted: a policy has 1,024 at most where programs decide."""


class Judgement(NamedTuple):
    """The class of a connection, and the match that decided; None: no match did."""

    class_name: str
    match: Match | None

    @property
    def by_name(self) -> bool:
        """Whether it was decided by what the connection's first bytes had."""
        return self.match is not None and self.match.needs_content


class SeenCount(NamedTuple):
    """At least so many ``connections`` had it."""

    seen: NameSeen
    judged: Judgement
    connections: int


class _Place:
    """``count`` is never too small, and too large by ``error`` at most."""

    __slots__ = ("count", "error", "judged")

    def __init__(self, judged: Judgement, count: int, error: int) -> None:
        self.judged, self.count, self.error = judged, count, error


class NameSketch:
    """The most frequent names, by Space-Saving (Metwally et al., 2005): a new one takes the place of the rarest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[NameSeen, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, seen: NameSeen, judged: Judgement, count: int) -> None:
        """So many connections more had a name. The last judgement of a name is kept."""
        place = self._places.get(seen)
        if place is not None:
            place.count += count
            place.judged = judged
            return
        error = 0
        if len(self._places) >= self._most:
            rarest = min(self._places, key=lambda each: self._places[each].count)
            error = self._places.pop(rarest).count
        self._places[seen] = _Place(judged, error + count, error)

    def pop(self, seen: NameSeen) -> int:
        """Forget a name; at least so many connections had it."""
        place = self._places.pop(seen, None)
        return 0 if place is None else place.count - place.error

    def take(self, most: int) -> list[SeenCount]:
        """Those that were seen most, which are forgotten here."""
        found = [SeenCount(seen, each.judged, each.count - each.error) for seen, each in self._places.items()]
        found.sort(key=lambda each: -each.connections)
        for each in found[:most]:
            del self._places[each.seen]
        return found[:most]


class WorkloadNames:
    """Of one workload. Any thread may call."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sorted = NameSketch(MOST_SORTED)
        self._unsorted = NameSketch(MOST_UNSORTED)
        self._hits: dict[tuple[str, int], tuple[Judgement, int]] = {}

    def __len__(self) -> int:
        return len(self._sorted) + len(self._unsorted)

    def see(self, seen: NameSeen, judged: Judgement, count: int = 1) -> None:
        """So many connections had this name, and were judged so."""
        with self._lock:
            mine, other = self._sorted, self._unsorted
            if not judged.by_name:
                mine, other = other, mine
            mine.add(seen, judged, count + other.pop(seen))  # by another policy it was judged otherwise

    def hit(self, judged: Judgement, count: int = 1) -> None:
        """So many connections were judged so, with or without a name."""
        # By identity: to hash a match takes longer than all the rest. It is kept, so that no other one has its id.
        place = (judged.class_name, id(judged.match))
        with self._lock:
            before = self._hits.get(place)
            if before is not None:
                self._hits[place] = (before[0], before[1] + count)
            elif len(self._hits) < _MOST_MATCHES:
                self._hits[place] = (judged, count)

    def take_names(self, most: int) -> list[SeenCount]:
        """Those that were seen most, which are forgotten here: first those that no match by name has taken."""
        with self._lock:
            found = self._unsorted.take(most)
            return found + self._sorted.take(most - len(found))

    def take_hits(self) -> list[tuple[Judgement, int]]:
        """How many connections were judged how since the last time."""
        with self._lock:
            hits, self._hits = self._hits, {}
        return list(hits.values())
