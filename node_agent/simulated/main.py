"""Runs simulated agents from the agent's settings."""

from __future__ import annotations

import signal

import trio

from daemon.descriptors import raise_descriptor_limit
from daemon.errors import single
from node_agent.fleet.errors import CallEndedError, UnreachableError
from node_agent.settings import AgentSettings
from node_agent.simulated.joining import join_all, node_names
from node_agent.simulated.simulated_agent import SimulatedAgent
from node_agent.simulated.swarm import AgentSwarm, Tell
from traffic_policy.errors import ConfigError, PodlaneError


def simulate(settings: AgentSettings, count: int, tell: Tell) -> None:
    """Be ``count`` agents until SIGTERM or SIGINT. Raises :class:`ConfigError` and what joining does."""
    fleet = settings.fleet
    if fleet is None:
        raise ConfigError("Simulated agents are for a control plane. Name it by --control-plane.")
    raise_descriptor_limit()
    try:
        credentials = trio.run(join_all, fleet, count)
    except ExceptionGroup as group:
        known = single(group, (PodlaneError, CallEndedError, UnreachableError))
        if known is None:
            raise
        raise ConfigError(f"Simulated agents cannot join: {known}") from None
    swarm = AgentSwarm(fleet.addresses, tell)
    swarm.agents = [
        SimulatedAgent(node, each, swarm) for node, each in zip(node_names(count), credentials, strict=True)
    ]

    def end(*_: object) -> None:
        swarm.ending = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    swarm.run()
