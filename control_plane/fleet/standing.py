"""On how many agents each policy is in force: counted for all policies at once. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.fleet.agent_status import AgentState, AgentStatus


@dataclass(frozen=True, slots=True)
class PolicyStanding:
    """Of ``agents`` that have joined: on ``in_force`` it is in force, ``failed`` could not take it or have workloads
    without it, ``behind`` have not said yet, ``away`` are not connected. One that is away may also be in ``in_force``.
    """

    agents: int
    in_force: int
    failed: int
    behind: int
    away: int


class FleetStanding:
    """What agents have, sorted once, so that each policy costs little even with many agents."""

    def __init__(self, agents: Iterable[tuple[AgentStatus | None, AgentState]]) -> None:
        """``agents``: all that have joined, each with its state."""
        self._agents = 0
        revisions: dict[AgentState, list[int]] = {state: [] for state in AgentState}
        self._failures: dict[str, list[tuple[int, AgentState]]] = defaultdict(list)
        for status, state in agents:
            self._agents += 1
            revisions[state].append(status.revision if status is not None else -1)
            if status is not None and status.failures:
                for policy in {each.policy for each in status.failures}:
                    self._failures[policy].append((status.revision, state))
        self._revisions = {state: sorted(found) for state, found in revisions.items()}

    def policy(self, policy: str, since: int) -> PolicyStanding:
        """``since``: the position of the event that changed what agents are to have of it."""
        without = {state: bisect_left(found, since) for state, found in self._revisions.items()}
        failing = Counter(state for revision, state in self._failures.get(policy, ()) if revision >= since)
        failed = without[AgentState.FAILED] + sum(n for state, n in failing.items() if state is not AgentState.AWAY)
        return PolicyStanding(
            self._agents,
            self._agents - sum(without.values()) - failing.total(),
            failed,
            without[AgentState.BEHIND],
            len(self._revisions[AgentState.AWAY]),
        )
