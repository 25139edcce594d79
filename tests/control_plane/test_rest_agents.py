"""Agents, progress and figures by REST: what is told of what agents say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_bench import Agent, Bench, running_bench
from starlette.testclient import TestClient

from control_plane.bootstrap import another_token
from control_plane.certificates.authority import utc
from control_plane.domain.commands import AddCluster, EnrolAgent, IssueJoinToken, RemovePolicy
from control_plane.fleet.invitation import Invitation
from control_plane.http import agents
from control_plane.http.app import create_app
from fleet_api.agent_pb2 import Health, LaneSum, Report, WorkloadState

PLACE = "/v1/tenants/default"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


@pytest.fixture
def api(bench: Bench) -> TestClient:
    invitation = Invitation("fleet.example.com:15181", bench.issuer.authority, lambda: bench.clock[0])
    app = create_app(bench.plane, bench.fleet, invitation)
    return TestClient(app, headers={"Authorization": f"Bearer {another_token(bench.plane)}"})


def connected(bench: Bench, node: str) -> Agent:
    agent = bench.agent(node).hello()
    bench.until(f"{node} is let in", lambda: bench.state(node) != "away")
    return agent


def enrolled(bench: Bench, node: str, cluster: str) -> None:
    bench.do(IssueJoinToken(cluster, node, "d" * 64, int(bench.clock[0]) + 60))
    bench.do(EnrolAgent(cluster, node, node, "d" * 64, "1f"))


def listed(api: TestClient, **query: Any) -> list[tuple[str, str, str]]:
    answer = api.get(f"{PLACE}/agents", params=query)
    assert answer.status_code == 200, answer.text
    return [(each["cluster"], each["node"], each["state"]) for each in answer.json()["items"]]


def test_agents_are_listed_by_state_and_cluster_page_by_page(
    bench: Bench, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.do(AddCluster("west"))
    enrolled(bench, "n9", "west")
    enrolled(bench, "n8", "east")
    good, failing, late = connected(bench, "n1"), connected(bench, "n2"), connected(bench, "n3")
    bench.publish()
    bench.until("the policy", lambda: good.take() and failing.take() and late.take())
    good.confirm()
    failing.confirm(failed=1, failures=[WorkloadState(workload="a/b", state="failed", reason="no room", policy="web")])
    all_five = [
        ("east", "n1", "in-sync"),
        ("east", "n2", "failed"),
        ("east", "n3", "behind"),
        ("east", "n8", "away"),
        ("west", "n9", "away"),
    ]
    assert listed(api) == all_five
    assert listed(api, state="away") == all_five[3:]
    assert listed(api, state="failed", cluster="east") == [all_five[1]]
    monkeypatch.setattr(agents, "_FEW", 0)
    assert listed(api, state="failed", cluster="east") == [all_five[1]], "also where there are too many to name"
    assert listed(api, cluster="west") == all_five[4:]
    found, cursor = [], ""
    while cursor is not None:
        page = api.get(f"{PLACE}/agents", params={"limit": 2, "cursor": cursor}).json()
        found += [each["node"] for each in page["items"]]
        cursor = page["next"]
    assert found == ["n1", "n2", "n3", "n8", "n9"]
    assert api.get(f"{PLACE}/agents", params={"state": "lost"}).status_code == 422


def test_an_agent_is_told_of_in_full(bench: Bench, api: TestClient) -> None:
    agent = connected(bench, "n1")
    agent.say(health=Health(memory_bytes=30 << 20, workloads=3, programmed=2, failed=1, troubles=["disk\0full"]))
    bench.publish()
    bench.until("the policy", agent.take)
    agent.confirm(failed=1, failures=[WorkloadState(workload="a/b", state="failed", reason="no room", policy="web")])
    told = api.get(f"{PLACE}/clusters/east/agents/n1").json()
    assert (told["state"], told["revision"], told["desired"]) == ("failed", bench.revision(), bench.revision())
    assert told["failures"] == [{"workload": "a/b", "state": "failed", "reason": "no room", "policy": "web"}]
    assert (told["memory"], told["troubles"], told["kernel"]) == (30 << 20, ["disk full"], "6.1")
    assert told["expires"] == bench.clock[0] + 24 * 3600
    assert told["joined"] == bench.clock[0]
    for path in ("clusters/east/agents/n2", "clusters/west/agents/n1"):
        assert api.get(f"{PLACE}/{path}").status_code == 404


def progress(api: TestClient, policy: str = "web") -> dict[str, int]:
    told = api.get(f"{PLACE}/policies/{policy}/progress").json()
    return {name: told[name] for name in ("revision", "agents", "in_force", "failed", "behind", "away")}


def test_whether_a_change_has_reached_everyone(bench: Bench, api: TestClient) -> None:
    one, two = connected(bench, "n1"), connected(bench, "n2")
    enrolled(bench, "n9", "east")
    assert api.get(f"{PLACE}/policies/web/progress").status_code == 404
    bench.publish()
    bench.until("the policy", lambda: one.take() and two.take())
    assert progress(api) == {"revision": 1, "agents": 3, "in_force": 0, "failed": 0, "behind": 2, "away": 1}
    one.confirm()
    two.confirm(refusal="no HTB")
    assert progress(api) == {"revision": 1, "agents": 3, "in_force": 1, "failed": 1, "behind": 0, "away": 1}
    one.confirm(
        failed=2, failures=[WorkloadState(workload="a/b", policy="db"), WorkloadState(workload="a/c", policy="web")]
    )
    assert progress(api) == {"revision": 1, "agents": 3, "in_force": 0, "failed": 2, "behind": 0, "away": 1}
    one.confirm()
    # Another policy's change is not this one's.
    bench.publish("db")
    bench.until("the policy", lambda: one.take() and two.take())
    assert progress(api)["in_force"] == 1
    two.confirm()
    assert progress(api) == {"revision": 1, "agents": 3, "in_force": 2, "failed": 0, "behind": 0, "away": 1}
    assert progress(api, "db")["in_force"] == 1
    bench.do(RemovePolicy("web"))
    assert progress(api)["in_force"] == 0


def test_figures_of_the_last_seconds(bench: Bench, api: TestClient) -> None:
    bench.publish()
    bench.read()
    agent = connected(bench, "n1")
    for number in (1, 2, 3):
        lanes = [LaneSum(policy="web", lane="web", direction="egress", bytes=100 * number, workloads=4, rate=1000)]
        agent.say(report=Report(interval_ms=1000, lanes=lanes))
        bench.clock[0] += 1
    [lane] = api.get(f"{PLACE}/figures", params={"seconds": 3}).json()["lanes"]
    assert (lane["policy"], lane["lane"], lane["direction"]) == ("web", "web", "egress")
    assert (lane["bytes"], lane["workloads"], lane["rate"]) == ([100, 200, 300], 4, 1000)
    [lane] = api.get(f"{PLACE}/figures", params={"seconds": 6}).json()["lanes"]
    assert (lane["bytes"], lane["workloads"], lane["rate"]) == ([0, 0, 0, 100, 200, 300], 4, 1000)
    assert api.get(f"{PLACE}/figures", params={"policy": "db"}).json()["lanes"] == []
    assert api.get(f"{PLACE}/figures", params={"seconds": 901}).status_code == 422


def test_a_join_token_says_where_to_go_and_whom_to_trust(bench: Bench, api: TestClient) -> None:
    issued = api.post(f"{PLACE}/clusters/east/join-tokens", json={"node": "n1"}).json()
    assert issued["control_plane"] == "fleet.example.com:15181"
    text, _, digest = issued["token"].partition(".")
    assert digest == bench.issuer.authority.current.roots[0].digest
    assert bench.enrol(text, "n1").roots
    assert api.post(f"{PLACE}/clusters/east/join-tokens", json={"node": "No node"}).status_code == 422


def test_the_ca_is_told_to_who_has_no_digest_of_it(bench: Bench, api: TestClient) -> None:
    assert api.get(f"{PLACE}/roots").json()["roots"] == bench.issuer.authority.current.roots[0].pem.decode()
    bench.roots.rotate(utc(bench.clock[0]))
    bench.issuer.authority.refresh(utc(bench.clock[0]))
    assert api.get(f"{PLACE}/roots").json()["roots"].count("BEGIN CERTIFICATE") == 2


def test_a_cluster_can_be_trusted_to_know_its_agents(bench: Bench, api: TestClient) -> None:
    ca = bench.issuer.authority.current.roots[0].pem.decode()
    wish = {"url": "https://10.0.0.1:6443", "ca": ca, "service_account": "podlane/podlane-agent"}
    done = api.put(f"{PLACE}/clusters/east/trust", json=wish)
    assert [each["kind"] for each in done.json()["events"]] == ["ClusterTrusted"]
    assert api.put(f"{PLACE}/clusters/east/trust", json=wish).json()["events"] == []
    assert api.put(f"{PLACE}/clusters/east/trust", json=wish | {"url": "http://x"}).status_code == 422
    assert len(api.put(f"{PLACE}/clusters/east/trust", json={}).json()["events"]) == 1
