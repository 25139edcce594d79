"""What the agent tells a control plane of its node and of itself."""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from daemon.documents.codec import to_json
from daemon.process_metrics import cpu_and_memory
from daemon.version import installed_version
from datapath.connection_list import Order
from datapath.documents.connections import connections_document
from fleet_api.agent_pb2 import ConnectionsQuestion, Health, Hello, NamesSeen, Question
from node_agent.agent import Agent
from node_agent.broadcast import Broadcast
from node_agent.fleet.minutes import MinuteHistory
from node_agent.fleet.names import NamesReport
from node_agent.fleet.node_labels import NodeLabels
from node_agent.fleet.outcome import Running, shortened_reason
from node_agent.fleet.policies import FleetPolicies
from node_agent.lanes import NodeContext, State
from node_agent.status import workload_status
from traffic_policy.errors import PodlaneError

_MOST_TROUBLES: Final = 10
_CONNECTIONS: Final = 50
_MOST_CONNECTIONS: Final = 200
"""Of one answer: some 500 bytes each, with a long name."""


class AgentFacts:
    """A :class:`~node_agent.fleet.talk.NodeFacts`."""

    def __init__(self, agent: Agent, context: NodeContext, labels: NodeLabels, policies: FleetPolicies) -> None:
        self.labels = labels
        self._policies = policies
        self._agent = agent
        self._context = context
        self.minutes = MinuteHistory()
        self._names = NamesReport()
        self._instance = secrets.token_hex(8)
        self._began = time.monotonic()

    @property
    def moved(self) -> Broadcast:
        return self._context.moved

    @property
    def running(self) -> Running:
        return self._agent.running

    @property
    def synced(self) -> bool:
        return self._agent.synced

    def hello(self) -> Hello:
        features = self._context.features
        able = [each.name for each in fields(features) if getattr(features, each.name).available]
        return Hello(
            version=installed_version() or "source", node_labels=self.labels.said, kernel=platform.release(),
            abilities=able, instance=self._instance,
        )  # fmt: skip

    def health(self) -> Health:
        seconds, memory = cpu_and_memory()
        running = self._agent.running.values()
        troubles = [f"{each.workload.name}: {each.reason}" for each in running if _is_trouble(each.state, each.reason)]
        return Health(
            cpu_ms=round(seconds * 1000),
            memory_bytes=memory,
            workloads=len(running),
            programmed=sum(each.state is State.PROGRAMMED for each in running),
            failed=sum(each.state in (State.REFUSED, State.FAILED) for each in running),
            troubles=[shortened_reason(each) for each in troubles[:_MOST_TROUBLES]],
        )

    def names(self) -> NamesSeen:
        """What has been seen since the last time."""
        return self._names.take(self.running)

    async def answer(self, question: Question) -> Mapping[str, object]:
        """The answer to a question, as JSON. Raises LookupError with why there is none."""
        kind = question.WhichOneof("question")
        if kind == "effective_policy":
            return self._effective_policy(question.effective_policy)
        if kind == "diagnosis":
            return self._diagnosis()
        if kind == "minutes":
            asked = question.minutes
            return self.minutes.document(self.running, frozenset(asked.workloads), asked.after)
        if kind == "connections":
            return await self._connections(question.connections)
        raise LookupError("This agent does not know the question. Update it.")

    def _effective_policy(self, name: str) -> Mapping[str, object]:
        lanes = self._agent.running.get(name)
        if lanes is None:
            raise LookupError(f"The agent has no workload {name[:300]}.")
        document: dict[str, object] = to_json(workload_status(lanes))
        return {**document, **self._policies.provenance(name)}

    async def _connections(self, asked: ConnectionsQuestion) -> Mapping[str, object]:
        lanes = self._agent.running.get(asked.workload)
        if lanes is None:
            raise LookupError(f"The agent has no workload {asked.workload[:300]}.")
        if lanes.plane is None:
            raise LookupError(f"The lanes of {asked.workload} are not in force ({lanes.state}). {lanes.reason}"[:500])
        order = Order.LARGEST if asked.largest else Order.NEWEST
        try:
            shown = await lanes.plane.connections(min(asked.limit or _CONNECTIONS, _MOST_CONNECTIONS), order)
        except PodlaneError as error:
            raise LookupError(str(error)[:500]) from None
        document: dict[str, object] = to_json(connections_document(shown, order))
        return document

    def _diagnosis(self) -> Mapping[str, object]:
        hello = self.hello()
        states = {state.value: 0 for state in State}
        for each in self._agent.running.values():
            states[each.state.value] += 1
        health = self.health()
        features = self._context.features
        return {
            "version": hello.version,
            "kernel": hello.kernel,
            "node_labels": dict(hello.node_labels),
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "cpu_seconds": health.cpu_ms / 1000,
            "memory_bytes": health.memory_bytes,
            "workloads": states,
            "troubles": list(health.troubles),
            "missing": {each.name: each.reason for each in features if not each.available},
        }


def _is_trouble(state: State, reason: str) -> bool:
    return bool(reason) and state is not State.WAITING
