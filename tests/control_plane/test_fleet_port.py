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

from control_plane.certificates.authority import Authority, new_root, utc
from control_plane.certificates.identity import AgentIdentity
from fleet_api.agent_pb2 import Credentials, LaneSum, Report


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
            assert agent.hear().watch.names_every == 60  # it reports: so it is told how often to say which names it saw
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


def test_hostile_agents_harm_nobody_else(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("clusters", "add", "east")
        good, huge, forged = (
            joined(client, plane, "n1"),
            joined(client, plane, "n2"),
            GrpcAgent(plane.agents_port, "n1"),
        )
        roots = good.credentials.roots.encode()
        other = Authority([new_root(utc(time.time()))], "podlane")
        identity = AgentIdentity("default", "east", "n1", "1f")
        issued = other.issue_agent(identity, forged.key.public_key(), utc(time.time()))
        forged.credentials = Credentials(roots=roots.decode(), certificate_chain=issued.chain.decode())
        stranger = GrpcAgent(plane.agents_port, "n9")
        with good.connected():
            with forged.connected(), pytest.raises(grpc.RpcError) as refused:
                forged.hear()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, "the handshake fails"
            with huge.connected():
                huge.say(report=Report(lanes=[LaneSum(policy="x" * 300_000)]))
                with pytest.raises(grpc.RpcError) as refused:
                    huge.hear()
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            for token in ("", "secret", good.token):
                with pytest.raises(grpc.RpcError) as refused:
                    stranger.join(token, roots)
                assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
            client.run("policy", "apply", "web", "-f", "-", given=POLICY)
            good.hear()
            assert list(good.state.policies) == ["web"]


def test_its_health_can_be_asked_for_by_grpc(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("clusters", "add", "east")
        agent = joined(client, plane, "n1")
        with agent.channel(grpc.ssl_channel_credentials(agent.credentials.roots.encode())) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            for service in (b"", b"\x0a\x17podlane.agent.v1.Agents"):
                assert check(service, timeout=20) == b"\x08\x01"
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                check(b"\x0a\x01x", timeout=20)


def test_two_processes_serve_one_fleet(tmp_path: Path, client: Client, database_url: str) -> None:
    root = new_root(utc(time.time()))
    (tmp_path / "ca.crt").write_bytes(root.pem)
    (tmp_path / "ca.key").write_bytes(root.key_pem)
    shared = [
        "--database",
        database_url,
        "--ca-certificate",
        str(tmp_path / "ca.crt"),
        "--ca-key",
        str(tmp_path / "ca.key"),
    ]
    with control_plane(tmp_path, *shared) as one, control_plane(tmp_path, *shared) as two:
        client.run("login", one.url, given=one.token)
        client.run("clusters", "add", "east")
        agent = joined(client, one, "n1")
        agent.port = two.agents_port
        with agent.connected():
            client.run("policy", "apply", "web", "-f", "-", given=POLICY)
            agent.hear()
            agent.confirm()
            client.run("login", two.url, given=one.token)
            until("APPLIED", lambda: ask(client, "agents", "get", "n1")["state"] == "in-sync")
            client.run("login", one.url, given=one.token)
            client.run("agents", "revoke", "n1")
            with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
                agent.hear()


def test_the_next_ca_is_told_to_agents(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("clusters", "add", "east")
        agent = joined(client, plane, "n1")
        state = ["control-plane", "--state", str(tmp_path / "state")]
        assert "signs from" in client.run(*state, "--rotate-root").stdout
        assert "under way" in client.run(*state, "--rotate-root", code=1).stderr
        with agent.connected():
            told = agent.hear().credentials
            assert told.roots.count("BEGIN CERTIFICATE") == 2
        assert client.run("clusters", "ca").stdout == told.roots
