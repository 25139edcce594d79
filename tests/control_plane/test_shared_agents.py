"""Several processes on one PostgreSQL: each knows the agents of all, whoever they are connected to, and who is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fleet_bench import POLICY, Agent, Bench, running_bench

from control_plane.alerts.sight import TenantSight
from control_plane.domain.access import Role
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import DraftPolicy, PublishPolicy, RevokeAgent
from control_plane.domain.rollout import RolloutPlan, RolloutState, Stage
from control_plane.domain.rollout_gates import Traffic
from control_plane.fleet.agent_status import AgentState, AgentStatus, WorkloadFailure
from control_plane.fleet.questions import Questions, SilentAgentError
from control_plane.fleet.rollout_driver import PrometheusGates, RolloutDriver
from control_plane.fleet.shared_agents import SharedAgents
from control_plane.fleet.status_document import read_status, write_status
from control_plane.gateway.rpc import GrpcStatus
from control_plane.live.hub import LiveHub
from control_plane.live.messages import LiveScope, Subscribe, Topic
from control_plane.live.topics import WINDOWS, Picture, TenantView
from control_plane.relay.sight_documents import AgentSights, SightWish
from control_plane.service import Caller
from control_plane.store.errors import StoreError
from fleet_api.agent_pb2 import Answer, LaneSum, Question, Report, WorkloadFigures, WorkloadState


@dataclass
class Process:
    """One of several; what it tells and hears happens when the test says so."""

    bench: Bench
    clock: list[float]

    def __post_init__(self) -> None:
        bench = self.bench
        table = bench.store.agent_states
        assert table is not None
        self.shared = SharedAgents(
            table, bench.fleet, bench.handler, bench._posted.put, lambda: bench.clock[0], lambda: self.clock[0]
        )
        bench.fleet.questions = Questions(bench.handler, bench._posted.put, self.shared.relay.ask)
        self.hub = LiveHub(bench.plane, bench.fleet)
        self.shared.load(bench.plane.names())
        bench.pump()
        self.driver = RolloutDriver(bench.plane, bench.fleet, PrometheusGates(""), lambda: bench.clock[0])

    def status(self, node: str) -> AgentStatus:
        return self.bench.fleet.agents("default").agents["east", node]

    def look(self) -> None:
        self.shared.look()
        self.bench.pump()

    def settle(self, *agents: Agent) -> None:
        """Its agents take what they were sent, and say so."""
        self.bench.read()
        for agent in agents:
            agent.take()
            agent.confirm()


def tell(*processes: Process) -> None:
    """All tell all."""
    for each in processes:
        each.shared.tell()
    for each in processes:
        each.look()


@pytest.fixture
def process(tmp_path: Path, postgresql_database: Callable[[], str]) -> Iterator[Callable[[], Process]]:
    """Starts another one; all have the database, and the clock that only goes forward."""
    url, clock = postgresql_database(), [1000.0]
    with ExitStack() as stack:
        yield lambda: Process(stack.enter_context(running_bench(tmp_path, url)), clock)


def comes(process: Process, node: str) -> Agent:
    """A new agent, which connects to a process."""
    agent = process.bench.agent(node).hello()
    process.bench.until("it was admitted", lambda: _is_here(process, node))
    return agent


def moves(process: Process, agent: Agent) -> Agent:
    """The same agent, which connects to that process."""
    again = Agent(process.bench, agent.credentials).hello(agent.state)
    process.bench.until("it was admitted", lambda: _is_here(process, "n1"))
    return again


def _is_here(process: Process, node: str) -> bool:
    status = process.bench.fleet.agents("default").agents.get(("east", node))
    return status is not None and status.connected and not status.process


def test_a_status_is_what_it_was() -> None:
    status = AgentStatus(
        connected=True, since=1.5, heard=2.5, address="::1", instance="a", version="1", kernel="6", expires=9.5,
        labels={"zone": "a"}, abilities=("ebpf",), revision=7, hash=b"h" * 32, desired=(8, b"d" * 32), refusal="no\0",
        programmed=1, failed=2, waiting=3, failures=(WorkloadFailure("shop/web", "refused", "no tc", "web"),),
        cpu_ms=4, memory=5, workloads=6, troubles=("full disk",), ended="replaced", epoch=3, process="p",
    )  # fmt: skip
    assert read_status(write_status(status), 3, "p") == status
    assert read_status('{"connected":true,"of a newer version":1}', 3, "p") == AgentStatus(
        connected=True, epoch=3, process="p"
    )


def test_each_process_knows_all_agents(process: Callable[[], Process]) -> None:
    one = process()
    two = process()
    first = comes(one, "n1")
    second = comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    tell(one, two)
    for each in (one, two):
        assert {node: each.bench.state(node) for node in ("n1", "n2")} == {
            "n1": AgentState.IN_SYNC,
            "n2": AgentState.IN_SYNC,
        }
    assert two.status("n1").version == "0.2.0"
    first.confirm(failed=1, failures=[WorkloadState(workload="shop/web", state="refused", reason="x", policy="web")])
    tell(one, two)
    assert two.bench.state("n1") is AgentState.FAILED
    assert two.status("n1").failures[0].reason == "x"
    first.call.end()
    tell(one, two)
    assert two.bench.state("n1") is AgentState.AWAY
    assert process().bench.state("n2") is AgentState.IN_SYNC, "who starts later knows it, too"


def test_what_an_agent_was_does_not_overwrite_where_it_has_moved(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    agent = comes(one, "n1")
    tell(one, two)
    one.clock[0] += 1
    moved = moves(two, agent)
    two.shared.tell()
    # The old connection is only half dead.
    agent.confirm(failed=3)
    one.shared.tell()
    two.look()
    assert (two.status("n1").process, two.status("n1").failed) == ("", 0)
    one.look()
    assert agent.call.ended is not None
    assert agent.call.ended[0] is GrpcStatus.CANCELLED
    assert (one.status("n1").connected, one.status("n1").process) == (True, two.shared.name)
    tell(one, two)
    assert process().status("n1").process == two.shared.name
    moved.call.end()
    tell(two, one)
    assert not one.status("n1").connected
    one.clock[0] += 1
    moves(one, moved)
    tell(one, two)
    assert (two.status("n1").connected, two.status("n1").process) == (True, one.shared.name)


def test_a_process_that_is_silent_has_no_agents(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    comes(one, "n1")
    tell(one, two)
    for _ in range(4):
        two.clock[0] += 1.5
        two.look()
    assert not two.status("n1").connected
    assert two.bench.state("n1") is AgentState.AWAY
    one.shared.tell()
    two.look()
    assert two.status("n1").connected, "it was only slow"


def test_nobody_is_silent_while_the_database_is_away(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    comes(one, "n1")
    tell(one, two)
    two.clock[0] += 4
    two.bench.store.database.close()
    with pytest.raises(StoreError):
        two.shared.look()
    two.clock[0] += 60
    two.bench.store.database.migrate()
    two.look()
    assert two.status("n1").connected
    two.clock[0] += 6
    two.look()
    assert not two.status("n1").connected


def test_an_agent_that_was_revoked_is_forgotten(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    comes(one, "n1")
    tell(one, two)
    table = one.bench.store.agent_states
    assert table is not None
    assert [row.node for row in table.read_all("default")] == ["n1"]
    one.bench.do(RevokeAgent("east", "n1"))
    one.bench.until("it is out", lambda: not one.bench.fleet.agents("default").agents)
    one.shared.tell()
    assert table.read_all("default") == []


def test_one_process_decides_by_what_agents_of_all_say(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    first, second = comes(one, "n1"), comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    for process_, agent in ((one, first), (two, second)):
        agent.say(report=Report(interval_ms=1000, lanes=[
            LaneSum(policy="web", lane="web", direction="egress", packets=1000, dropped=10)
        ]))  # fmt: skip
        process_.bench.clock[0] += 1
    one.bench.do(DraftPolicy("web", CheckedPolicy.from_document({**POLICY, "total": "90Mbit"})))
    one.bench.do(PublishPolicy("web", RolloutPlan((Stage(count=2),), soak=0)))
    one.bench.read()
    two.bench.read()
    tell(one, two)
    assert one.bench.fleet.agents("default").traffic_of("web").before == Traffic(2000, 20, 0)
    assert two.bench.fleet.agents("default").traffic_of("web").before == Traffic(2000, 20, 0)
    second.say(report=Report(interval_ms=1000, lanes=[
        LaneSum(policy="web", lane="web", direction="egress", packets=500, dropped=5)
    ]))  # fmt: skip
    one.settle(first)
    tell(one, two)
    assert one.bench.fleet.agents("default").traffic_of("web").now == Traffic(500, 5, 0)
    one.driver.look()
    two.driver.look(decide=False)
    for each in (one, two):
        progress = each.bench.fleet.agents("default").rollouts["web"]
        assert (progress.reached, progress.having, progress.away) == (2, 1, 0)
    two.settle(second)
    tell(one, two)
    two.driver.look(decide=False)
    assert rollout_state(one) is RolloutState.RUNNING, "it only looks"
    one.driver.look()
    one.settle(first)
    two.settle(second)
    tell(one, two)
    one.driver.look()
    assert rollout_state(one) is RolloutState.DONE


def says(process: Process, agent: Agent, packets: int, waited: int = 0) -> None:
    """What went through a lane of the agent; and the second is over."""
    lane = LaneSum(policy="web", lane="web", direction="egress", packets=packets, overlimits=waited, workloads=1)
    agent.say(report=Report(interval_ms=1000, lanes=[lane]))
    process.bench.clock[0] += 1


def packets_seen(process: Process, cluster: str = "", seconds: int = 10) -> list[int]:
    """Of each second in which there were any."""
    agents = process.bench.fleet.agents("default")
    figures = agents.clusters[cluster] if cluster else agents.figures
    return [
        sum(column)
        for column in zip(
            *(each.values["packets"] for each in figures.window(figures.settled(int(process.bench.clock[0])), seconds)),
            strict=True,
        )
        if sum(column)
    ]


def test_figures_are_sums_over_all_processes(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    first, second = comes(one, "n1"), comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    says(one, first, 1000)
    says(two, second, 10, waited=10)
    assert packets_seen(one) == [1000]
    tell(one, two)
    for each in (one, two):
        each.bench.clock[0] += 2
        assert packets_seen(each) == packets_seen(each, "east") == [1010]
        tell(one, two)
        assert packets_seen(each) == [1010], "each second counts once"
    key = ("web", "web", "egress")
    until = int(one.bench.clock[0])
    figures = [each.bench.fleet.agents("default").figures for each in (one, two)]
    # Prometheus asks each process, and adds up itself.
    assert [each.counters(until)[key][1] for each in figures] == [1000, 10]
    rule = AlertRule(AlertKind.THROTTLED, 0.1, {"cluster": "east"}, over=10)
    for each in (one, two):
        with each.bench.plane.reading("default") as tenant:
            [reading] = TenantSight(tenant, each.bench.fleet.agents("default"), until, 0.0).readings(rule)
            view = TenantView(Picture.from_tenant(tenant, None), float(until), each.bench.fleet.agents("default"))
        assert reading.value == pytest.approx(10 / 1010), "whoever looks after alerts sees the packets of all"
        others = 10 if each is one else 1000
        for scope in (LiveScope(), LiveScope(cluster="east")):
            assert WINDOWS[Topic.AGENTS].totals(view, scope, [])["packets"] == others
        assert WINDOWS[Topic.CLUSTERS].items(view, LiveScope())[0]["packets"] >= others


def test_who_starts_later_has_the_last_minute_and_who_has_ended_adds_nothing(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    first, second = comes(one, "n1"), comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    for _ in range(3):
        says(one, first, 100)
        says(two, second, 1)
    tell(one, two)
    three = process()
    three.bench.clock[0] = one.bench.clock[0]
    three.look()
    for each in (one, two, three):
        each.bench.clock[0] += 2
        assert packets_seen(each) == [101, 101, 101]
    for _ in range(5):
        says(one, first, 100)
        one.shared.tell()
        for other in (two, three):
            other.bench.clock[0] += 1
            other.look()
    assert packets_seen(two, seconds=3) == packets_seen(three, seconds=3) == [100, 100, 100], "the second one is silent"


def test_sums_of_a_batch_of_which_nobody_knows_whether_it_was_written_count_once(
    process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = process(), process()
    first, second = comes(one, "n1"), comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    says(one, first, 1000)
    table = one.bench.store.agent_states
    assert table is not None
    write = table.write

    def written_but_broken(*values: Any) -> None:
        write(*values)
        raise StoreError("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(table, "write", written_but_broken)
        with pytest.raises(StoreError):
            one.shared.tell()
    two.bench.clock[0] = one.bench.clock[0]
    two.look()
    tell(one, two)
    two.bench.clock[0] += 2
    assert packets_seen(two) == [1000]


def rollout_state(process: Process) -> RolloutState:
    with process.bench.plane.reading("default") as tenant:
        rollout = tenant.policies["web"].rollout
    assert rollout is not None
    return rollout.state


def looks(process: Process, topic: Topic, **scope: str) -> Any:
    """What a viewer of that process sees now, and goes on to look at."""
    wish = Subscribe(type="subscribe", id=1, tenant="default", topic=topic, scope=LiveScope(**scope))
    frame = process.hub.frame(process.hub.begin(wish, Caller("ada", lambda _: Role.VIEWER)))
    assert isinstance(frame, str)
    return json.loads(frame)


def tells(agent: Agent, size: int) -> None:
    lane = LaneSum(policy="web", lane="web", direction="egress", bytes=size, packets=1, workloads=1)
    figures = [WorkloadFigures(workload="shop/web-1", lanes=[lane])] if watched(agent) else []
    agent.say(report=Report(interval_ms=1000, lanes=[lane], workloads=figures))


def watched(agent: Agent) -> bool:
    agent.take()
    told = [message.watch.others for message in agent.messages if message.WhichOneof("message") == "watch"]
    return bool(told) and told[-1]


def test_a_viewer_sees_agents_of_other_processes(process: Callable[[], Process]) -> None:
    one, two, three = process(), process(), process()
    first, second = comes(one, "n1"), comes(two, "n2")
    one.bench.publish()
    one.settle(first)
    two.settle(second)
    tell(one, two, three)
    assert [row["bytes"] for row in looks(one, Topic.AGENTS)["rows"]] == [0, 0]
    assert looks(one, Topic.WORKLOADS, cluster="east", node="n2")["rows"] == []
    tell(one, two, three)
    tells(first, 100)
    tells(second, 7)  # is told to tell of its workloads by now
    tells(second, 7)
    tell(two, one, three)
    for each in (one, two, three):
        each.bench.clock[0] += 1
    assert [row["bytes"] for row in looks(one, Topic.AGENTS)["rows"]] == [100, 7]
    [row] = looks(one, Topic.WORKLOADS, cluster="east", node="n2")["rows"]
    assert (row["workload"], row["policy"], row["bytes"], row["lanes"][0]["lane"]) == ("shop/web-1", "web", 7, "web")
    totals = looks(one, Topic.AGENTS)["totals"]
    assert totals["bytes"] in (100, 107), "what went through the others' is among the sums: it counts once"
    second.confirm(failed=1)
    tell(two, one)
    assert looks(one, Topic.WORKLOADS, cluster="east", node="n2")["rows"], "they stay when the agent has another state"
    for _ in range(14):
        for each in (one, two, three):
            each.bench.clock[0] += 1
            each.clock[0] += 1 / 3
        tells(second, 7)
        tell(one, two, three)
    assert not watched(second), "nobody looks any more"
    assert one.status("n2").details is None
    assert one.bench.fleet.agents("default").watched == two.bench.fleet.agents("default").watched == {}
    table = one.bench.store.agent_states
    assert table is not None
    assert all(not any(table.read_sight("default", each.shared.name) or ()) for each in (one, two, three))


def test_a_question_reaches_an_agent_of_another_process(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    comes(one, "n1")
    second = comes(two, "n2")
    tell(one, two)
    questions = one.bench.fleet.questions
    assert questions is not None
    with ThreadPoolExecutor(2) as threads:
        answers = [
            threads.submit(questions.ask, "default", "east", "n2", Question(effective_policy=name)) for name in "ab"
        ]
        one.bench.until("both are asked", lambda: len(one.shared.relay._asked.get("default", {})) == 2)
        assert one.shared.relay.urgent
        tell(one, two)
        second.take()
        asked = [message.question for message in second.messages if message.WhichOneof("message") == "question"]
        assert sorted(each.effective_policy for each in asked) == ["a", "b"]
        for each in asked:
            second.say(answer=Answer(id=each.id, document=json.dumps({"name": each.effective_policy})))
        assert two.shared.relay.urgent
        tell(two, one)
        assert [each.result(10) for each in answers] == [{"name": "a"}, {"name": "b"}]
        late = threads.submit(questions.ask, "default", "east", "n2", Question(diagnosis=True))
        one.bench.until("it is asked", lambda: one.shared.relay._asked["default"])
        second.call.end()
        tell(one, two)
        tell(two, one)
        with pytest.raises(SilentAgentError, match="gone away"):
            late.result(10)


def test_what_processes_tell_each_other_is_read_as_it_was_written() -> None:
    wish = SightWish(True, (("east", "n1"),), {"a": (("east", "n2"), b"\0\xff")})
    assert SightWish.from_json(wish.to_json()) == wish
    assert SightWish.from_json('{"of a newer version":1}') == SightWish.from_json("") == SightWish()
    assert (SightWish().to_json(), AgentSights().to_json()) == ("", "")
    says = '{"traffic":[["e","n",1,2,3,4,5,"newer"]],"workloads":[],"answers":{"a":"AP8="},"newer":0}'
    read = AgentSights.from_json(says)
    assert (read.traffic["e", "n"].backlog, read.answers["a"]) == (5, b"\0\xff")
    assert AgentSights.from_json(read.to_json()) == read
