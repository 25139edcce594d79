"""Names that agents say: what is believed of it, whom it can hurt, and what REST makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_bench import Agent, Bench, running_bench
from starlette.testclient import TestClient

from control_plane.bootstrap import another_token
from control_plane.fleet.agent_status import AgentState
from control_plane.fleet.names.seen import (
    MOST_OF_AGENT,
    MOST_OF_WORKLOAD,
    HeardName,
    HourCount,
    NamePlace,
    TenantNames,
)
from control_plane.gateway.rpc import GrpcStatus
from control_plane.http.app import create_app
from fleet_api.agent_pb2 import MatchHits, NamesSeen, Report, SeenName
from traffic_policy.match_key import document_key

POLICY = {
    "total": "10Mbit",
    "classes": [{"name": "api", "rate": "1Mbit", "match": [{"sni": ["api.example.com"]}, {"port": [80]}]}],
}
NOW = 1_800_000_000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


@pytest.fixture
def api(bench: Bench) -> TestClient:
    token = another_token(bench.plane)
    return TestClient(create_app(bench.plane, bench.fleet), headers={"Authorization": f"Bearer {token}"})


def connected(bench: Bench, node: str = "n1") -> Agent:
    agent = bench.agent(node).hello()
    bench.until(f"{node} is let in", lambda: bench.state(node) != AgentState.AWAY)
    return agent


def name(text: str = "www.example.com", **more: Any) -> SeenName:
    said = {"namespace": "shop", "protocol": "tls", "port": 443, "direction": "outbound", "lane": "default"}
    return SeenName(**{"name": text, **said, "decided": "default", "connections": 5, "workload": "shop/a-1", **more})


def every(agent: Agent) -> list[int]:
    return [each.watch.names_every for each in agent.take() if each.WhichOneof("message") == "watch"]


def test_agents_are_asked_seldom_and_more_often_while_somebody_looks(bench: Bench, api: TestClient) -> None:
    agent = connected(bench)
    agent.take()
    agent.say(report=Report())
    assert every(agent) == [60]
    agent.say(report=Report())
    assert every(agent) == [], "it knows"
    assert api.get("/v1/tenants/default/names").json() == {"items": [], "next": None}
    agent.say(report=Report())
    assert every(agent) == [5]
    bench.clock[0] += 61
    agent.say(report=Report())
    assert every(agent) == [60]


def test_ten_thousand_agents_say_it_in_turn() -> None:
    names = TenantNames()
    assert [names.every(NOW, agents) for agents in (1, 3000, 3001, 10_000, 100_000)] == [60, 60, 300, 300, 900]
    names.look(NOW)
    assert [names.every(NOW, agents) for agents in (1, 250, 251, 10_000)] == [5, 5, 15, 300]


def test_what_is_said_of_names_can_be_asked(bench: Bench, api: TestClient) -> None:
    bench.publish("web", POLICY)
    bench.read()
    agent, other = connected(bench), connected(bench, "n2")
    agent.say(
        names=NamesSeen(names=[name(policy="web"), name("api.example.com", policy="web", lane="api", decided="name")])
    )
    other.say(names=NamesSeen(names=[name(policy="web", connections=7, workload="shop/b-1"), name(policy="gone")]))
    other.say(
        names=NamesSeen(names=[name("h.example", protocol="http1", port=80, lane="api", decided="port", namespace="x")])
    )
    listed = api.get("/v1/tenants/default/names").json()["items"]
    assert [(each["name"], each["kind"], each["connections"]) for each in listed] == [
        ("www.example.com", "sni", 12),
        ("api.example.com", "sni", 5),
        ("h.example", "host", 5),
    ]
    assert listed[0]["workload"] == "shop/b-1"
    assert (listed[0]["policy"], listed[0]["cluster"], listed[0]["last_seen"]) == ("web", "east", int(bench.clock[0]))

    def found(**asked: object) -> list[str]:
        answer = api.get("/v1/tenants/default/names", params=asked)
        assert answer.status_code == 200, answer.text
        return [each["name"] for each in answer.json()["items"]]

    assert found(decided=["default", "port"]) == ["www.example.com", "h.example"]
    assert found(namespace="x") == ["h.example"]
    assert found(policy="web", sort="name") == ["api.example.com", "www.example.com"]
    assert found(policy="") == ["h.example"]
    assert found(cluster="west") == []
    assert found(name="EXAMPLE.com") == ["www.example.com", "api.example.com"]
    first = api.get("/v1/tenants/default/names", params={"limit": 2}).json()
    rest = api.get("/v1/tenants/default/names", params={"limit": 2, "cursor": first["next"]}).json()
    assert [each["name"] for each in rest["items"]] == ["h.example"]
    assert rest["next"] is None

    # Sorted into a lane since then: it is where it was last.
    bench.clock[0] += 60
    agent.say(names=NamesSeen(names=[name(policy="web", lane="api", decided="name")]))
    assert found(decided=["default"]) == []
    bench.clock[0] += 3600
    assert found() == []


def test_hits_are_those_of_the_matches_that_there_are(bench: Bench, api: TestClient) -> None:
    bench.publish("web", POLICY)
    bench.read()
    agent = connected(bench)
    with bench.plane.reading("default") as state:
        matches = state.policies["web"].in_force.document["classes"][0]["match"]
    hits = [
        MatchHits(policy="web", lane="api", match=document_key(matches[0]), connections=4),
        MatchHits(policy="web", lane="other", match=document_key(matches[0]), connections=400),
        MatchHits(policy="web", lane="api", match=bytes(8), connections=400),
        MatchHits(policy="web", lane="default", connections=2**64 - 1),
        MatchHits(policy="gone", lane="api", match=document_key(matches[0]), connections=400),
    ]
    agent.say(names=NamesSeen(matches=hits))
    answer = api.get("/v1/tenants/default/policies/web/hits").json()
    assert (answer["policy"], answer["revision"]) == ("web", 1)
    assert [(each["lane"], each["match"], each["connections"]) for each in answer["matches"]] == [
        ("api", matches[0], 4),
        ("api", matches[1], 0),
        ("default", None, 2**32),
    ]
    assert api.get("/v1/tenants/default/policies/gone/hits").status_code == 404
    # Another revision, without the first match: its hits are forgotten.
    bench.publish("web", {**POLICY, "classes": [{**POLICY["classes"][0], "match": [{"port": [80]}]}]})
    bench.read()
    agent.say(names=NamesSeen(matches=hits[:1]))
    answer = api.get("/v1/tenants/default/policies/web/hits").json()
    assert [each["connections"] for each in answer["matches"]] == [0, 2**32]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (NamesSeen(names=[name()] * 257), "257 names"),
        (NamesSeen(names=[name("<script>")]), "no name of a host"),
        (NamesSeen(names=[name("x" * 254)]), "no name of a host"),
        (NamesSeen(names=[name("")]), "no name of a host"),
        (NamesSeen(names=[name(port=65536)]), "that there is not"),
        (NamesSeen(names=[name(protocol="smtp")]), "that there is not"),
        (NamesSeen(names=[name(direction="up")]), "that there is not"),
        (NamesSeen(names=[name(decided="")]), "that there is not"),
        (NamesSeen(names=[name(lane="x" * 64)]), "too long"),
        (NamesSeen(names=[name(workload="\0")]), "no text"),
        (NamesSeen(matches=[MatchHits(match=b"12345")]), "name no match"),
        (NamesSeen(matches=[MatchHits()] * 1025), "1025 matches"),
    ],
)
def test_what_must_not_be_said(bench: Bench, message: NamesSeen, words: str) -> None:
    agent = connected(bench)
    agent.say(names=message)
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.INVALID_ARGUMENT
    assert words in agent.call.ended[1]
    assert bench.fleet.agents("default").names.seen(bench.clock[0]) == []


def test_who_says_it_too_often_is_not_heard(bench: Bench) -> None:
    agent = connected(bench)
    for _ in range(20):
        agent.say(names=NamesSeen(names=[name(connections=1)]))
    [seen] = bench.fleet.agents("default").names.seen(bench.clock[0])
    assert seen.connections == 4
    assert agent.call.ended is None


def heard(text: str, workload: str, connections: int = 1) -> HeardName:
    return HeardName(
        NamePlace("east", "shop", "", text, "tls", 443, "outbound"), "default", "default", connections, workload
    )


def test_nobody_pushes_out_the_names_of_others() -> None:
    names = TenantNames(most=2000)
    honest = [("east", f"n{number}") for number in range(50)]
    for agent in honest:
        names.add(NOW, agent, [heard(f"{number}.{agent[1]}.example", f"shop/{agent[1]}") for number in range(20)])
    names.add(NOW, ("east", "evil"), [heard("quiet.example", "shop/neighbour")])
    for number in range(20_000):  # one agent invents names and workloads without end
        names.add(NOW, ("east", "evil"), [heard(f"{number}.evil.example", f"evil/{number % 500}", 2**32)])
    found = {each.place.name for each in names.seen(NOW)}
    assert len(found) == 50 * 20 + MOST_OF_AGENT
    assert all(f"{number}.{agent[1]}.example" in found for agent in honest for number in range(20))
    # Many do: who has most loses, and that is not one of the honest ones.
    for number in range(4000):
        names.add(NOW, ("east", f"evil{number % 4}"), [heard(f"{number}.evils.example", f"evil/{number % 50}", 2**32)])
    found = {each.place.name for each in names.seen(NOW)}
    assert len(found) == 2000
    assert all(f"{number}.{agent[1]}.example" in found for agent in honest for number in range(20))


def test_a_workload_pushes_out_its_own_names_alone() -> None:
    names = TenantNames()
    names.add(NOW, ("east", "n1"), [heard("quiet.example", "shop/quiet")])
    for number in range(5000):
        names.add(NOW, ("east", "n1"), [heard(f"{number}.example", "shop/loud", 1000)])
    found = [each.place.name for each in names.seen(NOW)]
    assert "quiet.example" in found
    assert len(found) == MOST_OF_WORKLOAD + 1


def test_a_count_is_of_the_last_hour() -> None:
    count = HourCount()
    for minute in range(300):
        count.add(minute, 2)
    assert count.total == 120
    assert [count.at(minute) for minute in (299, 300, 329, 358, 359, 10**9)] == [120, 118, 60, 2, 0, 0]
    count.turn(329)
    assert count.total == 60
    count.turn(10**9)
    assert count.total == 0
    count.add(10**9, 5)
    count.add(10**9 - 5, 1)  # a clock that was set back
    assert count.total == 6
