"""Puts the parts of the connection to a control plane together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from daemon.kubernetes.api import ApiServer
from daemon.log import Logger
from node_agent.agent import Agent
from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.fleet_settings import FleetSettings
from node_agent.fleet.identity import IdentityFiles
from node_agent.fleet.link import FleetLink
from node_agent.fleet.node import AgentFacts
from node_agent.fleet.node_labels import NodeLabels
from node_agent.fleet.policies import FleetPolicies, Placement
from node_agent.fleet.private_file import private_folder
from node_agent.fleet.saved_state import SavedState
from node_agent.lanes import NodeContext

log = Logger()


class Fleet(NamedTuple):
    """``link`` and ``parts`` are to be run; workloads go through ``policies``."""

    policies: FleetPolicies
    link: FleetLink
    parts: tuple[Callable[[], Awaitable[None]], ...] = ()


async def join_fleet(
    settings: FleetSettings, agent: Agent, node: NodeContext, api: ApiServer | None = None, name: str | None = None
) -> Fleet:
    """What was desired last is known before anything is connected. ``name`` is the Node's in the API server, if it is
    one. Raises :class:`ConfigError`."""
    folder = await trio.to_thread.run_sync(private_folder, settings.data)
    saved = SavedState(folder)
    state = await trio.to_thread.run_sync(saved.load)
    if state is not None:
        log.info("the control plane desired last", revision=state.revision, policies=len(state.policies))

    async def put(placement: Placement) -> None:
        await agent.put(placement.workloads, placement.undecided)

    policies = FleetPolicies(put, state)
    enrolment = Enrolment(settings, IdentityFiles(folder))
    followed = api is not None and name is not None
    labels = await trio.to_thread.run_sync(partial(NodeLabels, folder, settings.labels, followed=followed))
    facts = AgentFacts(agent, node, labels, policies)
    parts: list[Callable[[], Awaitable[None]]] = [partial(facts.minutes.run, lambda: facts.running)]
    if api is not None and name is not None:
        parts.append(partial(labels.run, api, name))
    return Fleet(policies, FleetLink(settings, facts, policies, saved, enrolment), tuple(parts))
