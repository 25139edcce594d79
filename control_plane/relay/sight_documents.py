"""What a process wants to know of others' agents, and what it tells of its own: JSON. Pure.

They may be of another version: what is not known is left out.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from control_plane.fleet.agent_status import AgentTraffic, WatchedLane, WatchedWorkload

AgentKey = tuple[str, str]
"""Cluster and node."""


@dataclass(frozen=True, slots=True)
class SightWish:
    """Of a tenant: the traffic of all ``agents``, workloads of those that are ``watched``, and ``questions`` (in the
    protocol's bytes) to some, by ids that are not used again."""

    agents: bool = False
    watched: tuple[AgentKey, ...] = ()
    questions: Mapping[str, tuple[AgentKey, bytes]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Empty: it wants nothing."""
        if not (self.agents or self.watched or self.questions):
            return ""
        questions = {id: (*key, b64encode(question).decode()) for id, (key, question) in self.questions.items()}
        return json.dumps({"agents": self.agents, "watched": self.watched, "questions": questions})

    @classmethod
    def from_json(cls, text: str) -> SightWish:
        """As :meth:`to_json` has written it."""
        found: dict[str, Any] = json.loads(text) if text else {}
        return cls(
            bool(found.get("agents")),
            tuple((cluster, node) for cluster, node in found.get("watched", ())),
            {id: ((each[0], each[1]), b64decode(each[2])) for id, each in found.get("questions", {}).items()},
        )


@dataclass(frozen=True, slots=True)
class AgentSights:
    """``answers`` are in the protocol's bytes; empty: the agent is not here, or has gone away."""

    traffic: Mapping[AgentKey, AgentTraffic] = field(default_factory=dict)
    workloads: Mapping[AgentKey, tuple[WatchedWorkload, ...]] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)

    def to_json(self) -> str:
        """Empty: nothing is said."""
        if not (self.traffic or self.workloads or self.answers):
            return ""
        return json.dumps(
            {
                "traffic": [(*key, *traffic) for key, traffic in self.traffic.items()],
                "workloads": [(*key, workloads) for key, workloads in self.workloads.items()],
                "answers": {id: b64encode(answer).decode() for id, answer in self.answers.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> AgentSights:
        """As :meth:`to_json` has written it."""
        found: dict[str, Any] = json.loads(text) if text else {}
        lanes, fields = len(WatchedLane._fields), len(AgentTraffic._fields)
        return cls(
            {(each[0], each[1]): AgentTraffic(*each[2 : 2 + fields]) for each in found.get("traffic", ())},
            {
                (cluster, node): tuple(
                    WatchedWorkload(name, policy, tuple(WatchedLane(*lane[:lanes]) for lane in many))
                    for name, policy, many, *_ in workloads
                )
                for cluster, node, workloads, *_ in found.get("workloads", ())
            },
            {id: b64decode(answer) for id, answer in found.get("answers", {}).items()},
        )
