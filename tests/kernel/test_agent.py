"""The node agent: lanes in several network namespaces by one process, and what becomes of them when it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, cleanup, entry, start_agent
from sidecars import enforced, start_sidecar, state_of
from waiting import until
from webserver import WebServer, start_nginx

from podlane.netns import Host

pytestmark = pytest.mark.root


def named(name: str, ceil: str = "4Mbit") -> dict[str, Any]:
    """A policy with one class, for the host web.example.com."""
    return {
        "total": "100Mbit",
        "classes": [{"name": name, "rate": "1Mbit", "ceil": ceil, "match": {"host": "web.example.com"}}],
    }


@pytest.fixture(name="web")
def _web(two: PodsOnNode, tmp_path: Path) -> WebServer:
    return start_nginx(two.server, tmp_path / "nginx")


def ask(pod: Host, two: PodsOnNode) -> str:
    url = f"http://{two.server_ipv4}/who"
    return pod.run(["curl", "-sS", "-f", "--max-time", "10", "-H", "Host: web.example.com", url]).stdout


def upload(pod: Host, two: PodsOnNode, body: Path, size: int) -> subprocess.Popen[bytes]:
    body.write_bytes(random.Random(3).randbytes(size))
    return pod.popen(
        ["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", f"http://{two.server_ipv4}/f"]
    )


@pytest.mark.usefixtures("web")
def test_each_pod_has_its_own_lanes(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, other = two.pods
    agent = start_agent(tmp_path, entry(one, named("a")), entry(other, named("b")))
    agents.append(agent)
    for pod, name in ((one, "a"), (other, "b")):
        agent.until_in_force(pod, named(name))
        assert ask(pod, two).startswith("|web.example.com|")
        assert agent.classes(pod)[name]["connections"]["by_protocol"] == {"http1": 1}
        until("its bytes", lambda p=pod, n=name: agent.classes(p)[n]["bytes"] > 0)
    assert agent.get("/readyz") == "ready\n"
    assert agent.get("/healthz") == "ok\n"
    metrics = agent.get("/metrics")
    assert 'podlane_agent_workloads{state="programmed"} 2.0' in metrics
    labels = f'namespace="",pod="{other.namespace.name}",class="b"'
    assert f'podlane_connections_total{{{labels},protocol="http1"}} 1.0' in metrics
    assert f"podlane_class_guaranteed_bits_per_second{{{labels}}} 1000000.0" in metrics
    top = [sys.executable, "-m", "podlane", "top", "--admin", str(agent.port), "--workload"]
    shown = subprocess.run([*top, other.namespace.name, "--once"], capture_output=True, text=True, check=True).stdout
    assert other.namespace.name in shown
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["class", "b", "default"]
    every = [*top[:-1], "--node", "--json", "--count", "1"]
    document = json.loads(subprocess.run(every, capture_output=True, text=True, check=True).stdout)
    rows = {(each["workload"], each["name"]): each for each in document["classes"]}
    names = (one.namespace.name, other.namespace.name)
    assert sorted(rows) == sorted([(names[0], "a"), (names[0], "default"), (names[1], "b"), (names[1], "default")])
    assert rows[names[0], "a"]["rate_bits_per_second"] == 1_000_000
    gone = subprocess.run([*top, "gone", "--once"], capture_output=True, text=True, check=False)
    assert gone.returncode == 1
    assert "There is no workload gone here" in gone.stderr


def test_a_changed_policy_is_in_force_on_live_connections(
    two: PodsOnNode, web: WebServer, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    agent = start_agent(tmp_path, entry(one, named("slow")), entry(other, named("b")))
    agents.append(agent)
    agent.until_in_force(one, named("slow"))
    sending = upload(one, two, tmp_path / "body", 8_000_000)
    until("a slow upload", lambda: agent.classes(one)["slow"]["bytes"] > 300_000)
    agent.write(entry(one, named("fast", "80Mbit")), entry(other, named("b")))
    until("the new class", lambda: "fast" in agent.classes(one))
    until("the upload in it", lambda: agent.classes(one)["fast"]["bytes"] > 3_000_000)
    assert sending.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


def test_a_killed_agent_is_missed_by_nobody_and_the_next_one_adopts(
    two: PodsOnNode, web: WebServer, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    entries = (entry(one, named("up")), entry(other, named("b")))
    first = start_agent(tmp_path, entry(one, named("gone")), entries[1])
    agents.append(first)
    first.until_in_force(one, named("gone"))
    first.write(*entries)  # so that class ids are not those of a fresh policy
    first.until_in_force(one, named("up"))
    first.until_state(other, "programmed")
    sending = upload(one, two, tmp_path / "body", 30_000_000)
    until("a slow upload", lambda: first.classes(one)["up"]["bytes"] > 300_000)
    before = [state_of(pod) for pod in two.pods]
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    assert [state_of(pod) for pod in two.pods] == before, "lanes stay"
    assert ask(other, two).startswith("|web.example.com|")
    again = start_agent(tmp_path, *entries)
    agents.append(again)
    again.until_in_force(one, named("up"))
    again.until_state(other, "programmed")
    assert [state_of(pod) for pod in two.pods] == before, "nothing was written that was there"
    counted = again.classes(one)["up"]["bytes"]
    until("the old upload in its class", lambda: again.classes(one)["up"]["bytes"] > counted + 100_000)
    ask(other, two)
    assert again.classes(other)["b"]["connections"]["total"] == 1
    again.write(entry(one, named("up", "90Mbit")), entries[1])
    assert sending.wait(30) == 0
    assert (web.root / "f").read_bytes() == (tmp_path / "body").read_bytes()


@pytest.mark.parametrize(
    "damage", ["iptables -t mangle -F PODLANE-CLASSES", "ip6tables -t mangle -F", "tc qdisc del dev eth0 root"]
)
def test_what_was_removed_while_there_was_no_agent_is_put_back(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent], damage: str
) -> None:
    one, _ = two.pods
    agents.append(start_agent(tmp_path, entry(one, named("a"))))
    agents[0].until_in_force(one, named("a"))
    before = enforced(one)
    agents[0].stop(signal.SIGKILL)
    one.run(damage.split())
    assert enforced(one) != before
    agents.append(start_agent(tmp_path, entry(one, named("a"))))
    until("all of it again", lambda: enforced(one) == before)


def test_sigterm_leaves_the_lanes_and_cleanup_leaves_nothing(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    untouched = [state_of(pod) for pod in two.pods]
    agent = start_agent(tmp_path, *(entry(pod, named("a")) for pod in two.pods))
    agents.append(agent)
    for pod in two.pods:
        agent.until_in_force(pod, named("a"))
    before = [state_of(pod) for pod in two.pods]
    said = cleanup(tmp_path, code=1)
    assert "Lanes are left in 2 network namespaces" in said, "an agent works in them"
    assert agent.stop() == 0
    assert [state_of(pod) for pod in two.pods] == before != untouched
    assert "removed from 2 network namespaces" in cleanup(tmp_path)
    assert [state_of(pod) for pod in two.pods] == untouched
    assert "removed from 0 network namespaces" in cleanup(tmp_path)


def test_what_is_named_no_more_is_removed_also_if_no_agent_ran_meanwhile(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    untouched = [state_of(pod) for pod in two.pods]
    agent = start_agent(tmp_path, entry(one, named("a")), entry(other, named("b")))
    agents.append(agent)
    agent.until_state(one, "programmed")
    agent.until_state(other, "programmed")
    agent.write(entry(other, named("b")))
    until("the end of its lanes", lambda: not agent.workload(one) and state_of(one) == untouched[0])
    agent.stop(signal.SIGKILL)
    agents.append(start_agent(tmp_path))
    until("the end of the other's", lambda: state_of(other) == untouched[1])


def connect(pod: Host) -> None:
    """Give it an interface, which leads nowhere."""
    pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    pod.ip("address", "add", "10.9.9.1/24", "dev", "eth0")
    pod.ip("link", "set", "peer0", "up")
    pod.ip("link", "set", "eth0", "up")
    pod.ip("route", "add", "default", "via", "10.9.9.2")


def test_an_interface_that_goes_is_waited_for(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """The network of a Pod that ends goes a moment before its namespace: that is no failure."""
    one, _ = two.pods
    agent = start_agent(tmp_path, entry(one, named("a")))
    agents.append(agent)
    agent.until_in_force(one, named("a"))
    for _ in range(2):
        one.ip("link", "delete", "eth0")
        assert "eth0" in agent.until_state(one, "waiting")["reason"]
        assert agent.get("/readyz") == "ready\n"
        connect(one)
        agent.until_state(one, "programmed")
        assert enforced(one)
    agent.stop(signal.SIGKILL)
    one.ip("link", "delete", "eth0")
    agents.append(start_agent(tmp_path, entry(one, named("a"))))
    until("the reason", lambda: "default route" in agents[-1].workload(one)["reason"])
    assert list((tmp_path / "state").glob("*.json"))
    agents[-1].write()
    until("the end of what was noted", lambda: not list((tmp_path / "state").glob("*.json")))
    assert all(word not in enforced(one) for word in ("TPROXY", "NFQUEUE", "PODLANE"))


def test_a_namespace_that_goes_is_let_go_and_one_that_comes_gets_its_lanes(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, _ = two.pods
    agent = start_agent(tmp_path, entry(one, named("a")))
    agents.append(agent)
    agent.until_in_force(one, named("a"))
    inode = os.stat(one.namespace.path).st_ino
    at_rest: list[int] = []
    for _ in range(3):
        one.namespace.delete()
        agent.until_state(one, "waiting")
        until("the end of the namespace", lambda i=inode: str(i) not in subprocess.getoutput("lsns --type net --raw"))
        at_rest.append(len(os.listdir(f"/proc/{agent.process.pid}/fd")))
        one.namespace.create()
        connect(one)
        agent.until_in_force(one, named("a"))
        inode = os.stat(one.namespace.path).st_ino
    assert len(set(at_rest)) == 1, "descriptors of namespaces that are gone"


def test_a_wrong_policy_is_told_and_concerns_nobody_else(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    one, other = two.pods
    agent = start_agent(tmp_path, entry(one, named("a") | {"requests": "follow"}), entry(other, named("b")))
    agents.append(agent)
    refused = agent.until_state(one, "refused")
    assert "podlane.io/mode: sidecar" in refused["reason"]
    agent.until_state(other, "programmed")
    assert agent.get("/readyz") == "ready\n"
    assert f"{one.namespace.name}: " in agent.get("/healthz")
    agent.write(entry(one, named("a")), entry(other, {"total": "none"}))
    agent.until_in_force(one, named("a"))
    still = until("the reason", lambda: (w := agent.workload(other))["reason"] and w)
    assert still["state"] == "programmed"
    assert "What was in force stays so" in still["reason"]
    assert agent.classes(other).keys() == {"b", "default"}


def test_a_pod_with_a_sidecar_is_left_to_it(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, other = two.pods
    (tmp_path / "sidecar").mkdir()
    policy = "total: 50Mbit\nclasses: [{name: theirs, rate: 1Mbit, match: {host: web.example.com}}]"
    sidecar = start_sidecar(one, policy, tmp_path / "sidecar")
    before = state_of(one)
    agent = start_agent(tmp_path, entry(one, named("a")), entry(other, named("b")))
    agents.append(agent)
    agent.until_state(other, "programmed")
    failed = agent.until_state(one, "failed")
    assert "already works in this network namespace" in failed["reason"]
    assert state_of(one) == before
    assert sidecar.stop() == 0
    agent.until_in_force(one, named("a"))


def test_what_another_program_removes_is_put_back(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    one, _ = two.pods
    agent = start_agent(tmp_path, entry(one, named("a")))
    agents.append(agent)
    agent.until_in_force(one, named("a"))
    before = enforced(one)
    one.run(["iptables", "-t", "mangle", "-F"])
    one.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    until("all of it again", lambda: enforced(one) == before)
    until("the count", lambda: 'part="rules"} 1.0' in agent.get("/metrics"))
