"""A real ``podlane agent`` process, and Pods on its node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml
from waiting import until

from podlane.netns import Host, Lab, VethPair


@dataclass(frozen=True)
class PodsOnNode:
    """Pods behind a node (a router), and a server behind it."""

    pods: tuple[Host, ...]
    links: tuple[VethPair, ...]
    server: Host
    server_link: VethPair

    @property
    def server_ipv4(self) -> str:
        return str(self.server_link.a.ipv4)


def pods_on_node(lab: Lab, count: int) -> PodsOnNode:
    """Each Pod has an eth0 that leads to the node."""
    sysctls = {"net.ipv4.tcp_congestion_control": "reno"}
    node, server = lab.host("node", forward=True), lab.host("server", sysctls=sysctls)
    pods = tuple(lab.host(f"pod{i}", sysctls=sysctls) for i in range(count))
    links = tuple(lab.link(pod, "eth0", node, f"pod{i}", gateway=True) for i, pod in enumerate(pods))
    return PodsOnNode(pods, links, server, lab.link(server, "eth0", node, "server0", gateway=True))


def entry(pod: Host, policy: object, name: str = "") -> dict[str, object]:
    """A Pod's entry in a file of workloads."""
    return {"name": name or pod.namespace.name, "netns": pod.namespace.name, "policy": policy}


@dataclass(slots=True)
class RunningAgent:
    """A started agent; its log is in ``log``."""

    process: subprocess.Popen[bytes]
    file: Path
    log: Path
    port: int
    host: Host | None = None
    """Where it runs; None: in the tests' own network namespace."""

    def get(self, path: str) -> str:
        """What the admin server answers, whatever the status."""
        with inside(self.host), urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def workload(self, pod: Host | str) -> dict[str, Any]:
        """A Pod's entry in ``/workloads``; empty if there is none."""
        found = json.loads(self.get("/workloads"))["workloads"]
        return next((each for each in found if each["name"] == name_of(pod)), {})

    def classes(self, pod: Host | str) -> dict[str, dict[str, Any]]:
        """A Pod's ``/classes`` document by class name."""
        return {c["name"]: c for c in json.loads(self.get(f"/classes?workload={name_of(pod)}"))["classes"]}

    def until_state(self, pod: Host | str, state: str) -> dict[str, Any]:
        """Wait until a Pod's workload has a state."""
        return until(f"{name_of(pod)} {state}", lambda: (w := self.workload(pod)).get("state") == state and w)

    def until_in_force(self, pod: Host | str, policy: Mapping[str, Any]) -> None:
        """Wait until a Pod has the classes of a policy."""
        names = {each["name"] for each in policy["classes"]} | {"default"}
        until(
            f"the classes {names}",
            lambda: self.workload(pod).get("state") == "programmed" and self.classes(pod).keys() == names,
        )

    def write(self, *entries: Mapping[str, object]) -> None:
        """Name these workloads from now on."""
        write_workloads(self.file, *entries)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; gives its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def name_of(pod: Host | str) -> str:
    """A workload's name: that of a Pod here is its network namespace's, if the test has given it no other."""
    return pod if isinstance(pod, str) else pod.namespace.name


def write_workloads(path: Path, *entries: Mapping[str, object]) -> None:
    """Write the file in one step."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(yaml.safe_dump({"workloads": list(entries)}))
    fresh.replace(path)


def start_agent(
    folder: Path, *entries: Mapping[str, object], datapath: str = "step-aside", node: Host | None = None
) -> RunningAgent:
    """Start it with these workloads and wait until it knows them; fails with its log when it ends instead.

    Most tests are about what is in rules, or count connections. On a ``node`` it holds Pods at the node's end.
    """
    path = folder / "workloads.yaml"
    write_workloads(path, *entries)
    enforce = () if node is None else ("--enforce", "host")
    return launch_agent(folder, "--workloads", str(path), "--datapath", datapath, *enforce, host=node)


def inside(host: Host | None) -> AbstractContextManager[None]:
    """In its network namespace, if there is one."""
    return nullcontext() if host is None else host.namespace.entered()


def launch_agent(folder: Path, *options: str, host: Host | None = None) -> RunningAgent:
    """Start it with these options and wait until it knows its workloads; fails with its log when it ends instead."""
    log = folder / "agent.log"
    ready, theirs = os.pipe()
    options = (*options, "--state", str(folder / "state"), "--admin-port", str(free_port()))
    command = [sys.executable, "-m", "podlane", "agent", "--ready-fd", str(theirs), "--log-level", "debug", *options]
    if host is not None:
        command = host.namespace.command(command)
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, pass_fds=[theirs])
    os.close(theirs)
    with os.fdopen(ready) as pipe:
        port = pipe.readline()
    if not port.strip().isdecimal():
        process.kill()
        raise AssertionError(f"the agent ended with {process.wait(10)}, or has no admin port:\n{log.read_text()}")
    return RunningAgent(process, folder / "workloads.yaml", log, int(port), host)


@contextmanager
def agents_to_end(folder: Path) -> Iterator[list[RunningAgent]]:
    """Agents of a test that are added to the list end with the block, and what they have left goes; their logs are
    printed."""
    started: list[RunningAgent] = []
    try:
        yield started
    finally:
        for each in started:
            if each.process.poll() is None:
                each.stop(signal.SIGKILL)
            print(each.log.read_text())
        cleanup(folder, host=started[0].host if started else None)


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def cleanup(folder: Path, *, code: int = 0, host: Host | None = None) -> str:
    """``podlane agent --cleanup``; what it said, as it ended with this exit code."""
    command = [sys.executable, "-m", "podlane", "agent", "--cleanup", "--state", str(folder / "state")]
    if host is not None:
        command = host.namespace.command(command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr
