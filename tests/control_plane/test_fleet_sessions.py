"""What connected agents are told, and what is believed of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fleet_bench import Agent, Bench, DrivenCall, running_bench

from control_plane.certificates.authority import utc
from control_plane.domain.commands import AddCluster, CloseTenant, CreateTenant, RemovePolicy, RevokeAgent
from control_plane.fleet.agent_status import AgentState
from control_plane.gateway.rpc import GrpcStatus, Peer, RpcError
from fleet_api.agent_pb2 import Applied, Health, Hello, LaneSum, Report, WorkloadState
from fleet_api.desired import DesiredState
from fleet_api.limits import CONNECT


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


def connected(bench: Bench, node: str = "n1", tenant: str = "default") -> Agent:
    agent = bench.agent(node, tenant).hello()
    bench.until(f"{node} is let in", lambda: bench.state(node, tenant) != AgentState.AWAY)
    return agent


def test_a_policy_reaches_an_agent_and_comes_back_as_applied(bench: Bench) -> None:
    agent = connected(bench)
    assert bench.state() == AgentState.IN_SYNC, "nothing is desired of it"
    bench.publish()
    bench.until("the policy", agent.take)
    assert list(agent.state.policies) == ["web"]
    assert agent.state.revision == bench.revision()
    assert bench.state() == AgentState.BEHIND
    agent.confirm()
    assert bench.state() == AgentState.IN_SYNC
    bench.publish("db")
    bench.until("the change", agent.take)
    change = agent.messages[-1].desired
    assert (change.base, [each.name for each in change.policies]) == (agent.messages[-2].desired.revision, ["db"])
    bench.do(RemovePolicy("web"))
    bench.until("the removal", agent.take)
    assert (list(agent.messages[-1].desired.removed), list(agent.state.policies)) == (["web"], ["db"])


def test_one_message_is_made_for_all(bench: Bench) -> None:
    agents = [connected(bench, f"n{number}") for number in range(3)]
    bench.publish()
    bench.until("the policy", lambda: all(agent.call.sent for agent in agents))
    assert len({id(agent.call.sent[0]) for agent in agents}) == 1


def test_who_knows_something_is_told_the_difference(bench: Bench) -> None:
    agent = connected(bench)
    bench.publish()
    bench.until("the policy", agent.take)
    known = agent.state
    again = Agent(bench, agent.credentials).hello(known)
    assert (again.take(), bench.state()) == ([], AgentState.IN_SYNC)
    bench.publish("db")
    bench.until("the change", again.take)
    third = Agent(bench, agent.credentials).hello(known)
    [message] = third.take()
    assert message.desired.base == known.revision
    assert third.state == again.state
    other = DesiredState(known.revision, {})
    fourth = Agent(bench, agent.credentials).hello(other)
    [message] = fourth.take()
    assert message.desired.base == 0, "its hash says that it has something else"
    assert fourth.state == again.state


def test_an_agent_with_another_hash_is_sent_everything_but_not_for_ever(bench: Bench) -> None:
    bench.publish()
    bench.read()
    agent = connected(bench)
    agent.take()
    agent.confirm(hash=b"\1" * 32)
    [message] = agent.take()
    assert (message.desired.base, bench.state()) == (0, AgentState.BEHIND)
    for _ in range(20):
        agent.confirm(hash=b"\1" * 32)
    assert len(agent.take()) < 6
    for _ in range(6):
        if agent.call.ended is None:
            agent.state = DesiredState()
            agent.say(hello=agent.greeting())
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.RESOURCE_EXHAUSTED


def test_a_slow_agent_is_told_the_newest_only(bench: Bench) -> None:
    agent = connected(bench)
    agent.call.slow = True
    for name in ("a", "b", "c"):
        bench.publish(name)
        bench.read()
    assert len(agent.call.sent) == 1
    agent.call.unsent = 0
    assert agent.call.listener is not None
    agent.call.listener.drained()
    agent.take()
    assert (len(agent.messages), sorted(agent.state.policies)) == (2, ["a", "b", "c"])


def test_a_revoked_agent_is_cut_off_at_once_and_kept_out(bench: Bench) -> None:
    agent = connected(bench)
    bench.do(RevokeAgent("east", "n1"))
    bench.until("the end", lambda: agent.call.ended)
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.PERMISSION_DENIED
    assert "podlane join-token" in agent.call.ended[1]
    again = Agent(bench, agent.credentials).hello()
    bench.until("the refusal", lambda: again.call.ended)
    assert again.call.ended == agent.call.ended
    assert again.call.sent == []
    # Another enrolment of the node does not make the old certificate good again.
    new = connected(bench)
    old = Agent(bench, agent.credentials).hello()
    bench.until("the refusal", lambda: old.call.ended)
    assert new.call.ended is None


def test_a_revoked_agent_gets_no_certificate_and_counts_nowhere(bench: Bench) -> None:
    agent = bench.agent()
    bench.do(RevokeAgent("east", "n1"))
    agent.hello()
    agent.renew(ec.generate_private_key(ec.SECP256R1()))
    agent.say(report=Report(lanes=[LaneSum(policy="", lane="x", direction="egress", bytes=1000)]))
    bench.until("the refusal", lambda: agent.call.ended)
    assert agent.call.sent == []
    assert bench.fleet.agents("default").figures.window(int(bench.clock[0]) + 1, 10) == []


def test_a_certificate_is_renewed_on_the_stream_and_else_ends_it(bench: Bench) -> None:
    agent = connected(bench)
    bench.clock[0] = agent.credentials.renew_at
    agent.renew(ec.generate_private_key(ec.SECP256R1()))
    [message] = agent.take()
    assert message.credentials.renew_at == bench.clock[0] + 12 * 3600
    renewed = Agent(bench, message.credentials)
    bench.clock[0] += 23 * 3600
    bench.handler.expire()
    assert agent.call.ended is None
    renewed.hello()
    assert agent.call.ended is not None, "the newer connection takes its place"
    bench.until("it is let in", lambda: bench.state() == AgentState.IN_SYNC)
    bench.clock[0] += 3600
    bench.handler.expire()
    assert renewed.call.ended is not None
    assert renewed.call.ended[0] == GrpcStatus.UNAUTHENTICATED
    assert bench.state() == AgentState.AWAY
    late = Agent(bench, message.credentials).connect()
    assert late.call.ended is not None
    assert "join again" in late.call.ended[1]


def test_tenants_know_nothing_of_each_other(bench: Bench) -> None:
    bench.do(CreateTenant(), "other")
    bench.do(AddCluster("east"), "other")
    mine, theirs = connected(bench), connected(bench, tenant="other")
    bench.publish()
    bench.until("the policy", mine.take)
    bench.read()
    assert theirs.call.sent == []
    theirs.say(report=Report(lanes=[LaneSum(policy="web", lane="web", direction="egress", bytes=1000)]))
    until = int(bench.clock[0]) + 1
    assert bench.fleet.agents("default").figures.window(until, 10) == []
    assert bench.fleet.agents("other").figures.window(until, 10) == [], "it has no such policy"
    # Clusters and nodes have the same names in both.
    bench.do(RevokeAgent("east", "n1"), "other")
    bench.do(CloseTenant(), "other")
    bench.until("the end", lambda: theirs.call.ended)
    assert mine.call.ended is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"applied": Applied(revision=1)}, "Hello first"),
        ({"hello": Hello(version="x" * 65)}, "too long for a word"),
        ({"hello": Hello(node_labels={str(n): "" for n in range(65)})}, "65 labels are too many"),
        ({"hello": Hello(node_labels={"a": "\0"})}, "no text"),
        ({"hello": Hello(revision=1)}, "no SHA-256"),
    ],
)
def test_what_an_agent_must_not_say_first(bench: Bench, message: dict[str, object], words: str) -> None:
    agent = bench.agent().connect()
    agent.say(**message)
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.INVALID_ARGUMENT
    assert words in agent.call.ended[1]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"applied": Applied(revision=99, hash=b"x" * 32)}, "never sent"),
        ({"applied": Applied(failures=[WorkloadState(workload="a/b")] * 101)}, "101 failures"),
        ({"applied": Applied(failures=[WorkloadState(workload="x" * 401)])}, "too long for a name"),
        ({"health": Health(troubles=["x"] * 11)}, "11 troubles"),
        ({"report": Report(lanes=[LaneSum(direction="up")])}, "no direction"),
        ({"report": Report(lanes=[LaneSum(direction="egress")] * 2049)}, "2049 sums"),
    ],
)
def test_what_an_agent_must_not_say_later(bench: Bench, message: dict[str, object], words: str) -> None:
    agent = connected(bench)
    agent.say(**message)
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.INVALID_ARGUMENT
    assert words in agent.call.ended[1]


def test_noise_and_floods_end_the_call(bench: Bench) -> None:
    noisy, flooding = connected(bench, "n1"), connected(bench, "n2")
    noisy.say_bytes(b"\xff" * 100)
    assert noisy.call.ended is not None
    assert "no message" in noisy.call.ended[1]
    for _ in range(200):
        if flooding.call.ended is None:
            flooding.say(health=Health())
    assert flooding.call.ended is not None
    assert flooding.call.ended[0] == GrpcStatus.RESOURCE_EXHAUSTED


def test_a_newer_agent_may_say_what_we_do_not_know(bench: Bench) -> None:
    agent = connected(bench)
    agent.say_bytes(b"\xa2\x06\x03abc")  # field 100
    assert agent.call.ended is None


def test_an_agent_that_was_told_more_by_another_process_is_not_set_back(bench: Bench, tmp_path: Path) -> None:
    agent = bench.agent()
    bench.pump()
    with running_bench(tmp_path / "second", f"sqlite:{tmp_path / 'events.db'}") as other:
        other.publish()
        other.read()
        known = DesiredState(
            other.revision(), dict(other.handler._tenant("default").delivery.target("", {}).state.policies)
        )
    agent.hello(known)
    bench.until("it is let in", lambda: bench.state() == AgentState.IN_SYNC)
    assert agent.call.sent == []


def test_who_shows_no_certificate_of_ours_is_refused(bench: Bench) -> None:
    for certificate in (b"", b"noise", bench.issuer.authority.current.roots[0].certificate.public_bytes(Encoding.DER)):
        with pytest.raises(RpcError) as refused:
            bench.handler.opened(CONNECT, DrivenCall(Peer("10.0.0.1", certificate)))
        assert refused.value.status in (GrpcStatus.UNAUTHENTICATED, GrpcStatus.PERMISSION_DENIED)
        assert "join" in str(refused.value)
    with pytest.raises(RpcError, match="no method"):
        bench.handler.opened("/grpc.health.v1.Health/Watch", DrivenCall(Peer("10.0.0.1")))


def test_what_failed_is_kept_with_its_reason(bench: Bench) -> None:
    agent = connected(bench)
    bench.publish()
    bench.until("the policy", agent.take)
    agent.confirm(
        failed=2, failures=[WorkloadState(workload="shop/web-1", state="failed", reason="no\0room" + "x" * 500)]
    )
    assert bench.state() == AgentState.FAILED
    status = bench.fleet.agents("default").agents["east", "n1"]
    assert status.failures[0].reason.startswith("no roomx")
    assert len(status.failures[0].reason) == 300
    agent.confirm(refusal="The kernel has no HTB.", hash=b"")
    assert (bench.state(), status.refusal) == (AgentState.FAILED, "The kernel has no HTB.")


def test_a_workload_without_a_policy_of_the_tenant_does_not_make_its_agent_fail(bench: Bench) -> None:
    """A Pod in its node's network, say, or one whose own annotations are wrong: no change of a policy mends it."""
    refused = Health(workloads=3, programmed=2, failed=1, troubles=["shop/host: The Pod uses its node's network."])
    agent = connected(bench)
    agent.say(health=refused)
    assert bench.state() == AgentState.IN_SYNC, "nothing is desired of it"
    bench.publish()
    bench.until("the policy", agent.take)
    agent.confirm(programmed=1)
    agent.say(health=refused)
    status = bench.fleet.agents("default").agents["east", "n1"]
    assert (bench.state(), status.troubles) == (AgentState.IN_SYNC, tuple(refused.troubles))
    assert (status.workloads, status.programmed, status.failed) == (3, 1, 0)
    agent.confirm(failed=1, failures=[WorkloadState(workload="shop/web-1", state="refused", policy="web")])
    agent.say(health=Health(workloads=3, programmed=3))
    assert bench.state() == AgentState.FAILED, "it has said so of what is desired, and of nothing else since"


def test_figures_are_summed_and_bounded(bench: Bench) -> None:
    bench.publish()
    bench.read()
    agents = [connected(bench, f"n{number}") for number in range(2)]
    for agent in agents:
        lanes = [
            LaneSum(policy="web", lane="web", direction="egress", bytes=100, rate=5),
            LaneSum(policy="web", lane="evil", direction="egress", bytes=2**64 - 1),
        ]
        agent.say(report=Report(lanes=lanes))
    for number in range(1000):
        bench.clock[0] += 0.1
        noise = [LaneSum(policy=f"p{number}", lane=f"l{number}-{n}", direction="egress", bytes=1) for n in range(10)]
        noise += [LaneSum(policy="web", lane=f"l{number}", direction="ingress", bytes=1)]
        agents[1].say(report=Report(lanes=noise))
    assert agents[1].call.ended is None
    figures = bench.fleet.agents("default").figures
    series = {
        (each.policy, each.lane, each.direction): each.values for each in figures.window(int(bench.clock[0]) + 1, 900)
    }
    assert set(series) == {("web", "web", "egress"), ("web", "other", "egress"), ("web", "other", "ingress")}
    assert sum(series["web", "web", "egress"]["bytes"]) == 200
    assert max(series["web", "other", "egress"]["bytes"]) == 2**53 - 1
    assert sum(series["web", "other", "ingress"]["bytes"]) == 1000
    assert figures.window(int(bench.clock[0]) + 1, 900, "none") == []


def test_who_was_away_when_the_next_root_was_made_is_told_of_it(bench: Bench) -> None:
    agent = bench.agent()
    bench.roots.rotate(utc(bench.clock[0]))
    bench.issuer.authority.refresh(utc(bench.clock[0]))
    agent.hello()
    bench.until("the roots", agent.take)
    roots = agent.messages[-1].credentials.roots
    assert roots.count("BEGIN CERTIFICATE") == 2
    bench.clock[0] += 48 * 3600
    again = connected(bench, "n2")
    assert again.take() == [], "the rotation is over"


def test_who_is_here_is_asked_to_move_and_may_stay_until_it_has(bench: Bench) -> None:
    agents = [connected(bench, "n1"), connected(bench, "n2")]
    for session in bench.handler.sessions():
        session.move()
    for agent in agents:
        assert [each.WhichOneof("message") for each in agent.take()] == ["move"]
        assert agent.call.ended is None
    agents[0].call.end()
    assert [session.identity.node for session in bench.handler.sessions()] == ["n2"]


def test_new_roots_are_told_at_once(bench: Bench) -> None:
    agent = connected(bench)
    bench.handler.trust("roots")
    [message] = agent.take()
    assert (message.credentials.roots, message.credentials.certificate_chain) == ("roots", "")
