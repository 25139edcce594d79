"""One stream with the control plane: the agent says what it has, is told what to have, and tells what became of it."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn, Protocol

import trio
from google.protobuf.message import DecodeError

from daemon.errors import single
from daemon.log import Logger
from fleet_api.agent_pb2 import (
    Answer,
    Applied,
    Credentials,
    Desired,
    FromAgent,
    Health,
    Hello,
    NamesSeen,
    Question,
    Renew,
    ToAgent,
)
from fleet_api.desired import DesiredState, OtherBaseError, applied
from fleet_api.limits import MAX_FROM_AGENT, REPORT_INTERVAL
from node_agent.broadcast import Broadcast
from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.errors import CallEndedError, EnrolmentError
from node_agent.fleet.figures import MOST_WATCHED, FleetFigures
from node_agent.fleet.identity import new_key, request_for
from node_agent.fleet.node_labels import NodeLabels
from node_agent.fleet.outcome import Running, outcome, settled
from node_agent.fleet.policies import FleetPolicies
from node_agent.fleet.saved_state import SavedState
from node_agent.fleet.transport import LiveCall

HEALTH_INTERVAL: Final = 10.0
"""Seconds between two messages of Health."""
_ACCEPTANCE: Final = 1.0
_APPLIED_SPACING: Final = 0.25
"""Seconds between two of Applied: hundreds of workloads change one after another."""
_APPLIED_AGAIN: Final = 60.0
"""Seconds after which Applied is repeated: it may have been said before the control plane knew the agent."""
_LABELS_SPACING: Final = 10.0
"""Seconds before other labels of the node are told: the control plane may send everything."""
_FIRST_NAMES: Final = 2.0
"""Seconds, at most, after which names are told first when they are asked for."""
_LOOK: Final = 0.02
"""Seconds between two looks whether all workloads have settled."""
_LINGER: Final = 1.0
"""Seconds before a connection is closed on which something has just been refused."""
_RENEW_AGAIN: Final = 300.0
"""Seconds after which a renewal without an answer is asked for again."""

log = Logger()


class NodeFacts(Protocol):
    """What a conversation asks of the node."""

    @property
    def moved(self) -> Broadcast:
        """Is told when lanes have another state."""

    @property
    def running(self) -> Running:
        """Lanes by workload."""

    @property
    def labels(self) -> NodeLabels:
        """The node's."""

    @property
    def synced(self) -> bool:
        """Whether the workloads are known."""

    def hello(self) -> Hello:
        """Without revision and hash."""

    def health(self) -> Health: ...

    def names(self) -> NamesSeen:
        """Names that connections have had since the last time."""

    async def answer(self, question: Question) -> Mapping[str, object]:
        """Raises LookupError with why there is none."""


class ControlPlaneTalk:
    """With one control plane, until the call ends."""

    def __init__(
        self,
        call: LiveCall,
        node: NodeFacts,
        policies: FleetPolicies,
        saved: SavedState,
        enrolment: Enrolment,
        on_accepted: Callable[[], None],
        on_move: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_accepted`` is called once the control plane has said something, or has not refused for a second: it has
        nothing to say to an agent that has all. ``on_move``: it asks for another connection, while this one goes on."""
        self._heard = trio.Event()
        self._on_accepted = on_accepted
        self._on_move = on_move
        self._call = call
        self._node = node
        self._policies = policies
        self._saved = saved
        self._enrolment = enrolment
        self._resyncing = False
        self._said: Mapping[str, str] = {}
        """Labels of the node."""
        self._watched: frozenset[str] = frozenset()
        self._watches_others = False
        self._names_every = 0
        """Seconds between two messages with names; 0: nobody wants any."""
        self._names_asked = trio.Event()
        """Is set when that changes."""
        self._renewing: list[str] = []
        """Keys for which certificates were asked for."""

    async def run(self) -> NoReturn:
        """Raises :class:`CallEndedError` at its end."""
        try:
            async with trio.open_nursery() as nursery:
                await self._greet(self._policies.state)
                nursery.start_soon(self._wait_for_acceptance)
                nursery.start_soon(self._call.keep_alive)
                nursery.start_soon(self._tell_labels)
                nursery.start_soon(self._tell_applied)
                nursery.start_soon(self._report)
                nursery.start_soon(self._tell_health)
                nursery.start_soon(self._tell_names)
                nursery.start_soon(self._renew)
                while True:
                    await self._take(await self._call.receive())
        except ExceptionGroup as group:
            raise single(group, CallEndedError) or group from None

    async def _wait_for_acceptance(self) -> None:
        with trio.move_on_after(_ACCEPTANCE):
            await self._heard.wait()
        self._on_accepted()

    async def _say(self, message: FromAgent) -> None:
        await self._call.send(message.SerializeToString())

    async def _greet(self, state: DesiredState | None) -> None:
        self._said = self._node.labels.said
        hello = self._node.hello()
        if state is not None and state.revision:
            hello.revision, hello.hash = state.revision, state.hash
        await self._say(FromAgent(hello=hello))

    async def _tell_labels(self) -> None:
        """Say Hello again when the node has others: other policies may be for it."""
        while True:
            changed = self._node.labels.changed.next()
            if self._said != self._node.labels.said:
                await self._greet(self._policies.state)
            await changed.wait()
            await trio.sleep(_LABELS_SPACING)

    async def _take(self, data: bytes) -> None:
        try:
            message = ToAgent.FromString(data)
        except DecodeError:
            raise CallEndedError(13, "It sends what is no message for an agent. Update the agent.") from None
        self._heard.set()
        kind = message.WhichOneof("message")
        if kind == "desired":
            await self._desire(message.desired)
        elif kind == "watch":
            self._watched = frozenset(list(message.watch.workloads)[:MOST_WATCHED])
            self._watches_others = message.watch.others
            if message.watch.names_every != self._names_every:
                self._names_every = message.watch.names_every
                self._names_asked.set()
        elif kind == "credentials":
            await self._take_credentials(message.credentials)
        elif kind == "move":
            self._on_move()
        elif kind == "question":
            await self._say(FromAgent(answer=await self._answer(message.question)))
        else:
            log.debug("the control plane says what this agent does not know")

    async def _desire(self, change: Desired) -> None:
        there = self._policies.state or DesiredState()
        try:
            state = await trio.to_thread.run_sync(applied, there, change)
        except OtherBaseError as error:
            if self._resyncing and not change.base:
                refusal = Applied(revision=change.revision, refusal=f"{error} The agent keeps what it has.")
                await self._say(FromAgent(applied=refusal))
                await self._linger()
                raise CallEndedError(13, f"All that it has sent differs from what it says: {error}") from None
            log.warning("what the control plane sent does not fit; it is asked for all of it", reason=str(error))
            self._resyncing = True
            await self._greet(None)
            return
        self._resyncing = False
        await trio.to_thread.run_sync(self._saved.write, state)
        await self._policies.desire(state)
        log.info("the control plane desires", revision=state.revision, policies=len(state.policies))
        self._node.moved.tell()

    async def _linger(self) -> None:
        """Give the control plane time to read what was said last: a connection that is closed with something unread is
        reset, and that may be lost."""
        with trio.move_on_after(_LINGER), suppress(CallEndedError):
            while True:
                await self._call.receive()

    async def _tell_applied(self) -> None:
        """Once all has settled, and again when it changes."""
        last, again = None, 0.0
        while True:
            moved = self._node.moved.next()
            state, placed = self._policies.state, self._policies.workloads
            known = state is not None and state.revision > 0 and self._node.synced
            if known and settled(placed, self._node.running):
                assert state is not None
                told = outcome(state, state.hash, placed, self._node.running)
                if told != last or trio.current_time() >= again:
                    await self._say(FromAgent(applied=told))
                    last, again = told, trio.current_time() + _APPLIED_AGAIN
                    await trio.sleep(_APPLIED_SPACING)
            with trio.move_on_after(_APPLIED_AGAIN):
                await moved.wait()
            await trio.sleep(_LOOK)

    @property
    def _wanted(self) -> frozenset[str]:
        """Workloads whose figures somebody looks at."""
        if not self._watches_others:
            return self._watched
        others = sorted(self._node.running.keys() - self._watched)
        return self._watched.union(others[: MOST_WATCHED - len(self._watched)])

    async def _report(self) -> None:
        figures = FleetFigures()
        await trio.sleep(random.random() * REPORT_INTERVAL)
        before = trio.current_time()
        figures.report(self._node.running, self._wanted, 0, 0)  # counters count from here
        while True:
            await trio.sleep(REPORT_INTERVAL - (trio.current_time() - before) % REPORT_INTERVAL)
            if self._call.crowded:
                continue  # the next one has what this would have had
            now = trio.current_time()
            interval = round((now - before) * 1000)
            report = figures.report(self._node.running, self._wanted, round(time.time() * 1000), interval)
            before = now
            if report.ByteSize() >= MAX_FROM_AGENT:
                del report.workloads[:]
            await self._say(FromAgent(report=report))

    async def _tell_health(self) -> None:
        while True:
            if not self._call.crowded:
                await self._say(FromAgent(health=self._node.health()))
            await trio.sleep(HEALTH_INTERVAL * random.uniform(0.9, 1.1))

    async def _tell_names(self) -> None:
        pause = math.inf
        while True:
            with trio.move_on_after(pause):
                await self._names_asked.wait()
            every = self._names_every
            if self._names_asked.is_set():
                self._names_asked = trio.Event()
                pause = min(every, _FIRST_NAMES) * random.random()
            else:
                if not self._call.crowded:
                    await self._say_names()
                pause = every * random.uniform(0.9, 1.1)
            if not every:
                pause = math.inf

    async def _say_names(self) -> None:
        names = self._node.names()
        if not names.ByteSize():
            return
        message = FromAgent(names=names)
        while message.ByteSize() >= MAX_FROM_AGENT:  # names and policies may be long
            del names.names[len(names.names) // 2 :], names.matches[len(names.matches) // 2 :]
            message = FromAgent(names=names)
        await self._say(message)

    async def _renew(self) -> None:
        while (credentials := self._enrolment.credentials) is not None:
            left = credentials.renew_at - time.time()
            if left > 0:
                await trio.sleep(min(left * random.uniform(1.0, 1.05), 3600.0))
                continue
            key = await trio.to_thread.run_sync(new_key)
            self._renewing = [*self._renewing[-1:], key]
            log.info("the agent asks for its next certificate")
            await self._say(FromAgent(renew=Renew(csr=request_for(key))))
            await trio.sleep(_RENEW_AGAIN)

    async def _take_credentials(self, sent: Credentials) -> None:
        before = self._enrolment.credentials
        assert before is not None
        try:
            after = before.renewed(sent, [*self._renewing, before.key])
        except EnrolmentError as error:
            log.error("credentials cannot be used", error=str(error))
            return
        self._renewing = []
        await self._enrolment.keep(after)

    async def _answer(self, question: Question) -> Answer:
        try:
            document = json.dumps(await self._node.answer(question))
        except LookupError as error:
            return Answer(id=question.id, refusal=str(error.args[0]))
        answer = Answer(id=question.id, document=document)
        if answer.ByteSize() >= MAX_FROM_AGENT:
            return Answer(id=question.id, refusal="The answer is too long. Ask the agent's admin port on the node.")
        return answer
