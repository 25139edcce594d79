"""Questions to agents: what is in force for a workload, what the agent knows of itself, what went through lanes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from threading import BoundedSemaphore
from typing import Any, Final, Protocol

from control_plane.domain.errors import StateConflictError, TooManyError
from fleet_api.agent_pb2 import Answer, Question
from traffic_policy.errors import PodlaneError

_PATIENCE: Final = 10.0
_AT_ONCE: Final = 8
"""Questions that are waited for, each by a thread of those that serve requests."""

Reply = Callable[[Answer | None], None]
"""Is called with the answer; None: the agent has gone away."""


AskElsewhere = Callable[[str, str, str, Question], Future[Answer | None] | None]
"""Asks an agent (tenant, cluster, node) that is connected to another process; None: it is not. The answer is None when
it has gone away."""


class SilentAgentError(PodlaneError):
    """The agent has not answered, or not as it should."""


class AsksAgents(Protocol):
    """Who has the connections; all in the gateway's thread."""

    def ask(self, tenant: str, cluster: str, node: str, question: Question, reply: Reply) -> bool:
        """False: the agent is not connected here, or has not read what it was sent before."""


class Questions:
    """Any thread may ask. Blocks."""

    def __init__(
        self, agents: AsksAgents, post: Callable[[Callable[[], None]], None], elsewhere: AskElsewhere | None = None
    ) -> None:
        """``post`` has something done in the gateway's thread."""
        self._elsewhere = elsewhere
        self._agents = agents
        self._post = post
        self._room = BoundedSemaphore(_AT_ONCE)

    def ask(self, tenant: str, cluster: str, node: str, question: Question) -> dict[str, Any]:
        """The document that the agent answers with. It is the agent's word: hostile ones say anything.

        Raises :class:`StateConflictError`, :class:`TooManyError`, :class:`SilentAgentError`.
        """
        if not self._room.acquire(blocking=False):
            raise TooManyError(f"{_AT_ONCE} agents are being asked.", 1)
        try:
            answer = self._answer(tenant, cluster, node, question)
        finally:
            self._room.release()
        if answer.refusal:
            raise StateConflictError(f"The agent of {node} has no answer: {answer.refusal[:500]}", "Ask for another.")
        try:
            document = json.loads(answer.document)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise SilentAgentError(f"The agent of {node} answers with what is no document. Look into its log.")
        return document

    def _answer(self, tenant: str, cluster: str, node: str, question: Question) -> Answer:
        relayed = self._elsewhere(tenant, cluster, node, question) if self._elsewhere is not None else None
        told: Future[Answer | None] = relayed or Future()

        def ask() -> None:
            if not self._agents.ask(tenant, cluster, node, question, told.set_result):
                told.set_exception(
                    StateConflictError(
                        f"The agent of {node} is not connected, or has too much to answer.",
                        "See `podlane agents list`, and ask again.",
                    )
                )

        if relayed is None:
            self._post(ask)
        try:
            answer = told.result(_PATIENCE)
        except TimeoutError:
            raise SilentAgentError(f"The agent of {node} has not answered within {_PATIENCE:g} s. Ask again.") from None
        if answer is None:
            raise SilentAgentError(f"The agent of {node} has gone away. Ask again.")
        return answer
