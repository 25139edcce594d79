"""A control plane's process and an agent's, as they are installed: what is published by REST is in the kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from agents import PodsOnNode, RunningAgent, agents_to_end, launch_agent, pods_on_node, write_workloads
from click.testing import CliRunner
from waiting import until

from podlane.fleet.client import FleetClient
from podlane.fleet.contexts import FleetContext
from podlane.main import main
from podlane.netns import Host, Lab

pytestmark = pytest.mark.root


@dataclass
class RunningPlane:
    """A started control plane; ``token`` is empty unless it was its database's first start."""

    process: subprocess.Popen[str]
    port: int
    agents_port: int
    token: str

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0


def start_plane(folder: Path, port: int = 0, agents_port: int = 0) -> RunningPlane:
    """Start it and wait until it listens."""
    ready, theirs = os.pipe()
    with (folder / "control-plane.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "podlane", "control-plane", "--state", str(folder / "plane"), "--port", str(port),
                "--agents-port", str(agents_port), "--ready-fd", str(theirs),
            ],
            stdout=subprocess.PIPE, stderr=log, pass_fds=[theirs], text=True,
        )  # fmt: skip
    os.close(theirs)
    with os.fdopen(ready) as pipe:
        ports = pipe.read().split()
    if len(ports) != 2:
        process.kill()
        pytest.fail((folder / "control-plane.log").read_text())
    assert process.stdout is not None
    token = "" if port else process.stdout.readline().strip()
    return RunningPlane(process, int(ports[0]), int(ports[1]), token)


def policy(ceil: str) -> dict[str, Any]:
    return {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "ceil": ceil, "match": {"port": 443}}]}


def publish(context: FleetContext, ceil: str) -> None:
    client = FleetClient(context)
    place = client.about("policies", "web")
    client.ask("PUT", f"{place}/draft", {"document": policy(ceil), "selector": {"app": "shop"}})
    client.ask("POST", f"{place}/publish")


def until_ceil(pod: Host, ceil: str) -> None:
    until(f"ceil {ceil}", lambda: f"ceil {ceil}" in pod.run(["tc", "class", "show", "dev", "eth0"]).stdout)


def until_in_force(context: FleetContext) -> None:
    client = FleetClient(context)
    path = client.about("policies", "web", "progress")
    until("it is said to be in force", lambda: client.ask("GET", path)["in_force"] == 1)


def join(folder: Path, pods: PodsOnNode, plane: RunningPlane, token: str) -> RunningAgent:
    """The agent of node-1, for a Pod with the label and one without."""
    shop, other = pods.pods
    write_workloads(
        folder / "workloads.yaml",
        {"name": "shop", "netns": shop.namespace.name, "labels": {"app": "shop"}},
        {"name": "other", "netns": other.namespace.name},
    )
    return launch_agent(
        folder, "--workloads", str(folder / "workloads.yaml"), "--control-plane", f"127.0.0.1:{plane.agents_port}",
        "--join-token", token, "--name", "node-1", "--data", str(folder / "data"),
    )  # fmt: skip


def ask_by_command(folder: Path, context: FleetContext, *command: str) -> str:
    """What a command prints that asks the control plane."""
    (folder / "contexts.yaml").write_text(yaml.safe_dump({"current": "here", "contexts": {"here": asdict(context)}}))
    answer = CliRunner(env={"PODLANE_CONFIG": str(folder)}).invoke(main, command)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_published_changed_away_and_revoked(lab: Lab, tmp_path: Path, stack: ExitStack) -> None:
    pods = pods_on_node(lab, 2)
    shop, other = pods.pods
    agents = stack.enter_context(agents_to_end(tmp_path))
    plane = start_plane(tmp_path)
    stack.callback(lambda: plane.process.kill())
    context = FleetContext(f"http://127.0.0.1:{plane.port}", plane.token, "default")
    client = FleetClient(context)
    client.ask("PUT", client.about("clusters", "east"))
    tokens = client.about("clusters", "east", "join-tokens")
    token = client.ask("POST", tokens, {"node": "node-1"})["token"]
    agents.append(join(tmp_path, pods, plane, token))

    publish(context, "7Mbit")
    until_ceil(shop, "7Mbit")
    until_in_force(context)
    assert "htb" not in other.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    publish(context, "8Mbit")
    until_ceil(shop, "8Mbit")
    until_in_force(context)

    asked = partial(ask_by_command, tmp_path, context)
    held = asked("workloads", "get", "shop", "--node", "node-1", "-o", "yaml")
    assert yaml.safe_load(held)["policy"]["classes"][0]["ceil"] == "8Mbit"
    assert "class web" in asked("workloads", "get", "shop", "--node", "node-1")
    assert json.loads(asked("workloads", "list", "--node", "node-1", "-o", "json"))["workloads"] is not None
    assert asked("workloads", "list", "--node", "node-1", "shop").startswith("WORKLOAD")
    assert "1 programmed" in asked("agents", "diagnose", "node-1")

    # The control plane goes, then the agent without a word, and the node starts anew.
    plane.stop()
    assert agents[-1].stop(signal.SIGKILL) < 0
    shop.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    agents.append(join(tmp_path, pods, plane, token))
    until_ceil(shop, "8Mbit")

    # It is back, and so is the agent, by the certificate that it has.
    plane = start_plane(tmp_path, plane.port, plane.agents_port)
    publish(context, "9Mbit")
    until_ceil(shop, "9Mbit")
    until_in_force(context)

    # Who is revoked keeps what it has and is told nothing more.
    client = FleetClient(context)
    client.ask("DELETE", client.about("clusters", "east", "agents", "node-1"))
    until("its end", lambda: "it was revoked" in agents[-1].get("/healthz"))
    publish(context, "5Mbit")
    told = agents[-1].log.read_text().count("the control plane desires")
    assert agents[-1].stop() == 0
    agents.append(join(tmp_path, pods, plane, token))
    until("a refusal", lambda: "it was revoked" in agents[-1].get("/healthz"))
    assert agents[-1].log.read_text().count("the control plane desires") == told
    classes = shop.run(["tc", "class", "show", "dev", "eth0"]).stdout
    assert "ceil 9Mbit" in classes
    assert "ceil 5Mbit" not in classes
    plane.stop()
