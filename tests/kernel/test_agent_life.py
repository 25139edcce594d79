"""The node agent killed at random moments while programs use their network, and one Pod that floods it."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import yaml
from agents import RunningAgent, cleanup, entry, pods_on_node, start_agent, write_workloads
from kills import POLICIES, watching, whole_state
from lab import connect
from waiting import until
from webserver import start_nginx

from podlane.netns import Host, Lab
from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

MOMENTS: Final = {"starting": 1.5, "running": 0.1, "changing": 0.4}
"""With the longest delay, in seconds: a little more than each takes."""
VICTIMS: Final = ("agent", "programs, too")
"""The second is what the kernel does to a container that is out of memory."""


@dataclass
class Requests:
    """Somebody who asks nginx without end; each request has a connection of its own. ``times``: seconds until the
    answer was whole, for each."""

    pod: Host
    address: str
    host: str
    times: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        head = f"GET /who HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode()
        while not self.over.is_set():
            began = time.monotonic()
            try:
                with connect(self.pod, self.address, 80) as server:
                    server.sendall(head)
                    answer = b""
                    while more := server.recv(4096):
                        answer += more
                if b" 200 OK\r\n" not in answer or f"|{self.host}|".encode() not in answer:
                    self.failures.append(repr(answer))
            except OSError as error:
                self.failures.append(str(error))
            self.times.append(time.monotonic() - began)


@contextmanager
def asking(pod: Host, address: str, host: str) -> Iterator[Requests]:
    """Ask during the block; fails if a request does."""
    requests = Requests(pod, address, host)
    thread = threading.Thread(target=requests.ask)
    thread.start()
    try:
        yield requests
    finally:
        requests.over.set()
        thread.join()
    assert requests.failures == [], f"{len(requests.failures)} of {len(requests.times)}"


@dataclass
class Target:
    """The agent of one Pod. ``complete``: the Pod's state with each policy."""

    pod: Host
    folder: Path
    complete: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    wanted: int = 0

    def want(self, number: int) -> None:
        write_workloads(self.folder / "workloads.yaml", entry(self.pod, yaml.safe_load(POLICIES[number])))
        self.wanted = number

    def start(self) -> None:
        options = ["--workloads", str(self.folder / "workloads.yaml"), "--state", str(self.folder / "state")]
        with (self.folder / "agent.log").open("ab") as log:
            # As start_agent(), whose state is what it is compared with.
            command = [
                sys.executable,
                "-m",
                "podlane",
                "agent",
                "--admin-port",
                "0",
                "--datapath",
                "step-aside",
                *options,
            ]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self, victim: str) -> None:
        assert self.process is not None
        if victim == "agent":
            self.process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def until_whole(self, which: str) -> None:
        """Wait until the wanted policy, and nothing else, is in force."""
        until(f"the whole policy {self.wanted}, {which}", lambda: whole_state(self.pod) == self.complete[self.wanted])


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(12, marks=pytest.mark.timeout(200)),
        pytest.param(100, marks=[pytest.mark.nightly, pytest.mark.timeout(1200)]),
    ],
)
def test_killed_at_any_moment_no_request_fails_and_the_next_start_makes_it_whole(
    topology: PodNodeServer, tmp_path: Path, count: int
) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    target = Target(topology.pod, tmp_path)
    untouched = whole_state(topology.pod)
    rng = random.Random(11)
    try:
        for number in range(len(POLICIES)):
            agent = start_agent(tmp_path, entry(topology.pod, yaml.safe_load(POLICIES[number])))
            agent.until_state(topology.pod, "programmed")
            target.complete.append(whole_state(topology.pod))
            agent.stop()
            cleanup(tmp_path)
        target.want(0)
        target.start()
        target.until_whole("at first")
        with watching(topology) as witness, asking(topology.pod, topology.server_ipv4, "a.example.com") as requests:
            for number in range(count):
                moment, victim = rng.choice(list(MOMENTS)), rng.choice(VICTIMS)
                delay = rng.uniform(0, MOMENTS[moment])
                if moment == "starting":
                    target.kill("agent")
                    target.start()
                elif moment == "changing":
                    target.want(1 - target.wanted)
                time.sleep(delay)  # the moment is what is tried; there is no event to wait for
                target.kill(victim)
                target.start()
                target.until_whole(f"after kill {number} ({moment}, {delay:.3f} s, {victim})")
        print(f"{len(requests.times)} requests, the longest took {max(requests.times):.3f} s")
        assert len(requests.times) > 10 * count
        assert witness.words
    finally:
        if target.process is not None:
            target.kill("programs, too")
        print((tmp_path / "agent.log").read_text()[-20_000:])
        cleanup(tmp_path)
    assert whole_state(topology.pod) == untouched


FLOOD: Final = 48
"""Connections at a time."""
ASKED: Final = 200
NAMED: Final = {
    "total": "1Gbit",
    "classes": [{"name": "named", "rate": "1Mbit", "ceil": "1Gbit", "match": {"host": "web.example.com"}}],
}


@pytest.mark.alone
def test_a_pod_that_opens_connections_without_end_delays_others_little(
    lab: Lab, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """All of them are to be read by the one thread of the agent. The other Pod's are read too, none goes by its port."""
    node = pods_on_node(lab, 2)
    flooding, other = node.pods
    start_nginx(node.server, tmp_path / "nginx")
    agent = start_agent(tmp_path, *(entry(pod, NAMED) for pod in node.pods))
    agents.append(agent)
    for pod in node.pods:
        agent.until_in_force(pod, NAMED)

    def seen(pod: Host) -> int:
        total: int = agent.classes(pod)["named"]["connections"]["total"]
        return total

    def times() -> list[float]:
        before = seen(other)
        with asking(other, node.server_ipv4, "web.example.com") as requests:
            until("enough answers", lambda: len(requests.times) >= ASKED, patience=60)
        assert seen(other) - before == len(requests.times), "each was read"
        return sorted(requests.times)

    calm = times()
    before, began = seen(flooding), time.monotonic()
    flood = flooding.popen(
        ["wrk", "-t1", f"-c{FLOOD}", "-d60", "-H", "Host: web.example.com", "-H", "Connection: close",
         f"http://{node.server_ipv4}/who"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until("a flood", lambda: seen(flooding) - before > 1000)
    busy = times()
    rate = (seen(flooding) - before) / (time.monotonic() - began)
    assert flood.poll() is None
    for name, each in (("calm", calm), (f"{rate:.0f} connections/s from the other Pod", busy)):
        print(
            f"{name}: half within {statistics.median(each) * 1e3:.1f} ms, 95 % within {each[-len(each) // 20] * 1e3:.1f} ms"
        )
    assert busy[-len(busy) // 20] < 1.0
