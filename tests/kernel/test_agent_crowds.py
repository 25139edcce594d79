"""The node agent with many workloads: a node full of them, and a node on which they come and go."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from agents import RunningAgent, entry, pods_on_node, start_agent
from lab import connect, serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from uploads import http_upload, pushing, receiving, tls_hello
from waiting import until

from podlane.netns import Host, Lab

pytestmark = [pytest.mark.root, pytest.mark.measure]

BULK: Final = 9000
"""A port that decides by itself."""
LANES: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "video": (6, {"host": "video.example.com"}),
    "api": (2, {"host": "*.api.example.com"}),
    "secret": (5, {"sni": "secret.example.com"}),
    "files": (3, {"sni": "*.files.example.com"}),
    "bulk": (4, {"port": BULK}),
}
"""Classes: ceil in Mbit/s, and match."""
BEGINNINGS: Final = {
    "video": http_upload("video.example.com"),
    "api": http_upload("v1.api.example.com"),
    "secret": tls_hello("secret.example.com"),
    "files": tls_hello("a.files.example.com"),
    "bulk": b"without a name",
}
POLICY: Final = {
    "total": "100Mbit",
    "classes": [
        {"name": name, "rate": "500kbit", "ceil": f"{ceil}Mbit", "match": match}
        for name, (ceil, match) in LANES.items()
    ],
}


def memory_of(agent: RunningAgent) -> float:
    """Its share of the memory in MiB (Pss of smaps_rollup, proc(5))."""
    lines = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def processor_of(agent: RunningAgent) -> float:
    """Seconds of processor that it has had, with the programs that it has run."""
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def uploaded(pod: Host, server: Host, address: str, names: list[str]) -> dict[str, float]:
    """What arrives in these lanes of a Pod, all at the same time, as a share of what headers leave of their ceil."""
    meters = {name: Meter(3) for name in names}
    with ExitStack() as stack:
        for name, meter in meters.items():
            port = stack.enter_context(serving(server, receiving(meter), port=BULK if name == "bulk" else 0))
            stack.enter_context(pushing(connect(pod, address, port), BEGINNINGS[name]))
        return {name: meter.megabits / (LANES[name][0] * PAYLOAD_SHARE) for name, meter in meters.items()}


@pytest.mark.parametrize(
    "count", [16, pytest.param(250, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])], ids=str
)
def test_a_full_node_holds_every_class_of_every_pod(
    lab: Lab, tmp_path: Path, agents: list[RunningAgent], count: int
) -> None:
    """Five classes by SNI, Host and port each. The lanes of the first Pod, of one in the middle and of the last are
    measured."""
    node = pods_on_node(lab, count)
    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY))
    began = time.monotonic()
    agent = start_agent(tmp_path, *(entry(pod, "policy.yaml") for pod in node.pods))
    agents.append(agent)
    until("lanes for all", lambda: f'state="programmed"}} {count}.0' in agent.get("/metrics"), patience=300)
    took = time.monotonic() - began
    print(f"{count} workloads: {took:.1f} s, processor {processor_of(agent):.1f} s, memory {memory_of(agent):.0f} MiB")
    assert agent.get("/readyz") == "ready\n"
    for pod in (node.pods[0], node.pods[count // 2], node.pods[-1]):
        best = dict.fromkeys(LANES, 0.0)
        for _ in range(ATTEMPTS):
            slow = [name for name, share in best.items() if share < 0.95]
            if not slow:
                break
            measured = uploaded(pod, node.server, node.server_ipv4, slow)
            print(pod.short_name, {name: f"{share:.3f}" for name, share in measured.items()})
            assert max(measured.values()) <= 1.05
            best |= measured
        assert min(best.values()) >= 0.95, f"not within 5 % of the ceil in {ATTEMPTS} attempts: {best}"
        seen = {name: agent.classes(pod)[name]["connections"]["total"] for name in LANES if name != "bulk"}
        assert all(seen.values()), "each was read, and decided"
    assert memory_of(agent) < 60 + 0.5 * count


PER_SECOND: Final = 20
MOST: Final = 60
"""Living at once: on a machine that is too slow for so many each second there are fewer, and memory can be compared."""
IDLE_THREADS: Final = 10
"""Trio keeps others for ten seconds after a blocking call."""
LINE: Final = re.compile(r"^(\S+Z) \[\S+ *\] lanes in force +.*workload=(\S+)", re.MULTILINE)


class Crowd:
    """Network namespaces that come and go, with an eth0 each, and the agent's file of those that there are."""

    def __init__(self, agent: RunningAgent) -> None:
        self.agent = agent
        self.came: dict[str, float] = {}
        """When each was there, in seconds of the epoch; by its name."""
        self.held: dict[str, float] = {}
        """When each had its lanes."""
        self.named: list[str] = []
        """In the agent's file."""
        self._read = 0

    def come(self, name: str) -> None:
        """Make one, and name it to the agent."""
        ip(f"netns add {name}", f"link add eth0 netns {name} type veth peer name peer0 netns {name}")
        self.came[name] = time.time()
        self.named.append(name)
        self.tell()

    def tell(self) -> None:
        """Write the agent's file. JSON is YAML, and written in a moment."""
        entries = [{"name": n, "netns": n, "interface": "eth0", "policy": "policy.yaml"} for n in self.named]
        fresh = self.agent.file.with_suffix(".fresh")
        fresh.write_text(json.dumps({"workloads": entries}))
        fresh.replace(self.agent.file)

    def look(self) -> None:
        """Read on in the agent's log."""
        with self.agent.log.open() as log:
            log.seek(self._read)
            text = log.read()
        text = text[: text.rfind("\n") + 1]
        self._read += len(text)
        for at, name in LINE.findall(text):
            self.held.setdefault(name, datetime.fromisoformat(at).timestamp())

    def clear(self) -> None:
        """End those that are left."""
        names = {path.name for path in Path("/run/netns").glob(f"crowd-{os.getpid()}-*")}
        if names:
            ip(*(f"netns delete {name}" for name in names))


def ip(*lines: str) -> None:
    """Run ``ip`` for all of them."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def sockets_of(agent: RunningAgent) -> int:
    """How many sockets and network namespaces it holds."""
    folder = f"/proc/{agent.process.pid}/fd"
    kinds = []
    for each in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed since
            kinds.append(os.readlink(f"{folder}/{each}").partition(":")[0])
    return len([kind for kind in kinds if kind == "socket" or "/ns" in kind or kind == "net"])


@pytest.mark.parametrize(
    "count", [100, pytest.param(1200, marks=[pytest.mark.nightly, pytest.mark.timeout(900)])], ids=str
)
def test_workloads_come_and_go_and_leave_nothing(
    tmp_path: Path, agents: list[RunningAgent], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Twenty each second. Each lives until it is held; every fifth goes at once, in the middle of that."""
    monkeypatch.setenv("PYTHONMALLOC", "malloc")  # as in the image
    (tmp_path / "policy.yaml").write_text(json.dumps(POLICY))
    agent = start_agent(tmp_path)
    agents.append(agent)
    sockets = sockets_of(agent)
    crowd = Crowd(agent)
    names = [f"crowd-{os.getpid()}-{i}" for i in range(count)]
    first, rest = names[: count // 5], names[count // 5 :]
    hasty = set(names[::5])
    try:
        _come_and_go(crowd, first, hasty)
        memory, used, began = memory_of(agent), processor_of(agent), time.monotonic()
        _come_and_go(crowd, rest, hasty)
        more, used, took = memory_of(agent) - memory, processor_of(agent) - used, time.monotonic() - began
    finally:
        crowd.clear()
    waits = sorted(crowd.held[name] - crowd.came[name] for name in rest if name not in hasty)
    print(
        f"{len(rest) / took:.1f} each second; from the network namespace to lanes half within "
        f"{waits[len(waits) // 2]:.3f} s, 99 % within {waits[len(waits) * 99 // 100]:.3f} s; processor for each "
        f"{used / len(rest) * 1e3:.0f} ms; memory after {len(first)} {memory:.1f} MiB, after all {more:.1f} more"
    )
    assert more < 16
    until("as many sockets as at first", lambda: sockets_of(agent) == sockets)
    threads = f"/proc/{agent.process.pid}/task"
    until("the end of threads that have nothing to do", lambda: len(os.listdir(threads)) <= IDLE_THREADS, patience=60)
    assert os.listdir(tmp_path / "state") == []


def _come_and_go(crowd: Crowd, names: list[str], hasty: set[str]) -> None:
    """Let these come, 20 each second, and go when they are held; until the agent has forgotten them."""
    left = list(names)
    living: list[str] = []
    began = time.monotonic()

    def turn() -> bool:
        nonlocal living
        due = began + (len(names) - len(left)) / PER_SECOND
        if left and len(living) < MOST and time.monotonic() >= due:
            name = left.pop(0)
            crowd.come(name)
            living.append(name)
        crowd.look()
        gone = [name for name in living if name in crowd.held or (name in hasty and len(living) > 1)]
        for i, name in enumerate(gone):
            ip(f"netns delete {name}")  # the namespace goes first, or the entry in the file
            crowd.named.remove(name)
            if i % 2:
                crowd.tell()
        if gone:
            crowd.tell()
            living = [name for name in living if name not in gone]
        return not (left or living)

    until("all to have come and gone", turn, patience=30 + len(names))
    until("the end of all", lambda: json.loads(crowd.agent.get("/workloads"))["workloads"] == [], patience=60)
    until("nothing to be noted", lambda: not list((crowd.agent.file.parent / "state").glob("*.json")), patience=60)
