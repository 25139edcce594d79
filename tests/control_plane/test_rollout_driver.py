"""Rollouts over agents that connect: they go on while all is well, and are taken back when a gate says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_bench import POLICY, Agent, Bench, running_bench
from prometheus_server import free_port, prometheus_server
from waiting import until

from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import DraftPolicy, PauseRollout, PublishPolicy, ResumeRollout
from control_plane.domain.rollout import Gates, PrometheusGate, Rollout, RolloutPlan, RolloutState, Stage
from control_plane.domain.rollout_gates import GateReading, QueryAnswer
from control_plane.fleet.agent_status import RolloutProgress
from control_plane.fleet.rollout_driver import PrometheusGates, RolloutDriver, ask_prometheus
from fleet_api.agent_pb2 import LaneSum, Report, WorkloadState

PLAN = RolloutPlan((Stage(count=1), Stage(percent=50)), soak=30)
OTHER = {**POLICY, "total": "90Mbit"}


class Fleet:
    """Ten agents with the first revision of a policy in force, and what drives rollouts."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.driver = RolloutDriver(bench.plane, bench.fleet, PrometheusGates(""), lambda: bench.clock[0])
        self.agents = {f"n{i}": bench.agent(f"n{i}").hello() for i in range(10)}
        bench.publish()
        self.settle()

    def settle(self, *failing: str) -> None:
        """Agents take what they were sent, and say that it is in force, or failed."""
        self.bench.read()
        for node, agent in self.agents.items():
            if agent.call.ended is None and agent.take():
                failures = [WorkloadState(workload="shop/web", state="refused", reason="no tc", policy="web")]
                bad = node in failing or "*" in failing
                agent.confirm(**({"failed": 1, "failures": failures} if bad else {}))

    def start(self, plan: RolloutPlan = PLAN) -> None:
        self.bench.do(DraftPolicy("web", CheckedPolicy.from_document(OTHER)))
        self.bench.do(PublishPolicy("web", plan))
        self.bench.read()

    def look(self, seconds: float = 0.0) -> Rollout:
        self.bench.clock[0] += seconds
        self.driver.look()
        self.bench.read()
        with self.bench.plane.reading("default") as tenant:
            rollout = tenant.policies["web"].rollout
        assert rollout is not None
        return rollout

    @property
    def progress(self) -> RolloutProgress:
        return self.bench.fleet.agents("default").rollouts["web"]

    def having(self) -> dict[str, int]:
        """The revision of the policy on each agent."""
        return {node: agent.state.policies["web"].revision for node, agent in self.agents.items()}

    def report(self, agents: list[Agent], **counts: int) -> None:
        for agent in agents:
            agent.say(
                report=Report(interval_ms=1000, lanes=[LaneSum(policy="web", lane="web", direction="egress", **counts)])
            )


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield Fleet(bench)


def test_step_by_step_all_agents_have_it(fleet: Fleet) -> None:
    fleet.start()
    assert (fleet.look().stage, fleet.progress.says) == (0, "1 of 1 agents have not said yet that they have it")
    fleet.settle()
    assert list(fleet.having().values()).count(2) == 1
    fleet.look()
    assert fleet.progress.says == "it has been good for 0 of 30 s"
    assert fleet.look(29).stage == 0
    assert fleet.look(1).stage == 1
    fleet.settle()
    reached = list(fleet.having().values()).count(2)
    fleet.look()
    assert 1 <= fleet.progress.reached == reached < 10
    assert fleet.look(30).stage == 2
    fleet.settle()
    assert set(fleet.having().values()) == {2}
    fleet.look()
    rollout = fleet.look(30)
    assert rollout.state is RolloutState.DONE
    assert fleet.look(30) == rollout


def test_a_change_is_sent_and_not_everything(fleet: Fleet) -> None:
    fleet.start()
    fleet.settle()
    [node] = [node for node, revision in fleet.having().items() if revision == 2]
    change = fleet.agents[node].messages[-1].desired
    assert change.base
    assert [each.name for each in change.policies] == ["web"]


def test_an_agent_that_fails_takes_it_back_from_all(fleet: Fleet) -> None:
    fleet.start(replace(PLAN, stages=(Stage(percent=60), Stage(percent=100))))
    fleet.settle("*")
    rollout = fleet.look()
    assert rollout.state is RolloutState.TAKEN_BACK
    assert "agents failed, 0 may. east/n" in rollout.reason
    assert "shop/web: no tc" in rollout.reason
    fleet.settle()
    assert set(fleet.having().values()) == {1}
    [last] = [event for event in fleet.bench.store.read_all("default", 0) if event.kind == "RolloutTakenBack"]
    assert (last.author, last.reason) == ("podlane rollouts", rollout.reason)


def test_failures_of_another_policy_are_not_its_own(fleet: Fleet) -> None:
    fleet.start(replace(PLAN, stages=(Stage(percent=100),), soak=0))
    fleet.bench.read()
    for agent in fleet.agents.values():
        agent.take()
        agent.confirm(failed=1, failures=[WorkloadState(workload="shop/db", state="refused", reason="x", policy="db")])
    assert fleet.look().state is RolloutState.DONE


def test_agents_that_go_away_take_it_back_after_a_while(fleet: Fleet) -> None:
    fleet.start(replace(PLAN, stages=(Stage(percent=100),)))
    fleet.settle()
    fleet.look()
    for node in ("n1", "n2"):
        fleet.agents[node].call.end()
    assert fleet.look(9).state is RolloutState.RUNNING
    assert fleet.progress.says == "2 of 10 agents have not said yet that they have it"
    rollout = fleet.look(2)
    assert (rollout.state, rollout.reason) == (RolloutState.TAKEN_BACK, "2 of 10 agents have gone away since, 10% may")


def test_it_waits_for_agents_that_were_away_before_or_are_elsewhere(fleet: Fleet) -> None:
    fleet.agents["n1"].call.end()
    fleet.agents["n2"].call.end()
    fleet.bench.clock[0] += 60
    fleet.start(replace(PLAN, stages=(Stage(percent=100),), soak=0))
    fleet.settle()
    assert fleet.look().state is RolloutState.RUNNING
    assert fleet.look(60).state is RolloutState.RUNNING
    assert fleet.progress.says == "2 of 10 agents are away, 10% may be"
    fleet.agents["n1"] = Agent(fleet.bench, fleet.agents["n1"].credentials).hello()
    fleet.settle()
    assert fleet.look().state is RolloutState.DONE


def test_drops_and_waiting_are_compared_with_before(fleet: Fleet) -> None:
    gates = Gates(throttled=2.0)
    fleet.report(list(fleet.agents.values()), packets=1000, overlimits=100)
    fleet.bench.clock[0] += 1
    fleet.start(replace(PLAN, gates=gates))
    fleet.settle()
    [node] = [node for node, revision in fleet.having().items() if revision == 2]
    others = [agent for name, agent in fleet.agents.items() if name != node]
    fleet.report(others, packets=10_000, overlimits=9_999)
    fleet.report([fleet.agents[node]], packets=2000, overlimits=400)
    assert fleet.look().state is RolloutState.RUNNING, "twice of before, and others do not have it"
    assert [(each.gate, each.value, each.tripped) for each in fleet.progress.gates] == [
        ("failed", 0, False),
        ("away", 0.0, False),
        ("throttled", 0.2, False),
    ]
    fleet.report([fleet.agents[node]], packets=1000, overlimits=900)
    rollout = fleet.look()
    assert rollout.state is RolloutState.TAKEN_BACK
    assert rollout.reason == "43.3% of packets had to wait, 10.0% before"
    throttled = fleet.progress.gates[-1]
    assert throttled == GateReading("throttled", 1300 / 3000, 0.2, 0.1)
    assert throttled.tripped


def test_paused_it_is_not_judged_and_resumed_it_soaks_again(fleet: Fleet) -> None:
    fleet.start()
    fleet.settle()
    fleet.look()
    fleet.bench.do(PauseRollout("web", "lunch"))
    assert fleet.look(100).stage == 0
    fleet.bench.do(ResumeRollout("web"))
    assert fleet.look().stage == 0
    assert fleet.look(29).stage == 0
    assert fleet.look(1).stage == 1


def test_a_gate_that_cannot_be_asked_stops_it(fleet: Fleet) -> None:
    fleet.start(replace(PLAN, soak=0, gates=Gates(prometheus=(PrometheusGate("up", 1),))))
    fleet.settle()
    assert fleet.look(100).stage == 0
    assert fleet.progress.says == "'up' cannot be asked: there is no --prometheus to ask"


def test_what_is_under_way_goes_on_after_a_restart(fleet: Fleet) -> None:
    fleet.start()
    fleet.settle()
    fleet.driver = RolloutDriver(
        fleet.bench.plane, fleet.bench.fleet, PrometheusGates(""), lambda: fleet.bench.clock[0]
    )
    assert fleet.look(100).stage == 0, "it soaks again"
    assert fleet.look(30).stage == 1


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """A real one that scrapes nothing."""
    with prometheus_server(tmp_path) as url:
        yield url


def test_queries_to_prometheus(prometheus: str) -> None:
    def ask(query: str) -> QueryAnswer:
        return ask_prometheus(prometheus, PrometheusGate(query, 1))

    assert ask("vector(3)").value == 3
    assert ask("scalar(vector(2))").value == 2
    assert ask("no_such_series") == QueryAnswer(PrometheusGate("no_such_series", 1))
    assert ask("sum(").trouble == "Bad Request"
    assert "refused" in ask_prometheus(f"http://127.0.0.1:{free_port()}", PrometheusGate("up", 1)).trouble
    gates = PrometheusGates(prometheus)
    gate = PrometheusGate("vector(7)", 1)
    until("its answer", lambda: gates.answer(gate).value == 7)
    gates.close()


def test_what_is_no_prometheus(tmp_path: Path) -> None:
    (tmp_path / "api" / "v1").mkdir(parents=True)
    (tmp_path / "api" / "v1" / "query").write_text(json.dumps({"data": "?"}))
    answer = ask_prometheus(tmp_path.as_uri(), PrometheusGate("up", 1))
    assert answer.trouble
