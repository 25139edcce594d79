"""The whole way, over real connections: a policy by the command line, to agents, and back to the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from fleet_client import GrpcAgent, pinned_root
from test_command import POLICY, Client, Running, control_plane
from waiting import until

from fleet_api.agent_pb2 import LaneSum, Report


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def joined(client: Client, plane: Running, node: str, *options: str) -> GrpcAgent:
    done = client.run("join-token", "east", *options)
    assert f"podlane agent --control-plane 127.0.0.1:{plane.agents_port} --join-token" in done.stderr
    token, _, digest = done.stdout.strip().partition(".")
    agent = GrpcAgent(plane.agents_port, node)
    agent.join(token, pinned_root(plane.agents_port, digest))
    return agent


def ask(client: Client, *verb: str) -> Any:
    return json.loads(client.run(*verb, "-o", "json").stdout)


def test_a_policy_goes_out_and_comes_back_as_applied(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        assert "is added" in client.run("clusters", "add", "east").stderr
        agent = joined(client, plane, "n1")
        away = joined(client, plane, "n2", "--node", "n2")
        with agent.connected():
            client.run("policy", "apply", "web", "-f", "-", given=POLICY)
            agent.hear()
            assert json.loads(agent.state.policies["web"].document)["total"] == "100Mbit"
            agent.confirm()
            until("APPLIED", lambda: ask(client, "agents", "get", "n1")["state"] == "in-sync")
            row, other = client.run("agents", "list").stdout.splitlines()[1:]
            assert row.split()[:5] == ["n1", "east", "in-sync", str(agent.state.revision), "3"]
            assert other.split()[:3] == ["n2", "east", "away"]
            assert [each["node"] for each in ask(client, "agents", "list", "--state", "away")] == [away.node]
            assert "1 of 2 agents" in client.run("policy", "get", "web").stdout
            agent.say(report=Report(lanes=[LaneSum(policy="web", lane="web", direction="egress", bytes=1500)]))
            agent.renew()
            assert agent.hear().credentials.renew_at > time.time() + 11 * 3600

            assert "is revoked" in client.run("agents", "revoke", "n1", "--reason", "sold").stderr
            with pytest.raises(grpc.RpcError) as end:
                agent.hear()
            assert end.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "podlane join-token" in end.value.details()
        with agent.connected(), pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            agent.hear()
        assert [row.split()[:2] for row in client.run("clusters", "list").stdout.splitlines()] == [
            ["NAME", "AGENTS"],
            ["east", "1"],
        ]


def test_agents_find_what_they_had_after_a_restart_of_the_control_plane(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("clusters", "add", "east")
        client.run("policy", "apply", "web", "-f", "-", given=POLICY)
        token, agent = plane.token, joined(client, plane, "n1")
        with agent.connected():
            agent.hear()
    with control_plane(tmp_path) as plane:
        agent.port = plane.agents_port
        client.run("login", plane.url, given=token)
        with agent.connected():
            client.run("policy", "apply", "db", "-f", "-", given=POLICY)
            change = agent.hear().desired
            assert (change.base > 0, sorted(agent.state.policies)) == (True, ["db", "web"])
