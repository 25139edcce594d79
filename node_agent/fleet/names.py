"""What is told to a control plane of names that connections had, and of the matches that took them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from datapath.ebpf.decided_names import NameSeen
from fleet_api.agent_pb2 import MatchHits, NamesSeen, SeenName
from fleet_api.limits import MAX_MATCHES, MAX_NAMES
from node_agent.lanes import WorkloadLanes
from node_agent.names_seen import Judgement
from traffic_policy.match_key import match_key
from traffic_policy.policy import Match, TrafficPolicy

_MOST_POLICIES: Final = 64
"""Whose matches' keys are remembered."""

_Place = tuple[str, str, NameSeen, str, str]
"""Namespace, policy, what was seen, the lane, and what decided."""


class NamesReport:
    """Takes what workloads have gathered. Not thread-safe."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[TrafficPolicy, dict[Match, bytes]]] = {}

    def take(self, running: Mapping[str, WorkloadLanes]) -> NamesSeen:
        """What there is, as far as one message has room: of each workload as much, so that none can take the place of
        others. Names that are left come the next time."""
        return NamesSeen(names=_names(running.values()), matches=self._hits(running.values()))

    def _hits(self, running: Iterable[WorkloadLanes]) -> list[MatchHits]:
        found: dict[tuple[str, str, bytes], int] = {}
        for lanes in running:
            hits = lanes.counters.names.take_hits()
            policy = lanes.workload.fleet_policy
            if not policy or not hits or lanes.plane is None:
                continue
            keys = self._keys_of(lanes.plane.policy)
            for judged, count in hits:
                key = b"" if judged.match is None else keys.get(judged.match)
                if key is not None:  # of an earlier policy
                    place = (policy, judged.class_name, key)
                    found[place] = found.get(place, 0) + count
        most = sorted(found.items(), key=lambda each: -each[1])[:MAX_MATCHES]
        return [MatchHits(policy=p, lane=lane, match=key, connections=n) for (p, lane, key), n in most]

    def _keys_of(self, policy: TrafficPolicy) -> dict[Match, bytes]:
        """The key of each match as it is written, by what it is in the routing table."""
        known = self._keys.get(id(policy))
        if known is None:
            if len(self._keys) >= _MOST_POLICIES:
                self._keys.clear()
            keys: dict[Match, bytes] = {}
            for each in policy.classes:
                for match in each.match:
                    for expanded in match.expanded():
                        keys.setdefault(expanded, match_key(match))
            known = self._keys[id(policy)] = (policy, keys)
        return known[1]


def _names(running: Iterable[WorkloadLanes]) -> list[SeenName]:
    merged: dict[_Place, tuple[int, str]] = {}
    left = MAX_NAMES
    waiting = sorted((each for each in running if len(each.counters.names)), key=lambda each: len(each.counters.names))
    for number, lanes in enumerate(waiting):
        workload = lanes.workload
        taken = lanes.counters.names.take_names(left // (len(waiting) - number))
        left -= len(taken)
        for seen, judged, count in taken:
            namespace = workload.labels.get("namespace", "")
            place = (namespace, workload.fleet_policy, seen, judged.class_name, _decided(judged))
            merged[place] = (merged.get(place, (0, ""))[0] + count, workload.name)
    return [
        SeenName(
            namespace=namespace,
            policy=policy,
            name=seen.name,
            protocol=seen.protocol.value,
            port=seen.port,
            direction=seen.bound.value,
            lane=lane,
            decided=decided,
            connections=count,
            workload=workload,
        )
        for (namespace, policy, seen, lane, decided), (count, workload) in merged.items()
    ]


def _decided(judged: Judgement) -> str:
    if judged.match is None:
        return "default"
    return "name" if judged.by_name else "port"
