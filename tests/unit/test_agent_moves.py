"""An agent that is asked to move has its next connection before it lets go of the old one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from fleet_server import FleetCa, FleetServer, fleet_server
from waiting import becomes

from fleet_api.agent_pb2 import Health, Hello, Move, Question, ToAgent
from node_agent.broadcast import Broadcast
from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.fleet_settings import Address, FleetSettings
from node_agent.fleet.identity import IdentityFiles
from node_agent.fleet.link import FleetLink
from node_agent.fleet.node_labels import NodeLabels
from node_agent.fleet.policies import FleetPolicies, Placement
from node_agent.fleet.saved_state import SavedState


class EmptyNode:
    """A node without workloads."""

    def __init__(self, folder: Path) -> None:
        self.moved = Broadcast()
        self.running: Mapping[str, Any] = {}
        self.synced = True
        self.labels = NodeLabels(folder, {}, followed=False)

    def hello(self) -> Hello:
        return Hello(version="0.2.0", instance="a")

    def health(self) -> Health:
        return Health()

    def answer(self, _question: Question) -> Mapping[str, object]:
        raise LookupError("There is nothing.")


async def nothing(_: Placement) -> None:
    pass


def link_to(folder: Path, token: str, *servers: FleetServer) -> FleetLink:
    addresses = tuple(Address("127.0.0.1", server.port) for server in servers)
    settings = FleetSettings(addresses, folder, join_token=token, cluster="c1", node="n1")
    enrolment = Enrolment(settings, IdentityFiles(folder))
    return FleetLink(settings, EmptyNode(folder), FleetPolicies(nothing, None), SavedState(folder), enrolment)


async def until_at(link: FleetLink, server: FleetServer) -> None:
    def there() -> bool:
        assert not link.status.error, "it was without a connection"
        return link.status.connected and link.status.address.endswith(f":{server.port}")

    await becomes("the next connection", there)


@pytest.mark.trio
async def test_the_next_connection_stands_before_the_old_one_ends(tmp_path: Path) -> None:
    ca = FleetCa()
    serve = partial(fleet_server, ca.ca, enrol=ca.enrol, mutual=False)
    with serve() as one, serve() as two:
        link = link_to(tmp_path, f"token.{ca.digest}", one, two)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await becomes("a connection", lambda: link.status.connected)
            for number in range(2, 5):
                here, there = (one, two) if link.status.address.endswith(f":{one.port}") else (two, one)
                here.says.put(ToAgent(move=Move()))
                here.says.put(ToAgent(move=Move()))  # it is told again
                await until_at(link, there)
                assert link.status.connections == number
                assert (await trio.to_thread.run_sync(there.next, "hello")).instance == "a"
                # The old call has ended: its server has put None for its own end.
                await becomes("the end of the old call", here.says.empty)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_where_nobody_else_answers_it_stays_as_long_as_it_can(tmp_path: Path) -> None:
    ca = FleetCa()
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as one:
        link = link_to(tmp_path, f"token.{ca.digest}", one)
        link._settings = FleetSettings((*link._settings.addresses, Address("127.0.0.1", 1)), tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await becomes("a connection", lambda: link.status.connected)
            one.says.put(ToAgent(move=Move()))
            # It dials the same address in the end: behind a load balancer that is another process.
            await becomes("another connection", lambda: link.status.connections >= 2)
            assert link.status.connected
            nursery.cancel_scope.cancel()
