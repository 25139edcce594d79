"""Certificates for simulated agents: each joins once, by a token of its own, and is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.fleet_settings import FleetSettings
from node_agent.fleet.identity import AgentCredentials, IdentityFiles
from node_agent.fleet.private_file import private_folder
from traffic_policy.errors import ConfigError

_AT_ONCE: Final = 16


def node_names(count: int) -> list[str]:
    """Of simulated nodes."""
    return [f"simulated-{number:05}" for number in range(1, count + 1)]


def tokens_for(text: str, count: int) -> list[str]:
    """One join token for each agent, out of one a line. Raises :class:`ConfigError`."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if len(found) < count:
        raise ConfigError(
            f"There are {len(found)} join tokens for {count} agents, each of which needs one. Give --join-token @FILE, "
            "with one a line."
        )
    return found


async def join_all(settings: FleetSettings, count: int) -> list[AgentCredentials]:
    """Raises what :meth:`~node_agent.fleet.enrolment.Enrolment.valid` does, in a group."""
    found: dict[str, AgentCredentials] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def join(node: str, token: str) -> None:
        async with limit:
            folder = await trio.to_thread.run_sync(private_folder, settings.data / "simulated" / node)
            ours = replace(settings, node=node, join_token=token)
            enrolment = Enrolment(ours, IdentityFiles(folder))
            await enrolment.load()
            found[node] = await enrolment.valid(settings.addresses[0])

    names = node_names(count)
    async with trio.open_nursery() as nursery:
        for node, token in zip(names, await _tokens(settings, names), strict=False):
            nursery.start_soon(join, node, token)
    return [found[node] for node in names]


async def _tokens(settings: FleetSettings, nodes: Sequence[str]) -> list[str]:
    """Empty ones for agents that have all joined before."""
    folders = [settings.data / "simulated" / node / "identity.json" for node in nodes]
    if all(await trio.to_thread.run_sync(lambda: [each.exists() for each in folders])):
        return ["" for _ in nodes]
    text = settings.join_token
    if text.startswith("@"):
        try:
            text = await trio.Path(Path(text[1:])).read_text()
        except OSError as error:
            raise ConfigError(f"--join-token: {text[1:]} cannot be read: {error.strerror}.") from None
    return tokens_for(text, len(nodes))
