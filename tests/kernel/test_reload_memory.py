"""The memory of a sidecar whose large policy changes again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidecars import RunningSidecar, children, start_sidecar

from podlane.netns.topology import PodNodeServer

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

DATAPATHS = {"relay": [], "workers": ["--workers", "2"], "step-aside": ["--datapath", "step-aside"]}
CLASSES, NAMES = 253, 20
FEW, MANY = 16, 200
"""Reloads: each time, and at night."""
WARM = 10
"""Reloads after which the heap has room for the old policy and the new one."""
GROWTH_MIB = 8
"""Of all processes together. Reloads that stayed in memory took 4 MiB each."""


def variants(*each_time: str) -> pytest.MarkDecorator:
    """Some datapaths with few reloads each time, all of them with many at night: a processor works all the while."""
    few = [pytest.param(name, FEW) for name in each_time]
    many = [pytest.param(name, MANY, marks=pytest.mark.nightly) for name in DATAPATHS]
    return pytest.mark.parametrize(("datapath", "reloads"), [*few, *many])


def policy(number: int) -> str:
    """A policy of 5,060 names. No two of them have a name in common."""
    lines = ["total: 1Gbit", "classes:"]
    for each in range(CLASSES):
        names = ", ".join(f"{{host: h{each}-{name}-{number}.example.com}}" for name in range(NAMES))
        lines.append(f"  - {{name: c{each}, rate: 1Mbit, ceil: {10 + number % 2}Mbit, match: [{names}]}}")
    return "\n".join(lines)


def memory(sidecar: RunningSidecar) -> float:
    """Proportional memory of all its processes in MiB (proc(5), Pss of smaps_rollup)."""
    pids = [sidecar.process.pid]
    for pid in pids:
        pids += children(pid)

    def lines() -> Iterator[str]:
        for pid in pids:
            yield from Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()

    return sum(int(line.split()[1]) for line in lines() if line.startswith("Pss:")) / 1024


def reload_again(sidecar: RunningSidecar, reloads: int, answer: str) -> None:
    """Change the policy so many times, and fail if memory grows."""
    used, took = [], []
    for number in range(1, reloads + 1):
        began = time.monotonic()
        assert answer in sidecar.change(policy(number))
        took.append(time.monotonic() - began)
        used.append(memory(sidecar))
    print(f"\n{[round(each) for each in used]} MiB, {sorted(took)[reloads // 2]:.2f} s for each")
    assert min(used[-3:]) - min(used[WARM - 3 : WARM]) < GROWTH_MIB


@variants("workers", "step-aside")
def test_reloads_leave_nothing_in_memory(topology: PodNodeServer, tmp_path: Path, datapath: str, reloads: int) -> None:
    sidecar = start_sidecar(topology.pod, policy(0), tmp_path, *DATAPATHS[datapath], watch=True)
    reload_again(sidecar, reloads, "policy in force")
    assert sidecar.stop() == 0


@variants("relay")
def test_reloads_that_fail_leave_nothing_in_memory(
    topology: PodNodeServer, tmp_path: Path, datapath: str, reloads: int
) -> None:
    """Their errors come from another thread, with tracebacks that keep what was tried."""
    sidecar = start_sidecar(topology.pod, policy(0), tmp_path, *DATAPATHS[datapath], watch=True)
    for change in (["down"], ["name", "elsewhere"]):
        topology.pod.run(["ip", "link", "set", "eth0", *change])
    reload_again(sidecar, reloads, "the new policy is not used")
    sidecar.stop()
