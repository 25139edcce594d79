"""All simulated agents of a process on one epoll."""

from __future__ import annotations

import heapq
import random
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from daemon.errors import CertificateError
from fleet_api.agent_pb2 import Desired, FromAgent, LaneSum, Report, WorkloadState
from fleet_api.desired import DesiredState, OtherBaseError, applied
from fleet_api.limits import REPORT_INTERVAL
from node_agent.fleet.errors import CallEndedError
from node_agent.fleet.fleet_settings import Address
from node_agent.fleet.link import pause
from node_agent.simulated.simulated_agent import SimulatedAgent
from node_agent.simulated.tally import RevisionTally, Tally

_SHAKING: Final = 128
"""Handshakes at once: a control plane bears so many from one address, and none must run into its time-out."""
_TURN: Final = 0.02
"""Seconds between two turns of reports."""
_LANES: Final = ("web", "bulk", "default")

Tell = Callable[[str], None]


class AgentSwarm:
    """Runs until told to end."""

    def __init__(self, addresses: Sequence[Address], tell: Tell) -> None:
        """``tell`` is given a line each second."""
        self.agents: list[SimulatedAgent] = []
        self.tally: Tally = RevisionTally()
        self.fails: Callable[[str, DesiredState], WorkloadState | None] = lambda _node, _state: None
        """The workload of a node that cannot have what is desired, for who wants some to fail."""
        self.lanes: Sequence[str] = _LANES
        """Of which reports tell."""
        self.ending = False
        self._addresses = addresses
        self._tell = tell
        self._epoll = select.epoll()
        self._by_fd: dict[int, SimulatedAgent] = {}
        self._watched: dict[int, int] = {}
        self._waiting: deque[SimulatedAgent] = deque()
        self._paused: list[tuple[float, int, SimulatedAgent]] = []
        self._shaking = 0
        self._states: dict[tuple[int, bytes], tuple[DesiredState, DesiredState]] = {}
        """What a message leads to, by the identity of the state before it, which is kept so that no other gets it."""
        self._hashes: dict[int, tuple[DesiredState, bytes]] = {}
        self._failures: dict[str, int] = {}
        self._now = time.monotonic()

    # For agents

    def read(self, there: DesiredState, change: Desired, data: bytes) -> DesiredState:
        """All agents are told the same: what it leads to is worked out once, by the content. Raises ValueError."""
        key = id(there) if change.base else 0, data
        found = self._states.get(key)
        if found is None:
            try:
                found = there, applied(there, change)
            except OtherBaseError as error:
                raise ValueError(str(error)) from None
            if len(self._states) > 64:
                self._states.clear()
            self._states[key] = found
        return found[1]

    def hash_of(self, state: DesiredState) -> bytes:
        """Of a state that :meth:`read` has given."""
        found = self._hashes.get(id(state))
        if found is None:
            if len(self._hashes) > 64:
                self._hashes.clear()
            found = self._hashes[id(state)] = state, state.hash
        return found[1]

    def failure_of(self, node: str, state: DesiredState) -> WorkloadState | None:
        return self.fails(node, state)

    def was_told(self, revision: int) -> None:
        self.tally.told(revision, time.monotonic())

    def has_applied(self, revision: int) -> None:
        self.tally.applied(revision, time.monotonic())

    # The loop

    def run(self) -> None:
        """Until :attr:`ending`."""
        self._waiting.extend(self.agents)
        told = turn = time.monotonic()
        at = 0.0
        """Place of the next agent whose report is due."""
        while not self.ending:
            self._now = now = time.monotonic()
            while self._paused and self._paused[0][0] <= now:
                self._waiting.append(heapq.heappop(self._paused)[2])
            while self._waiting and self._shaking < _SHAKING:
                self._begin(self._waiting.popleft())
            if now - turn >= _TURN:
                share = len(self.agents) * min(1.0, (now - turn) / REPORT_INTERVAL)
                turn = now
                at = self._report(at, share)
            if now - told >= 1.0:
                told = now
                self._tell(self._line())
            for fd, _ in self._epoll.poll(_TURN, 256):
                agent = self._by_fd.get(fd)
                if agent is not None:
                    self._do(agent, agent.ready)
        for agent in self.agents:
            agent.close()
        self._epoll.close()

    @property
    def connected(self) -> int:
        """How many agents have said Hello, and were not refused."""
        return sum(agent.talking for agent in self.agents)

    def _line(self) -> str:
        line = self.tally.line(self.connected, len(self.agents))
        worst = max(self._failures.items(), key=lambda each: each[1], default=None)
        self._failures.clear()
        return line if worst is None else f"{line}  failed {worst[1]}: {worst[0]}"

    def _begin(self, agent: SimulatedAgent) -> None:
        self._shaking += 1
        try:
            agent.begin(random.choice(self._addresses), self._now)
        except OSError as error:
            self._lost(agent, error.strerror or str(error))
            return
        self._by_fd[agent.fd] = agent
        self._epoll.register(agent.fd, agent.events)
        self._watched[agent.fd] = agent.events

    def _do(self, agent: SimulatedAgent, step: Callable[[float], None]) -> None:
        shaking = agent.shaking
        try:
            step(self._now)
        except CallEndedError as error:
            self._lost(agent, str(error), refused=error.refused)
        except (OSError, CertificateError, DecodeError) as error:
            self._lost(agent, str(error))
        else:
            self._shaking -= shaking and not agent.shaking
            if agent.talking:
                agent.attempt = 0
            if self._watched[agent.fd] != agent.events:
                self._epoll.modify(agent.fd, agent.events)
                self._watched[agent.fd] = agent.events

    def _lost(self, agent: SimulatedAgent, reason: str, *, refused: bool = False) -> None:
        self._failures[reason] = self._failures.get(reason, 0) + 1
        self._shaking -= agent.shaking
        if agent.fd in self._by_fd:
            del self._by_fd[agent.fd], self._watched[agent.fd]
            self._epoll.unregister(agent.fd)
        agent.close()
        patience = random.uniform(30.0, 90.0) if refused else pause(agent.attempt)
        agent.attempt += 1
        heapq.heappush(self._paused, (self._now + patience, random.getrandbits(60), agent))

    def _report(self, at: float, share: float) -> float:
        """Reports of ``share`` agents, from that at ``at`` on; where the next ones begin."""
        end = at + share
        if int(end) > int(at):
            message = _report(round(time.time() * 1000), sorted(self._policies()), self.lanes)
            for place in range(int(at), int(end)):
                agent = self.agents[place % len(self.agents)]
                if agent.talking:
                    self._do(agent, lambda _, agent=agent: agent.say(message))  # type: ignore[misc]
                    if agent.talking:
                        self._do(agent, agent.look)
        return end % len(self.agents)

    def _policies(self) -> frozenset[str]:
        newest = max((agent.state for agent in self.agents[:1]), key=lambda each: each.revision)
        return frozenset(newest.policies)


def _report(at_ms: int, policies: Sequence[str], lanes: Sequence[str]) -> bytes:
    sums = [
        LaneSum(
            policy=policy, lane=lane, direction="egress", bytes=random.randrange(10**8),
            packets=random.randrange(10**5), dropped=1, overlimits=random.randrange(100), workloads=20,
            rate=20_000_000, ceil=200_000_000,
        )
        for policy in policies[:1]
        for lane in lanes
    ]  # fmt: skip
    return FromAgent(report=Report(at=at_ms, interval_ms=1000, lanes=sums)).SerializeToString()
