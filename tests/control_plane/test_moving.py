"""A process of a control plane that ends: agents move to another one, and are never without a connection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from fleet_client import GrpcAgent, pinned_root
from test_command import POLICY, Client, Running, control_plane
from waiting import until

from control_plane.certificates.authority import new_root, utc


@pytest.fixture
def shared(tmp_path: Path, postgresql_database: Any) -> list[str]:
    """Options of two processes on one database."""
    root = new_root(utc(time.time()))
    (tmp_path / "ca.crt").write_bytes(root.pem)
    (tmp_path / "ca.key").write_bytes(root.key_pem)
    files = ["--ca-certificate", str(tmp_path / "ca.crt"), "--ca-key", str(tmp_path / "ca.key")]
    return ["--database", postgresql_database(), *files]


def agent_process(folder: Path, token: str, *planes: Running) -> tuple[subprocess.Popen[bytes], int]:
    """A real agent without workloads, and its admin port."""
    (folder / "workloads.yaml").write_text("workloads: []\n")
    reader, writer = os.pipe()
    addresses = ",".join(f"127.0.0.1:{plane.agents_port}" for plane in planes)
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "podlane", "agent", "--workloads", str(folder / "workloads.yaml"),
                "--control-plane", addresses, "--join-token", token, "--name", "n1", "--data", str(folder / "data"),
                "--state", str(folder / "agent-state"), "--admin-port", "15199", "--ready-fd", str(writer),
            ],
            stdout=log, stderr=log, pass_fds=[writer],
        )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as ready:
        port = ready.readline().strip()
    assert port, (folder / "agent.log").read_text()
    return process, int(port)


def test_real_agents_move_without_a_gap_and_old_ones_are_told(tmp_path: Path, shared: list[str]) -> None:
    if os.geteuid():
        pytest.skip("agents need root")
    client = Client(tmp_path)
    with ExitStack() as stack, control_plane(tmp_path, *shared) as two:
        one = stack.enter_context(control_plane(tmp_path, *shared))
        client.run("login", two.url, given=two.token or one.token)
        client.run("clusters", "add", "east")
        tokens = [client.run("join-token", "east", "--node", node).stdout.strip() for node in ("n1", "n2")]
        old = GrpcAgent(one.agents_port, "n2")  # does not know what to move means
        token, _, digest = tokens[1].partition(".")
        old.join(token, pinned_root(one.agents_port, digest))

        process, port = agent_process(tmp_path, tokens[0], one, two)
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)

        def link() -> Any:
            with urlopen(f"http://127.0.0.1:{port}/node", timeout=5) as answer:
                return json.load(answer)["control_plane"]

        until("the agent is connected", lambda: link()["connected"])
        first, other = (one, two) if str(one.agents_port) in link()["address"] else (two, one)
        old.port = first.agents_port
        with old.connected():
            client.run("login", other.url, given=two.token or one.token)
            first.process.send_signal(signal.SIGTERM)
            until("the agent has moved", lambda: str(other.agents_port) in link()["address"])
            assert old.hear().WhichOneof("message") == "move"
            with pytest.raises(grpc.RpcError, match="Dial again: another one answers"):
                old.hear()
        assert first.process.wait(30) == 0
        log = (tmp_path / "agent.log").read_text()
        assert "the control plane asks for another connection" in log
        assert "is not connected" not in log, log
        assert link()["connected"]
        client.run("policy", "apply", "web", "-f", "-", given=POLICY)
        until("the agent has the policy", lambda: link()["revision"] > 0)
