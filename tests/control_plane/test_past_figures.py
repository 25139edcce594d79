"""Figures by REST: of the last minutes from memory, of long ago by a real Prometheus that reads our metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_bench import Agent, Bench, running_bench
from live_client import live_server
from prometheus_server import prometheus_server
from starlette.testclient import TestClient
from waiting import until

from control_plane.bootstrap import another_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import AddCluster, CreateTenant, IssueToken
from control_plane.fleet.figures import TenantFigures
from control_plane.http.app import create_app
from fleet_api.agent_pb2 import LaneSum, Report

PAST = "/v1/tenants/default/figures/past"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


def api_of(bench: Bench, prometheus: str = "") -> TestClient:
    app = create_app(bench.plane, bench.fleet, prometheus=prometheus)
    return TestClient(app, headers={"Authorization": f"Bearer {another_token(bench.plane)}"})


def reporting_agent(bench: Bench) -> Agent:
    bench.publish()
    agent = bench.agent("n1").hello()
    bench.until("it is let in", lambda: bench.state("n1") != "away")
    bench.until("the policy is known", lambda: bench.fleet.agents("default").figures.known)
    return agent


def say(agent: Agent, size: int) -> None:
    agent.say(report=Report(lanes=[LaneSum(policy="web", lane="web", direction="egress", bytes=size, workloads=1)]))


def test_figures_of_one_cluster(bench: Bench) -> None:
    bench.do(AddCluster("west"))
    say(reporting_agent(bench), 700)
    bench.clock[0] += 1
    api = api_of(bench)
    told = {
        cluster: api.get("/v1/tenants/default/figures", params={"cluster": cluster, "seconds": 1}).json()["lanes"]
        for cluster in ("east", "west", "nowhere")
    }
    assert [lane["bytes"] for lane in told["east"]] == [[700]]
    assert told["west"] == told["nowhere"] == []


def test_prometheus_reads_lanes_and_tells_of_them(bench: Bench, tmp_path: Path) -> None:
    """Each of a tenant's own alone, whatever is asked for."""
    agent = reporting_agent(bench)
    with live_server(bench) as server:
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                {
                    "job_name": "control-plane",
                    "authorization": {"credentials": server.token},
                    "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
                }
            ],
        }
        (tmp_path / "prometheus").mkdir()
        with prometheus_server(tmp_path / "prometheus", json.dumps(configuration)) as url:
            api = api_of(bench, url)

            def lanes(**asked: object) -> list[dict]:
                now = int(time.time())
                asked = {"since": now - 20, "until": now, "step": 1, **asked}
                answer = api.get(PAST, params=asked)
                assert answer.status_code == 200, answer.text
                assert answer.json()["points"] == 21
                return answer.json()["lanes"]

            def known() -> list[dict]:
                say(agent, 10_000)
                bench.clock[0] += 1
                return [each for each in lanes() if any(each["values"])]

            [lane] = until("its values", known)
            assert (lane["policy"], lane["lane"], lane["direction"]) == ("web", "web", "egress")
            assert len(lane["values"]) == 21
            assert lane["values"][0] is None  # nobody knows
            assert lanes(policy="web", lane="web", direction="egress", counter="packets")
            assert lanes(policy="web", direction="ingress") == []
            assert lanes(policy='web"} or up{x="') == []
            bench.do(CreateTenant(), "other")
            token = new_token("other")
            bench.do(IssueToken(token.id, "", Role.VIEWER, token.digest), "other")
            theirs = {"Authorization": f"Bearer {token}"}
            asked = {"since": int(time.time()) - 20, "until": int(time.time()), "step": 1}
            assert api.get(PAST, params=asked, headers=theirs).status_code == 403
            answer = api.get("/v1/tenants/other/figures/past", params=asked, headers=theirs)
            assert answer.json()["lanes"] == []
        gone = api.get(PAST, params={"since": 1, "until": 2})
        assert (gone.status_code, gone.json()["type"]) == (503, "urn:podlane:problem:prometheus-failed")


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"since": 2, "until": 1}, 422, "not before"),
        ({"since": 0, "until": 10_000, "step": 1}, 422, "10001 points"),
        ({"since": 1, "until": 2}, 409, "no Prometheus"),
        ({"since": 1, "until": 2, "counter": "rate"}, 422, "1 values"),
    ],
)
def test_what_cannot_be_asked(bench: Bench, asked: dict[str, object], status: int, told: str) -> None:
    answer = api_of(bench).get(PAST, params=asked)
    assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text
    assert answer.json()["remedy"]


def test_what_is_no_prometheus(bench: Bench, tmp_path: Path) -> None:
    answer = api_of(bench, tmp_path.as_uri()).get(PAST, params={"since": 1, "until": 2})
    assert answer.status_code == 503


def test_counters_only_grow_and_go_with_their_policy() -> None:
    figures = TenantFigures(2)
    figures.know({"web": frozenset(["web"]), "old": frozenset(["web"])})
    sums = [LaneSum(policy=name, lane="web", direction="egress", bytes=5, dropped=1) for name in ("web", "old")]
    for second in range(1, 4):
        figures.add(second, "east/n1", sums)
    assert figures.counters(3)["web", "web", "egress"] == (10, 0, 2, 0)  # not the second that goes on
    assert figures.counters(4)["web", "web", "egress"] == (15, 0, 3, 0)
    figures.know({"web": frozenset(["web"])})
    assert set(figures.counters(5)) == {("web", "web", "egress")}


def test_what_holds_stays_while_an_agent_is_here() -> None:
    """One whose report comes late has its ceilings all the same, and one whose next comes soon has them once."""
    figures = TenantFigures()
    figures.know({"web": frozenset(["web", "api"])})

    def says(second: int, node: str, *lanes: str, ceil: int = 10) -> None:
        sums = [LaneSum(policy="web", lane=each, direction="egress", bytes=5, workloads=2, ceil=ceil) for each in lanes]
        figures.add(second, f"east/{node}", sums)

    def seen(until: int, seconds: int, field: str, lane: str = "web") -> list[int]:
        found = {each.lane: each.values[field] for each in figures.window(until, seconds)}
        return found.get(lane, [])

    says(1, "n2", "web", ceil=20)
    for second in (1, 2, 3):
        says(second, "n1", "web", "api")
    for _ in range(2):
        says(3, "n2", "web", ceil=20)
    assert seen(4, 3, "bytes") == [10, 5, 15]
    assert seen(4, 3, "ceil") == [30, 30, 30]
    assert seen(4, 3, "workloads") == [4, 4, 4]
    says(4, "n1", "web", ceil=15)
    assert (seen(5, 1, "ceil"), seen(5, 1, "ceil", "api")) == ([35], []), "it has this lane no longer"
    figures.left("east/n2")
    figures.left("east/n2")
    says(6, "n1", "api", "web", ceil=15)
    assert seen(7, 2, "ceil") == [0, 15], "of a second in which nobody speaks nothing is known"


def test_what_holds_is_kept_when_another_policy_is_forgotten() -> None:
    figures = TenantFigures(3)
    figures.know({"old": frozenset(["web"]), "web": frozenset(["web"])})
    for node in ("n1", "n2"):
        sums = [
            LaneSum(policy=name, lane="web", direction="egress", workloads=1, rate=rate)
            for name, rate in (("old", 7), ("web", 10))
        ]
        figures.add(1, f"east/{node}", sums)
    figures.know({"web": frozenset(["web"])})
    figures.add(2, "east/n1", [LaneSum(policy="web", lane="web", direction="egress", workloads=1, rate=5)])
    [series] = figures.window(3, 2)
    assert (series.policy, series.values["rate"]) == ("web", [20, 15])
