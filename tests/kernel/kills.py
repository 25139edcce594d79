"""Kill the sidecar at random moments, many times, and look at what is left each time.

    sudo env PYTHONPATH=tests .venv/bin/python tests/kernel/kills.py --count 200 --seed 1

A moment (while it starts, runs, puts a change in force, or ends), a victim (the proxy, its supervisor, or both) and a
delay are drawn for each; the same seed draws the same. After each kill the namespace must come to be complete or
exactly as it was before there was a sidecar: rules of both families, policy routes, traffic control. All the while a
connection that only the kernel sees says a word every few milliseconds and waits for the answer.
"""

from __future__ import annotations

import argparse
import difflib
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import connect, serving
from sidecars import ADMIN_PORT, children, state_of, stopped
from waiting import until

from podlane.netns.lab import Host, Lab
from podlane.netns.topology import PodNodeServer, pod_node_server

POLICIES = tuple(
    f"""
total: 100Mbit
classes:
  - {{name: port, rate: 1Mbit, ceil: {ceil}, match: {{port: [9000, {port}]}}}}
  - {{name: host, rate: 1Mbit, ceil: 50Mbit, match: {{host: {name}.example.com}}}}
  - {{name: mine, rate: 1Mbit, match: {{sni: {name}.example.com, direction: inbound}}}}
"""
    for ceil, port, name in (("80Mbit", 9001, "a"), ("60Mbit", 9002, "b"))
)
"""They differ in classes and in rules, and give the same ids."""
MOMENTS = {"starting": 1.0, "running": 0.1, "changing": 0.2, "ending": 0.3}
"""With the longest delay, in seconds: a little more than each takes."""
VICTIMS = ("proxy", "supervisor", "both")


def whole_state(pod: Host) -> str:
    """Everything there is, without what HTB counts: packets that came before there were filters."""
    return re.sub(r"direct_packets_stat \d+", "", state_of(pod))


@dataclass(frozen=True, slots=True)
class Kill:
    """``recovery``: seconds from the kill, or for those that need a next start from that, until all was well again."""

    number: int
    moment: str
    victim: str
    delay: float
    result: str
    recovery: float


@dataclass
class Target:
    """A Pod whose sidecar is killed. ``clean`` and ``complete``: its states without one, and with each policy."""

    pod: Host
    folder: Path
    clean: str = ""
    complete: list[str] = field(default_factory=list)
    wanted: int = 0
    process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Learn the states."""
        self.clean = whole_state(self.pod)
        for number in range(len(POLICIES)):
            self.want(number)
            self.start()
            self.until_ready()
            self.complete.append(whole_state(self.pod))
            self.end()
        assert whole_state(self.pod) == self.clean

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    def want(self, number: int) -> None:
        fresh = self.folder / "fresh.yaml"
        fresh.write_text(POLICIES[number])
        fresh.replace(self.policy)
        self.wanted = number

    def start(self) -> None:
        with (self.folder / "sidecar.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", "podlane", "sidecar", "--policy", str(self.policy)]
            self.process = self.pod.popen(command, stdout=log, stderr=log)

    def end(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def until_ready(self) -> None:
        until("a sidecar that is ready", self._ready)

    def _ready(self) -> bool:
        try:
            with connect(self.pod, "127.0.0.1", ADMIN_PORT, timeout=5) as admin:
                admin.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in admin.recv(100)
        except OSError:
            return False

    def kill(self, victim: str) -> None:
        """Kill it now, if it is there."""
        assert self.process is not None
        pid = self.process.pid
        if victim == "both":
            _send(pid, signal.SIGSTOP)  # so that it does not see the end of its proxy; see sidecars.stop
            until("a stopped supervisor", lambda: stopped(pid))
        proxies = children(pid)
        if victim != "supervisor":
            for proxy in proxies:
                _send(proxy, signal.SIGKILL)
        if victim != "proxy":
            _send(pid, signal.SIGKILL)
            self.process.wait(10)
        until("the victim's end", lambda: not any(_runs(each) for each in proxies))

    def kill_at(self, number: int, moment: str, victim: str, delay: float) -> Kill:
        """One kill, and what came of it. Raises AssertionError when something is left half-way."""
        if moment == "starting":
            self.end()
            self.start()
        elif moment == "changing":
            self.want(1 - self.wanted)
        elif moment == "ending":
            assert self.process is not None
            self.process.terminate()
        time.sleep(delay)  # the moment is what is tried; there is no event to wait for
        began = time.monotonic()
        self.kill(victim)
        result = "complete"
        assert self.process is not None
        if moment == "ending" and victim == "proxy":
            assert self.process.wait(60) == 0
            recovery = time.monotonic() - began
            assert whole_state(self.pod) == self.clean, f"{number}: something is left"
            result = "as before"
            self.start()
            self.until_ready()
        elif victim == "proxy":
            self.until_ready()
            recovery = time.monotonic() - began
        else:
            began = time.monotonic()
            self.start()
            self.until_ready()
            recovery = time.monotonic() - began
        self._until_settled(f"kill {number} ({victim}, {moment}, {delay:.3f} s)")
        return Kill(number, moment, victim, delay, result, recovery)

    def _until_settled(self, which: str) -> None:
        """A change that was made just before the kill is read by the next start, or a moment later."""
        wanted = self.complete[self.wanted]
        try:
            until("the wanted state", lambda: whole_state(self.pod) == wanted)
        except AssertionError:
            found = whole_state(self.pod).splitlines()
            difference = "\n".join(difflib.unified_diff(wanted.splitlines(), found, n=0, lineterm=""))
            raise AssertionError(f"after {which}:\n{difference}\n{self._said()}") from None

    def _said(self) -> str:
        return "\n".join((self.folder / "sidecar.log").read_text().splitlines()[-15:])


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Witness:
    """A connection on the kernel's way alone. ``longest``: seconds, the longest time that an answer took."""

    client: socket.socket
    longest: float = 0.0
    words: int = 0
    failure: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def talk(self) -> None:
        try:
            while not self._stop.wait(0.005):
                began = time.monotonic()
                self.client.sendall(b"word")
                if self.client.recv(4, socket.MSG_WAITALL) != b"word":
                    self.failure = "the connection ended"
                    return
                self.longest = max(self.longest, time.monotonic() - began)
                self.words += 1
        except OSError as error:
            self.failure = str(error)


@contextmanager
def watching(topology: PodNodeServer) -> Iterator[Witness]:
    """Somebody talks, all the while, on a connection that is no business of the proxy's; fails if it breaks."""

    def echo(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(data)

    with serving(topology.server, echo, port=9000), connect(topology.pod, topology.server_ipv4, 9000) as client:
        witness = Witness(client)
        thread = threading.Thread(target=witness.talk)
        thread.start()
        try:
            yield witness
        finally:
            witness._stop.set()
            thread.join()
        assert not witness.failure, witness.failure


def kills(target: Target, count: int, seed: int) -> Iterator[Kill]:
    """Kill a target so many times."""
    rng = random.Random(seed)
    target.want(0)
    target.start()
    target.until_ready()
    for number in range(1, count + 1):
        moment = rng.choice(list(MOMENTS))
        yield target.kill_at(number, moment, rng.choice(VICTIMS), rng.uniform(0, MOMENTS[moment]))
    assert target.end() == 0
    assert whole_state(target.pod) == target.clean


def report(done: Sequence[Kill]) -> str:
    """Figures for people."""
    lines = []
    for victim in VICTIMS:
        times = sorted(kill.recovery for kill in done if kill.victim == victim)
        if times:
            lines.append(
                f"{victim:<10} {len(times):>4} kills, recovery median {statistics.median(times):.2f} s, max {times[-1]:.2f} s"
            )
    for moment in MOMENTS:
        lines.append(f"{moment:<10} {sum(kill.moment == moment for kill in done):>4} kills")
    return "\n".join(lines)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    done = []
    with Lab("kills") as lab, TemporaryDirectory() as folder:
        topology = pod_node_server(lab)
        target = Target(topology.pod, Path(folder))
        target.prepare()
        with watching(topology) as witness:
            for kill in kills(target, options.count, options.seed):
                done.append(kill)
                print(kill, flush=True)
        print(report(done))
        print(f"kernel-only connection: {witness.words} answers, the longest took {witness.longest * 1000:.0f} ms")


if __name__ == "__main__":
    main()
