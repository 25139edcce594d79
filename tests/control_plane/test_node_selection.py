"""Policies and steps of rollouts for some clusters and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domain_commands import POLICY
from fleet_bench import Agent, Bench, running_bench

from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import AddCluster, DraftPolicy, LabelCluster, PublishPolicy, RemovePolicy
from control_plane.domain.rollout import RolloutPlan, Stage
from control_plane.fleet.rollout_driver import PrometheusGates, RolloutDriver

OTHER = {**POLICY, "total": "90Mbit"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        bench.do(AddCluster("west"))
        yield bench


def publish(bench: Bench, name: str, document: Any = POLICY, plan: RolloutPlan | None = None, **nodes: str) -> None:
    labels = {key.replace("_", "/"): value for key, value in nodes.items()}
    bench.do(DraftPolicy(name, CheckedPolicy.from_document(document), {}, labels))
    bench.do(PublishPolicy(name, plan))
    bench.read()


def here(bench: Bench, node: str, cluster: str = "east", **labels: str) -> Agent:
    agent = Agent(bench, bench.enrol(bench.join_token(cluster=cluster), node))
    agent.labels = labels
    agent.hello()
    bench.until(f"{node} is let in", lambda: (cluster, node) in bench.fleet.agents("default").agents)
    return agent


def names(agent: Agent) -> list[str]:
    agent.take()
    return sorted(agent.state.policies)


def test_agents_are_told_the_policies_for_their_cluster_and_node(bench: Bench) -> None:
    east = here(bench, "n1", zone="a")
    west = here(bench, "n2", "west", zone="b")
    publish(bench, "all")
    publish(bench, "east", **{"podlane.io_cluster": "east"})
    publish(bench, "zone-b", zone="b")
    publish(bench, "both", zone="a", **{"podlane.io_cluster": "west"})
    assert (names(east), names(west)) == (["all", "east"], ["all", "zone-b"])
    for agent in (east, west):
        agent.confirm()
    agents = bench.fleet.agents("default")
    assert {agents.state(each) for each in agents.agents.values()} == {"in-sync"}
    bench.do(RemovePolicy("zone-b"))
    bench.read()
    assert (names(east), names(west)) == (["all", "east"], ["all"])
    assert east.messages[-1].desired.base, "a change is enough"


def test_labels_of_a_cluster_are_told_at_once_and_win(bench: Bench) -> None:
    east = here(bench, "n1", stage="test")
    publish(bench, "careful", stage="production")
    assert names(east) == []
    bench.do(LabelCluster("east", {"stage": "production"}))
    bench.read()
    assert names(east) == ["careful"]
    bench.do(LabelCluster("east", {}))
    bench.read()
    assert names(east) == []


def test_a_node_with_other_labels_is_told_what_is_for_these(bench: Bench) -> None:
    publish(bench, "zone-b", zone="b")
    agent = here(bench, "n1", zone="a")
    assert names(agent) == []
    agent.labels = {"zone": "b"}
    agent.say(hello=agent.greeting())
    assert names(agent) == ["zone-b"]


def test_a_revision_for_other_nodes_leaves_those_before(bench: Bench) -> None:
    agents = [here(bench, f"n{number}", zone="ab"[number % 2]) for number in range(4)]
    publish(bench, "web", zone="a")
    assert [names(each) for each in agents] == [["web"], [], ["web"], []]
    publish(bench, "web", OTHER, zone="b")
    assert [names(each) for each in agents] == [[], ["web"], [], ["web"]]


def test_a_rollout_counts_and_reaches_those_that_it_is_for(bench: Bench) -> None:
    agents = [here(bench, f"n{number}", "west" if number < 6 else "east") for number in range(8)]
    driver = RolloutDriver(bench.plane, bench.fleet, PrometheusGates(""), lambda: bench.clock[0])
    plan = RolloutPlan((Stage(count=1), Stage(labels={"podlane.io/cluster": "east"})), soak=0)
    publish(bench, "web", plan=plan, **{"podlane.io_cluster": "east"})
    assert [len(names(each)) for each in agents[:6]] == [0] * 6
    assert sum(len(names(each)) for each in agents[6:]) == 1, "one of the cluster that it is for"
    for each in agents:
        each.confirm()
    driver.look()
    progress = bench.fleet.agents("default").rollouts["web"]
    assert (progress.agents, progress.reached, progress.having) == (2, 1, 1)
    bench.read()
    assert sum(len(names(each)) for each in agents) == 2, "the cluster as a step"


def test_agents_that_choose_many_labels_cost_bounded_memory(bench: Bench) -> None:
    for number in range(10):
        publish(bench, f"p{number}", **{f"l{number}": "1"})
    delivery = bench.handler._tenant("default").delivery  # what it remembers is nowhere else to be seen
    for number in range(2**10):
        target = delivery.target("east/n1", {f"l{bit}": "1" for bit in range(10) if number >> bit & 1})
        assert len(target.state.policies) == number.bit_count()
        delivery.message(target, (0, b""))
    assert max(map(len, (delivery._targets, delivery._history))) <= 256
    assert len(delivery._frames) <= 64
