"""The answer to ``podlane-cni``: it waits until the lanes of a Pod are in force, for a limited time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import trio

from daemon.log import Logger
from node_agent.agent import Agent
from node_agent.cni.call import BAD_ENVIRONMENT, REFUSED, TRY_LATER, CniCall, CniError
from node_agent.container_runtime import network_at
from node_agent.sources.kubernetes import PodName, PodSource
from node_agent.workload import NodeWorkload

PATIENCE_S: Final = 5.0
"""Less than :data:`~node_agent.cni.conflist.TIMEOUT_S`, so that the reason is told."""

Placed = Callable[[NodeWorkload], NodeWorkload | None]

log = Logger()


class CallOutcome(StrEnum):
    """Of a call."""

    LANES = "lanes"
    """They were in force."""
    NONE = "none"
    """The Pod is not the agent's."""
    FAILED = "failed"
    """They were not in force in time, or cannot be."""


class CniGate:
    """Answers calls."""

    def __init__(
        self, source: PodSource, agent: Agent, patience: float = PATIENCE_S, *, placed: Placed | None = None
    ) -> None:
        """``patience`` in seconds. ``placed`` gives a workload what a control plane has for it; None: it is none of the
        agent's then."""
        self.calls = Counter[CallOutcome]()
        self._source = source
        self._agent = agent
        self._patience = patience
        self._placed: Placed = placed or (lambda workload: workload)

    async def answer(self, call: CniCall) -> None:
        """Return once lanes are in force, or if there are to be none. Raises :class:`CniError`."""
        try:
            outcome = await self._settle(call)
        except CniError as error:
            self.calls[CallOutcome.FAILED] += 1
            log.warning(
                "a Pod's network began without its lanes", pod=f"{call.namespace}/{call.pod}", reason=str(error)
            )
            raise
        self.calls[outcome] += 1

    async def _settle(self, call: CniCall) -> CallOutcome:
        if not call.pod:
            return CallOutcome.NONE  # podman, or a person
        network = network_at(call.network_namespace)
        if network is None:
            raise CniError(
                BAD_ENVIRONMENT, f"there is no network namespace of a Pod at {call.network_namespace} for the agent"
            )
        began, workload = trio.current_time(), None
        with trio.move_on_after(self._patience):
            workload = await self._source.network_began(PodName(call.namespace, call.pod, call.uid), network)
            workload = None if workload is None else self._placed(workload)
            if workload is None:
                return CallOutcome.NONE
            if workload.lanes is None:
                raise CniError(REFUSED, workload.refusal)
            lanes = await self._agent.in_force(workload, network.identity)
            took = trio.current_time() - began
            log.debug("lanes before the first packet", workload=lanes.workload.name, seconds=round(took, 3))
            return CallOutcome.LANES
        if workload is None:
            raise CniError(TRY_LATER, f"the API server has not told of the Pod {call.namespace}/{call.pod} yet")
        late = self._agent.running.get(workload.name)
        raise CniError(TRY_LATER, f"lanes are not in force yet. {late.reason if late else ''}".rstrip())
