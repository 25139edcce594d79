"""Looks at, and asks, agents that are connected to other processes; and lets these do the same with ours.

What is wanted and what is said is a row of each process and tenant, which others read with its batches; so nobody looks
for anything while nobody wants anything. It takes some tenths of a second each way.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final

from google.protobuf.message import DecodeError

from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.questions import AsksAgents
from control_plane.relay.sight_documents import AgentKey, AgentSights, SightWish
from control_plane.store.agent_states import SightRow
from fleet_api.agent_pb2 import Answer, Question

_WANTED: Final = 5.0
"""Seconds for which a wish counts that is not repeated."""
_PATIENCE: Final = 15.0
"""Seconds for which questions and answers are kept."""

Post = Callable[[Callable[[], None]], None]


@dataclass(slots=True)
class _Asked:
    """A question of ours."""

    key: AgentKey
    question: bytes
    at: float
    told: Future[Answer | None] = field(default_factory=Future)


@dataclass(slots=True)
class _Answered:
    """A question of another process, which may have no ``answer`` yet."""

    at: float
    answer: bytes | None = None


@dataclass(slots=True)
class _Neighbour:
    """Another process: its last wish, and when it was heard."""

    wish: SightWish
    at: float


class AgentRelay:
    """:meth:`ask` is for any thread, the others are for the thread that shares agents. ``post`` has something done in
    the gateway's thread."""

    def __init__(
        self,
        fleet: FleetStatus,
        agents: AsksAgents,
        post: Post,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        """``now``: Unix seconds, as those who look at agents have them. ``clock`` only goes forward, in seconds."""
        self._now = now
        self._fleet = fleet
        self._agents = agents
        self._post = post
        self._clock = clock
        self._lock = Lock()
        self._asked: dict[str, dict[str, _Asked]] = {}
        """Questions of ours, by tenant and id."""
        self._neighbours: dict[str, dict[str, _Neighbour]] = {}
        """By tenant and process."""
        self._answers: dict[str, dict[str, _Answered]] = {}
        """To others' questions, by tenant and id."""
        self._written: dict[str, SightRow] = {}
        self._urgent = False

    def ask(self, tenant: str, cluster: str, node: str, question: Question) -> Future[Answer | None] | None:
        """None: the agent is not connected to another process. The answer is None when it has gone away."""
        status = self._fleet.agents(tenant).agents.get((cluster, node))
        if status is None or not status.connected or not status.process:
            return None
        asked = _Asked((cluster, node), question.SerializeToString(), self._clock())
        with self._lock:
            self._asked.setdefault(tenant, {})[secrets.token_hex(8)] = asked
            self._urgent = True
        return asked.told

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for what is to be written."""
        return self._urgent

    def rows(self) -> dict[str, SightRow]:
        """What is to be written of each tenant: what is not as it was written last."""
        now = self._clock()
        with self._lock:
            self._urgent = False
            for asked in self._asked.values():
                for id in [id for id, each in asked.items() if now - each.at > _PATIENCE]:
                    del asked[id]
            for answered in self._answers.values():
                for id in [id for id, each in answered.items() if now - each.at > _PATIENCE]:
                    del answered[id]
        found = {}
        for tenant in self._fleet.names():
            row = SightRow(self._wish(tenant).to_json(), self._sights(tenant, now).to_json())
            if row != self._written.get(tenant, SightRow()) or row.wish:
                found[tenant] = row
        return found

    def wrote(self, rows: Mapping[str, SightRow]) -> None:
        """They are in the database."""
        self._written |= rows

    def hear(self, tenant: str, process: str, row: SightRow) -> None:
        """What another process has written."""
        wish, says, now = SightWish.from_json(row.wish), AgentSights.from_json(row.says), self._clock()
        self._neighbours.setdefault(tenant, {})[process] = _Neighbour(wish, now)
        agents, until = self._fleet.agents(tenant), self._now() + _WANTED
        # As if somebody here looked at those that are here.
        agents.watched.update({key: until for key in wish.watched if self._process(tenant, key) == ""})
        for id, (key, question) in wish.questions.items():
            with self._lock:
                known = self._answers.setdefault(tenant, {})
                new = id not in known
                if new:
                    known[id] = _Answered(now)
            if new:
                self._post(partial(self._pass_on, tenant, id, key, question))
        for id, answer in says.answers.items():
            with self._lock:
                asked = self._asked.get(tenant, {}).pop(id, None)
            if asked is not None:
                asked.told.set_result(_answer(answer))
        if says.traffic or says.workloads:
            self._post(partial(self._see, tenant, process, says))

    def _wish(self, tenant: str) -> SightWish:
        agents, now = self._fleet.agents(tenant), self._now()
        watched = []
        for key, until in list(agents.watched.items()):
            if self._process(tenant, key):
                if until > now:
                    watched.append(key)
                else:
                    del agents.watched[key]
                    self._post(partial(self._forget, tenant, key))
        with self._lock:
            questions = {id: (each.key, each.question) for id, each in self._asked.get(tenant, {}).items()}
        return SightWish(agents.looked_at > now, tuple(sorted(watched)), questions)

    def _process(self, tenant: str, key: AgentKey) -> str | None:
        """To which an agent is connected; empty: this one; None: it has never been anywhere."""
        status = self._fleet.agents(tenant).agents.get(key)
        return None if status is None else status.process

    def _sights(self, tenant: str, now: float) -> AgentSights:
        wishes = [each.wish for each in self._neighbours.get(tenant, {}).values() if now - each.at <= _WANTED]
        with self._lock:
            answers = {id: each.answer for id, each in self._answers.get(tenant, {}).items() if each.answer is not None}
        if not wishes:
            return AgentSights(answers=answers)
        agents = self._fleet.agents(tenant).agents
        here = {key: each for key, each in list(agents.items()) if each.connected and not each.process}
        wanted = {key for wish in wishes for key in wish.watched if key in here}
        return AgentSights(
            {key: each.traffic for key, each in here.items()} if any(wish.agents for wish in wishes) else {},
            {key: details for key in sorted(wanted) if (details := here[key].details) is not None},
            answers,
        )

    # In the gateway's thread

    def _pass_on(self, tenant: str, id: str, key: AgentKey, question: bytes) -> None:
        def reply(answer: Answer | None) -> None:
            with self._lock:
                known = self._answers.get(tenant, {}).get(id)
                if known is not None:
                    known.answer = answer.SerializeToString() if answer is not None else b""
                    self._urgent = True

        if not self._agents.ask(tenant, *key, Question.FromString(question), reply):
            reply(None)

    def _see(self, tenant: str, process: str, says: AgentSights) -> None:
        known, now = self._fleet.agents(tenant), self._now()
        agents = known.agents
        for key, traffic in says.traffic.items():
            status = agents.get(key)
            if status is not None and status.process == process:
                status.traffic, status.reported = traffic, now
        for key, workloads in says.workloads.items():
            status = agents.get(key)
            # They are told of for a while after the last look.
            if status is not None and status.process == process and known.watched.get(key, 0.0) > now:
                status.details = workloads

    def _forget(self, tenant: str, key: AgentKey) -> None:
        status = self._fleet.agents(tenant).agents.get(key)
        if status is not None and status.process:
            status.details = None


def _answer(data: bytes) -> Answer | None:
    """None: there is none."""
    try:
        return Answer.FromString(data) if data else None
    except DecodeError:
        return None
