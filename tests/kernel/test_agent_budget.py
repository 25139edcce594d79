"""A budget that Pods of a node share: what they send together is held to it, and goes to those that want it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, entry, launch_agent, pods_on_node, start_agent
from ebpf_judge import require_programs
from lab import connect, serving
from meter import ATTEMPTS, PAYLOAD_SHARE, Meter
from uploads import pushing
from waiting import until

from podlane.netns import Host, Lab

pytestmark = pytest.mark.root
BUDGET = 60.0
"""Mbit/s."""
SECONDS = 3.0
"""Of a measurement."""
SHARED = {"total": "200Mbit", "budget": {"node": "60Mbit"}}


@pytest.fixture(name="three")
def _three(lab: Lab) -> PodsOnNode:
    return pods_on_node(lab, 3)


@dataclass
class Sender:
    """A Pod that sends without end while it is :meth:`sending`, and what comes of it."""

    pod: Host
    pods: PodsOnNode
    meter: Meter = field(default_factory=Meter)

    @contextmanager
    def sending(self) -> Iterator[None]:
        def count(connection: socket.socket) -> None:
            while data := connection.recv(1 << 18):
                self.meter.count(len(data))

        with (
            serving(self.pods.server, count) as port,
            pushing(connect(self.pod, self.pods.server_ipv4, port), b"."),
        ):
            yield


def rates(*senders: Sender) -> list[float]:
    """Mbit/s that each sends from now on, headers included."""
    for each in senders:
        each.meter = Meter(SECONDS)
    return [each.meter.megabits / PAYLOAD_SHARE for each in senders]


def settle(senders: list[Sender], *, each: float | None = None, least: float = 0.95) -> None:
    """Together they never send more than the budget, and soon as good as all of it; each ``each`` of it."""
    measured = []
    for _ in range(ATTEMPTS):
        measured.append(rates(*senders))
        assert sum(measured[-1]) <= BUDGET * 1.05
        even = each is None or all(0.88 * each <= rate <= 1.12 * each for rate in measured[-1])
        if sum(measured[-1]) >= BUDGET * least and even:
            return
    pytest.fail(f"{measured} Mbit/s")


def start(folder: Path, three: PodsOnNode, policy: dict[str, Any], *, at_node: bool = False) -> RunningAgent:
    """An agent with one policy file for all Pods, with a budget for all of them."""
    write(folder, policy)
    entries = (entry(pod, "shared.yaml") for pod in three.pods)
    node = three.server_link.b.host if at_node else None
    agent = start_agent(folder, *entries, datapath="auto" if at_node else "step-aside", node=node)
    for pod in three.pods:
        agent.until_state(pod, "programmed")
    return agent


def write(folder: Path, policy: dict[str, Any]) -> None:
    fresh = folder / "shared.fresh"
    fresh.write_text(json.dumps(policy))
    fresh.replace(folder / "shared.yaml")


def share(agent: RunningAgent, pod: Host) -> float:
    """What a Pod has of the budget now, in Mbit/s; 0: there is none."""
    told = agent.workload(pod).get("share")
    return 0.0 if told is None else megabits(told)


def megabits(rate: str) -> float:
    for unit, factor in (("Gbit", 1e3), ("Mbit", 1.0), ("kbit", 1e-3), ("bit", 1e-6)):
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor
    raise AssertionError(rate)


def total_in_kernel(pod: Host) -> str:
    """The rate of the Pod's class 1:1, as tc(8) says it."""
    lines = pod.run(["tc", "class", "show", "dev", "eth0"]).stdout.splitlines()
    return next(line.split(" rate ")[1].split()[0] for line in lines if " 1:1 root " in line)


def since(event: Callable[[], object], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    until(what, event)
    return time.monotonic() - began


@pytest.mark.parametrize("at_node", [False, True], ids=["pod", "node"])
def test_a_budget_goes_to_those_that_want_it(
    three: PodsOnNode, tmp_path: Path, agents: list[RunningAgent], at_node: bool
) -> None:
    if at_node:
        require_programs()
    agent = start(tmp_path, three, SHARED, at_node=at_node)
    agents.append(agent)
    first, second, third = senders = [Sender(pod, three) for pod in three.pods]
    with first.sending():
        settle([first], least=0.93)  # the others keep a little, to begin with
        with second.sending():
            with third.sending():
                took = since(lambda: share(agent, third.pod) > 0.9 * BUDGET / 3, "its third")
                print(f"the third has its part {took:.2f} s after it has begun")
                assert took < 5  # three turns, on a machine that has nothing else to do
                settle(senders, each=BUDGET / 3)
                assert agent.workload(first.pod)["budget"] == "60Mbit"
                assert agent.workload(first.pod)["budget_of"] == "file shared.yaml"
                metrics = agent.get("/metrics")
                assert 'podlane_budget_bits_per_second{policy="file shared.yaml"} 60000000.0' in metrics
                assert f'podlane_budget_share_bits_per_second{{namespace="",pod="{first.pod.namespace.name}"' in metrics
            took = since(lambda: share(agent, first.pod) > 0.9 * BUDGET / 2, "its half")
            print(f"what the third does not use is given to the others after {took:.2f} s")
            assert took < 5  # a second, on a machine that has nothing else to do
            settle([first, second], each=BUDGET / 2)
    assert not any(agent.workload(pod)["lost"] for pod in three.pods), "shares are no drift"
    assert "what was installed here is gone" not in agent.log.read_text()


def test_a_killed_agent_leaves_the_shares_and_the_next_one_goes_on(
    three: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    agent = start(tmp_path, three, SHARED)
    agents.append(agent)
    senders = [Sender(pod, three) for pod in three.pods]
    with ExitStack() as stack:
        for each in senders:
            stack.enter_context(each.sending())
        settle(senders, each=BUDGET / 3)
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        left = [total_in_kernel(pod) for pod in three.pods]
        settle(senders, each=BUDGET / 3)
        assert [total_in_kernel(pod) for pod in three.pods] == left
        for each in senders:
            each.meter = Meter(SECONDS)
        again = launch_agent(
            tmp_path, "--workloads", str(agent.file), "--datapath", "step-aside"
        )  # fmt: skip
        agents.append(again)
        meanwhile = sum(each.meter.megabits / PAYLOAD_SHARE for each in senders)
        assert meanwhile <= BUDGET * 1.05
        for pod in three.pods:
            again.until_state(pod, "programmed")
        settle(senders, each=BUDGET / 3)
        until("shares", lambda: all(share(again, pod) > 0.8 * BUDGET / 3 for pod in three.pods))
        write(tmp_path, {"total": "200Mbit"})
        until("their own totals", lambda: {total_in_kernel(pod) for pod in three.pods} == {"200Mbit"})
        assert sum(rates(*senders)) > 1.5 * BUDGET
        assert "share" not in again.workload(senders[0].pod)


def test_guarantees_beyond_the_budget_do_not_break_it(
    three: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """HTB lets a class send at its own rate whatever its parent has left."""
    bulk = {"name": "bulk", "rate": "50Mbit", "match": {"protocol": "tcp"}}
    agent = start(tmp_path, three, {**SHARED, "total": "100Mbit", "classes": [bulk]})
    agents.append(agent)
    senders = [Sender(pod, three) for pod in three.pods]
    with ExitStack() as stack:
        for each in senders:
            stack.enter_context(each.sending())
        settle(senders, each=BUDGET / 3)
        warnings = " ".join(agent.workload(senders[0].pod)["warnings"])
        assert "guarantees to 3 Pods of this node, 153 Mbit/s, are more than its budget of 60 Mbit/s" in warnings
