"""The node agent in a Pod with a real Envoy that is set up as Istio's sidecar: what leaves the Pod has its class."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from agents import RunningAgent, cleanup, entry, start_agent
from ebpf_judge import require_programs
from istio_rules import Mode
from mesh_world import OUTSIDE, SERVICE, SERVICE_PORT, MeshWorld, meshed
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.covering]

POLICY = yaml.safe_load(f"""
total: 200Mbit
classes:
  - {{name: api, rate: 1Mbit, match: {{host: {SERVICE}, port: {SERVICE_PORT}}}}}
  - {{name: files, rate: 1Mbit, match: {{sni: {OUTSIDE}}}}}
  - {{name: web, rate: 1Mbit, match: {{host: {OUTSIDE}, port: 80}}}}
""")


DATAPATHS = pytest.mark.parametrize("datapath", ["step-aside", "ebpf"])


def start(world: MeshWorld, folder: Path, mesh: str, datapath: str) -> RunningAgent:
    if datapath == "ebpf":
        require_programs()
    agent = start_agent(
        folder, entry(world.topology.pod, POLICY) | {"mesh": mesh}, datapath="auto" if datapath == "ebpf" else datapath
    )
    agent.until_in_force(world.topology.pod, POLICY)
    assert agent.workload(world.topology.pod)["datapath"] == datapath
    return agent


def seen(agent: RunningAgent, world: MeshWorld) -> dict[str, dict[str, int]]:
    """How many connections each class has had, by protocol."""
    return {name: c["connections"]["by_protocol"] for name, c in agent.classes(world.topology.pod).items()}


def until_seen(agent: RunningAgent, world: MeshWorld, expected: dict[str, dict[str, int]]) -> None:
    """Wait until so many have been counted, and no others: what programs count is read once a second."""
    until(f"exactly {expected}", lambda: seen(agent, world) == expected)


ONCE = {"api": {"tls": 1}, "files": {"tls": 1}, "web": {"http1": 1}, "default": {}}


@DATAPATHS
@pytest.mark.parametrize("mode", Mode, ids=str)
def test_after_istio_what_envoy_sends_is_read_once(
    topology: PodNodeServer, tmp_path: Path, agents: list[RunningAgent], mode: Mode, datapath: str
) -> None:
    world = meshed(topology, tmp_path, mode)
    theirs = world.rules.saved()
    agents.append(start(world, tmp_path, "auto" if mode is Mode.AMBIENT else "istio", datapath))
    world.works()
    until_seen(agents[0], world, ONCE)
    assert world.rules.saved() == theirs
    assert agents[0].stop() == 0
    world.works()
    cleanup(tmp_path)
    assert world.rules.saved() == theirs
    world.works()


@DATAPATHS
@pytest.mark.parametrize("mode", [Mode.REDIRECT, Mode.TPROXY], ids=str)
def test_before_istio_and_through_its_restart(
    topology: PodNodeServer, tmp_path: Path, agents: list[RunningAgent], mode: Mode, datapath: str
) -> None:
    """The agent knows of a Pod before the Pod's init containers run."""
    world = meshed(topology, tmp_path, mode, rules=False)
    agents.append(start(world, tmp_path, "istio", datapath))
    world.rules.install()
    theirs = world.rules.saved()
    world.works()
    until_seen(agents[0], world, ONCE)
    world.envoy.restart()
    world.works()
    until_seen(agents[0], world, {"api": {"tls": 2}, "files": {"tls": 2}, "web": {"http1": 2}, "default": {}})
    assert world.rules.saved() == theirs


def test_at_the_nodes_end_programs_read_what_envoy_sends_and_receives(
    topology: PodNodeServer, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    require_programs()
    world = meshed(topology, tmp_path, Mode.REDIRECT)
    start_nginx(topology.pod, tmp_path / "app")
    of_clients = {"name": "own", "rate": "1Mbit", "match": {"host": "plain.example.com", "direction": "inbound"}}
    policy = POLICY | {"classes": [*POLICY["classes"], of_clients]}
    workload = entry(topology.pod, policy) | {"mesh": "istio"}
    agents.append(start_agent(tmp_path, workload, datapath="auto", node=topology.node))
    agents[0].until_in_force(topology.pod, policy)
    told = agents[0].workload(topology.pod)
    assert (told["datapath"], told["enforce"]) == ("ebpf", "host")
    world.works()
    until_seen(agents[0], world, ONCE | {"own": {}})
    resolve = f"plain.example.com:80:{topology.pod_link.a.ipv4}"
    topology.server.run(["curl", "-sSf", "--max-time", "15", "--resolve", resolve, "http://plain.example.com/who"])
    until_seen(agents[0], world, ONCE | {"own": {"http1": 1}})
