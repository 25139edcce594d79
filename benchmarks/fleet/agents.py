"""``python -m benchmarks.fleet.agents``: simulated agents in a process of their own, and when each did what.

A line of JSON each second. Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.admission.load import percentile
from daemon.descriptors import raise_descriptor_limit
from fleet_api.agent_pb2 import WorkloadState
from fleet_api.desired import DesiredState
from node_agent.fleet.fleet_settings import Address, FleetSettings
from node_agent.simulated.joining import join_all, node_names
from node_agent.simulated.simulated_agent import SimulatedAgent
from node_agent.simulated.swarm import AgentSwarm

FAILING: Final = "13Mbit"
"""A policy with this total fails on every hundredth agent."""
_KEPT: Final = 40
"""Revisions."""


class Ledger:
    """When agents applied revisions. Pure."""

    def __init__(self) -> None:
        self._applied: dict[int, list[float]] = {}
        self._known: dict[int, dict[str, float]] = {}
        self.failed: dict[int, float] = {}
        """When the first agent failed with a revision."""

    def told(self, revision: int, now: float) -> None:
        """Nothing to note: it counts from the commit."""

    def applied(self, revision: int, now: float) -> None:
        """One more has it."""
        self._applied.setdefault(revision, []).append(now)
        if len(self._applied) > _KEPT:
            del self._applied[min(self._applied)]

    def line(self, connected: int, agents: int) -> str:
        """Not for people."""
        return f"{connected}/{agents}"

    def revisions(self) -> dict[int, dict[str, float]]:
        """Of each revision how many have it, and when they had."""
        for revision, at in self._applied.items():
            if self._known.get(revision, {}).get("count") != len(at):
                values = percentile(at, 0.5), percentile(at, 0.99), max(at)
                self._known[revision] = {"count": len(at), **dict(zip(("p50", "p99", "last"), values, strict=True))}
        return {revision: self._known[revision] for revision in self._applied}


def fails(ledger: Ledger, node: str, state: DesiredState) -> WorkloadState | None:
    """Every hundredth agent cannot have a policy that is made to fail."""
    if not node.endswith("01"):
        return None
    for name, policy in state.policies.items():
        if FAILING in policy.document:
            ledger.failed.setdefault(state.revision, time.monotonic())
            return WorkloadState(workload="shop/web", state="refused", reason="made to fail", policy=name)
    return None


def main(arguments: Mapping[str, Any]) -> None:
    """``address`` is HOST:PORT, ``count`` the number of agents, ``tokens`` a file with join tokens, ``data`` a folder
    for their certificates; ``lanes``, if there are any, those of which they report."""
    host, _, port = str(arguments["address"]).rpartition(":")
    address = Address(host, int(port))
    settings = FleetSettings(
        addresses=(address,), data=Path(arguments["data"]), join_token=f"@{arguments['tokens']}", node=""
    )
    raise_descriptor_limit()
    began, cpu = time.monotonic(), time.process_time()
    credentials = trio.run(join_all, settings, arguments["count"])
    _say({"joined_s": time.monotonic() - began, "joined_cpu_s": time.process_time() - cpu})
    ledger = Ledger()
    swarm = AgentSwarm(
        [address],
        lambda line: _say({
            "at": time.monotonic(), "connected": swarm.connected, "said": line,
            "revisions": ledger.revisions(), "failed": ledger.failed,
        }),
    )  # fmt: skip
    swarm.tally = ledger
    swarm.lanes = arguments.get("lanes") or swarm.lanes
    swarm.fails = lambda node, state: fails(ledger, node, state)
    names = node_names(arguments["count"])
    swarm.agents = [SimulatedAgent(node, each, swarm) for node, each in zip(names, credentials, strict=True)]

    def end(*_: object) -> None:
        swarm.ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    swarm.run()


def _say(document: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
