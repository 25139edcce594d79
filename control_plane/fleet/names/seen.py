"""Names that the connections of a tenant's workloads had in the last hour, and how many each match has taken.

In memory, as the agents of this process have said it. Bounded, whatever they say: who has most makes room for others,
so that neither a workload that invents names nor an agent that does so can push out those of others.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple

MINUTES: Final = 60
MOST_NAMES: Final = 4096
"""Of a tenant: about one KiB each."""
MOST_OF_AGENT: Final = 512
MOST_OF_WORKLOAD: Final = 64
"""Names that nobody else has said before."""
_ASKED: Final = 8
"""Agents of which the one with most names loses one, when there is no room."""
_WATCHED: Final = 60.0
"""Seconds for which somebody is taken to look, after each question."""
_STEPS: Final = (5, 15, 60, 300, 900)
"""Seconds between two messages of an agent."""
_USUAL: Final = 60
_MESSAGES: Final = 50
"""Of all agents of a tenant together, a second."""

AgentPlace = tuple[str, str]
"""Cluster and node."""
MatchPlace = tuple[str, bytes]
"""A lane, and the key of one of its matches; of the default lane: an empty one."""


class NamePlace(NamedTuple):
    """Where a name was seen. ``direction``: of the connection; ``port``: the server's."""

    cluster: str
    namespace: str
    policy: str
    name: str
    protocol: str
    port: int
    direction: str


class HeardName(NamedTuple):
    """What an agent says of a name."""

    place: NamePlace
    lane: str
    decided: str
    connections: int
    workload: str


@dataclass(frozen=True, slots=True)
class SeenName:
    """A name, in the lane in which its connections were last; ``connections`` of the last hour, ``last`` in Unix
    seconds, ``workload`` one of those that had them."""

    place: NamePlace
    lane: str
    decided: str
    connections: int
    last: int
    workload: str


class HourCount:
    """A count of the last hour, by minutes."""

    __slots__ = ("_minute", "_ring", "total")

    def __init__(self) -> None:
        self._ring = array("Q", bytes(8 * MINUTES))
        self._minute = 0
        self.total = 0

    def add(self, minute: int, count: int) -> None:
        """``minute``: of Unix time."""
        self.turn(minute)
        self._ring[self._minute % MINUTES] += count
        self.total += count

    def turn(self, minute: int) -> None:
        """It is this minute now."""
        for each in range(max(self._minute, minute - MINUTES) + 1, minute + 1):
            self.total -= self._ring[each % MINUTES]
            self._ring[each % MINUTES] = 0
        self._minute = max(self._minute, minute)

    def at(self, minute: int) -> int:
        """The total in a minute that is not before the last one. Changes nothing, so that any thread may ask."""
        gone = range(self._minute + 1, min(minute, self._minute + MINUTES) + 1)
        return self.total - sum(self._ring[each % MINUTES] for each in gone)


class _Known:
    __slots__ = ("agent", "count", "decided", "lane", "last", "owner", "workload")

    def __init__(self, agent: AgentPlace, owner: str) -> None:
        self.agent, self.owner = agent, owner
        self.count = HourCount()
        self.lane = self.decided = self.workload = ""
        self.last = 0


class _Agent:
    """The names that one agent was the first to say, by workload."""

    __slots__ = ("number", "workloads")

    def __init__(self) -> None:
        self.number = 0
        self.workloads: dict[str, dict[NamePlace, _Known]] = {}


class TenantNames:
    """Of one tenant. One thread adds, others read."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._names: dict[NamePlace, _Known] = {}
        self._agents: dict[AgentPlace, _Agent] = {}
        self._policies: Mapping[str, frozenset[MatchPlace]] = {}
        self._hits: dict[tuple[str, MatchPlace], HourCount] = {}
        self._swept = 0
        self._looked = 0.0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._names)

    def know(self, matches: Mapping[str, frozenset[MatchPlace]]) -> None:
        """The matches of each policy in force, from now on. Others do not count."""
        with self._lock:
            self._policies = matches
            self._hits = {key: count for key, count in self._hits.items() if key[1] in matches.get(key[0], ())}

    def look(self, now: float) -> None:
        """Somebody looks (Unix seconds): agents are to say more often what they see."""
        self._looked = now

    def every(self, now: float, agents: int) -> int:
        """Seconds between two messages of each of so many agents."""
        wanted = max(_STEPS[0] if now - self._looked < _WATCHED else _USUAL, agents / _MESSAGES)
        return next((step for step in _STEPS if step >= wanted), _STEPS[-1])

    def add(self, now: float, agent: AgentPlace, names: Iterable[HeardName]) -> None:
        """What an agent says, at ``now`` (Unix seconds). Names of policies that there are not do not count."""
        minute = int(now) // 60
        with self._lock:
            if minute != self._swept:
                self._sweep(minute)
            for each in names:
                if each.place.policy and each.place.policy not in self._policies:
                    continue
                known = self._names.get(each.place)
                if known is None:
                    known = self._begin(agent, each)
                known.count.add(minute, each.connections)
                known.lane, known.decided, known.workload, known.last = each.lane, each.decided, each.workload, int(now)

    def hit(self, now: float, hits: Iterable[tuple[str, MatchPlace, int]]) -> None:
        """How many connections matches of policies have taken."""
        minute = int(now) // 60
        with self._lock:
            for policy, match, count in hits:
                if match in self._policies.get(policy, ()):
                    self._hits.setdefault((policy, match), HourCount()).add(minute, count)

    def seen(self, now: float) -> list[SeenName]:
        """All names of the last hour."""
        minute = int(now) // 60
        with self._lock:  # only for as long as it must be: agents are heard meanwhile
            names = list(self._names.items())
        return [
            SeenName(place, known.lane, known.decided, count, known.last, known.workload)
            for place, known in names
            if (count := known.count.at(minute))
        ]

    def hits(self, now: float, policy: str) -> dict[MatchPlace, int]:
        """How many connections each match of a policy has taken in the last hour."""
        minute = int(now) // 60
        with self._lock:
            hits = list(self._hits.items())
        return {match: count.at(minute) for (name, match), count in hits if name == policy}

    # Room

    def _begin(self, place: AgentPlace, heard: HeardName) -> _Known:
        agent = self._agents.get(place)
        mine = agent.workloads.get(heard.workload, {}) if agent is not None else {}
        if len(mine) >= MOST_OF_WORKLOAD:
            self._drop_rarest(mine)
        elif agent is not None and agent.number >= MOST_OF_AGENT:
            self._drop_of(agent)
        elif len(self._names) >= self._most:
            self._drop_of(max(self._some(place), key=lambda each: each.number))
        known = self._names[heard.place] = _Known(place, heard.workload)
        agent = self._agents.setdefault(place, _Agent())
        agent.workloads.setdefault(heard.workload, {})[heard.place] = known
        agent.number += 1
        return known

    def _some(self, place: AgentPlace) -> Iterator[_Agent]:
        """The one that says it, and some others, which come again when all have had their turn."""
        if (own := self._agents.get(place)) is not None:
            yield own
        for _ in range(min(_ASKED, len(self._agents))):
            first = next(iter(self._agents))
            agent = self._agents[first] = self._agents.pop(first)
            yield agent

    def _drop_of(self, agent: _Agent) -> None:
        self._drop_rarest(max(agent.workloads.values(), key=len))

    def _drop_rarest(self, names: Mapping[NamePlace, _Known]) -> None:
        self._drop(min(names, key=lambda place: names[place].count.total))

    def _drop(self, place: NamePlace) -> None:
        known = self._names.pop(place)
        agent = self._agents[known.agent]
        del agent.workloads[known.owner][place]
        agent.number -= 1
        if not agent.workloads[known.owner]:
            del agent.workloads[known.owner]
        if not agent.number:
            del self._agents[known.agent]

    def _sweep(self, minute: int) -> None:
        """Forget what has not been seen for an hour."""
        self._swept = minute
        for place in [place for place, known in self._names.items() if known.last // 60 <= minute - MINUTES]:
            self._drop(place)
