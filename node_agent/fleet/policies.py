"""Gives workloads without a policy of their own that of the control plane."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from fleet_api.desired import DesiredState, FleetPolicy
from node_agent.provenance import provenance
from node_agent.workload import NodeWorkload, WantedLanes
from traffic_policy.errors import PodlaneError
from traffic_policy.selection import selected

_FORGET: Final = 10_000
"""Policies with their settings that are remembered, at most."""

Wanted = Mapping[str, NodeWorkload]


@dataclass(frozen=True, slots=True)
class Placement:
    """``workloads`` by name. ``undecided`` are those whose policy is not known as long as nothing was said: what is in
    force there must stay."""

    workloads: Wanted
    undecided: Wanted


class LanesOfPolicies:
    """What documents mean for workloads. Hundreds of these have the same settings, and reading a long document takes
    a second."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Hashable], WantedLanes | str] = {}

    def of_workload(self, workload: NodeWorkload, policy: FleetPolicy) -> NodeWorkload:
        """The workload with this policy, or why it cannot have it."""
        assert workload.claim is not None
        key = policy.document, workload.claim.settings_key
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _FORGET:
                self._known.clear()
            try:
                found = workload.claim.lanes(_document(policy))
            except (PodlaneError, ValueError) as error:
                found = f"The control plane's policy {policy.name} cannot be honoured. {error}"
            self._known[key] = found
        if isinstance(found, str):
            return replace(workload, lanes=None, refusal=found, fleet_policy=policy.name)
        return replace(workload, lanes=found, refusal="", fleet_policy=policy.name)


def _document(policy: FleetPolicy) -> Mapping[str, Any]:
    """Raises ValueError."""
    document = json.loads(policy.document)
    if not isinstance(document, dict):
        raise ValueError("It is no mapping.")
    return document


def place(wanted: Wanted, state: DesiredState | None, lanes: LanesOfPolicies) -> Placement:
    """What each workload is to have. ``state`` None: nothing was ever said."""
    workloads, undecided = {}, {}
    for name, workload in wanted.items():
        claim = workload.claim
        policy = selected(state.policies.values(), claim.labels) if claim is not None and state is not None else None
        if policy is not None:
            workloads[name] = lanes.of_workload(workload, policy)
        elif claim is not None and state is None:
            undecided[name] = workload
        elif claim is None or not claim.optional:
            workloads[name] = workload
    return Placement(workloads, undecided)


class FleetPolicies:
    """Joins what a source wants with what the control plane desires, and puts it."""

    def __init__(self, put: Callable[[Placement], Awaitable[None]], state: DesiredState | None) -> None:
        """``state``: what was desired last, as far as is known."""
        self.state = state
        self.workloads: Wanted = {}
        """What was put last."""
        self._put = put
        self._wanted: Wanted | None = None
        self._lanes = LanesOfPolicies()
        self._one_by_one = trio.Lock()

    async def want(self, wanted: Wanted) -> None:
        """These are the workloads that there are."""
        async with self._one_by_one:
            self._wanted = wanted
            await self._place(self.state)

    async def desire(self, state: DesiredState) -> None:
        """These are the control plane's policies."""
        async with self._one_by_one:
            if state == self.state:
                return
            if self._wanted is not None:
                await self._place(state)
            self.state = state

    def placed(self, workload: NodeWorkload) -> NodeWorkload | None:
        """What one is to have; None: it is none of the agent's."""
        found = place({workload.name: workload}, self.state, self._lanes)
        return found.workloads.get(workload.name)

    def provenance(self, name: str) -> dict[str, object]:
        """Where the values of a workload's policy come from, see :func:`node_agent.provenance.provenance`."""
        workload = self.workloads.get(name)
        if workload is None:
            return {}
        return provenance(workload.sources, workload.fleet_policy, self.state)

    async def _place(self, state: DesiredState | None) -> None:
        wanted = self._wanted or {}
        placement = await trio.to_thread.run_sync(place, wanted, state, self._lanes)
        self.workloads = placement.workloads
        await self._put(placement)
        # From here on the state may be said to be in force, once its workloads have settled.
