"""``on-failure`` of the node agent: what new connections do while there is no agent, and when it is back."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from agents import PodsOnNode, RunningAgent, entry, pods_on_node, start_agent
from lab import connect, serving
from waiting import until
from webserver import start_nginx

from podlane.netns import Host, Lab

pytestmark = pytest.mark.root

POLICY: Final = {
    "total": "100Mbit",
    "classes": [
        {"name": "port", "rate": "1Mbit", "match": {"port": 7777}},
        {"name": "named", "rate": "1Mbit", "ceil": "4Mbit", "match": {"host": "web.example.com"}},
    ],
}


@pytest.fixture
def two(lab: Lab, tmp_path: Path) -> PodsOnNode:
    made = pods_on_node(lab, 2)
    start_nginx(made.server, tmp_path / "nginx")
    return made


def held(pod: Host, way: str) -> dict[str, object]:
    return {**entry(pod, POLICY), "on-failure": way}


def ask(pod: Host, two: PodsOnNode, *options: str) -> subprocess.Popen[Any]:
    """A request that has all the time of the world."""
    url = f"http://{two.server_ipv4}/who"
    command = ["curl", "-sS", "-f", "-H", "Host: web.example.com", *options, url]
    return pod.popen(command, stdout=subprocess.PIPE, text=True)


def answered(asking: subprocess.Popen[Any]) -> str:
    said, _ = asking.communicate(timeout=60)
    assert asking.returncode == 0
    return str(said)


def sends_again(pod: Host) -> bool:
    """Whether TCP sends data again that nobody acknowledges."""
    return "retrans:" in pod.run(["ss", "-tinH", "state", "established", "dport = :80"]).stdout


def bytes_sent(pod: Host) -> int:
    shown = pod.run(["tc", "-s", "class", "show", "dev", "eth0", "classid", "1:102"]).stdout
    found = re.search(r"Sent (\d+) bytes", shown)
    assert found is not None
    return int(found[1])


def test_without_an_agent_closed_waits_and_open_goes_by_port(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    closed, opened = two.pods
    entries = (held(closed, "closed"), held(opened, "open"))
    first = start_agent(tmp_path, *entries)
    agents.append(first)
    for pod in two.pods:
        first.until_in_force(pod, POLICY)
        assert answered(ask(pod, two)).startswith("|web.example.com|")
    body = tmp_path / "body"
    body.write_bytes(bytes(30_000_000))
    url = f"http://{two.server_ipv4}/f"
    upload = closed.popen(["curl", "-sS", "-f", "-T", str(body), "-H", "Host: web.example.com", url])
    until("an upload in its class", lambda: first.classes(closed)["named"]["bytes"] > 300_000)
    first.stop(signal.SIGKILL)

    asking = ask(closed, two)
    until("a request that is sent again and again", lambda: sends_again(closed))
    assert answered(ask(opened, two)).startswith("|web.example.com|"), "by port"
    with (
        serving(two.server, lambda client: client.sendall(b"there"), 7777),
        connect(closed, two.server_ipv4, 7777) as by_port,
    ):
        assert by_port.recv(5) == b"there", "no name decides this one"
    before = bytes_sent(closed)
    until("the upload that was decided goes on", lambda: bytes_sent(closed) > before + 300_000)
    assert asking.poll() is None, "nothing came back"

    again = start_agent(tmp_path, *entries)
    agents.append(again)
    assert answered(asking).startswith("|web.example.com|")
    assert again.classes(closed)["named"]["connections"]["by_protocol"] == {"http1": 1}, "in its lane"
    upload.kill()


def test_a_changed_mind_is_in_force_at_once(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    pod, other = two.pods
    agent = start_agent(tmp_path, held(pod, "open"), held(other, "closed"))
    agents.append(agent)
    agent.until_in_force(pod, POLICY)
    agent.until_in_force(other, POLICY)

    def waits(host: Host) -> bool:
        return "--queue-bypass" not in queue_rules(host)[0]

    def queue_rules(host: Host) -> list[str]:
        rules = host.run(["iptables-save", "-t", "mangle"]).stdout.splitlines()
        return [each for each in rules if "PODLANE-SHOW" in each and "NFQUEUE" in each]

    assert (waits(pod), waits(other)) == (False, True)
    agent.write(held(pod, "closed"), held(other, "open"))
    until("the other way", lambda: (waits(pod), waits(other)) == (True, False))
    for host in two.pods:
        agent.until_in_force(host, POLICY)
        assert answered(ask(host, two)).startswith("|web.example.com|")
    agent.write()
    until("the end", lambda: not queue_rules(pod) and not queue_rules(other))
    for host in two.pods:
        assert answered(ask(host, two)).startswith("|web.example.com|")
