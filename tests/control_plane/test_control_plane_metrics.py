"""``/metrics`` of the control plane, as Prometheus' own library reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_bench import running_bench
from live_client import live_server
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from waiting import until

from control_plane.bootstrap import another_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import AddCluster, CreateTenant, IssueToken, RemoveCluster
from control_plane.domain.errors import UnknownSubjectError
from control_plane.health import Dependency
from control_plane.http.app import create_app
from control_plane.service import Circumstances

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(api: TestClient, token: str) -> Samples:
    answer = api.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return {
        (sample.name.removeprefix("podlane_control_plane_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_prometheus_is_told_of_agents_events_commands_and_what_is_away(tmp_path: Path, database_url: str) -> None:
    with running_bench(tmp_path, database_url) as bench:
        bench.agent("n1").hello()
        bench.until("it is let in", lambda: bench.state("n1") != "away")
        bench.agent("n2")
        kafka = Dependency("kafka")
        kafka.is_away("nobody listens")
        token = str(another_token(bench.plane))
        api = TestClient(create_app(bench.plane, bench.fleet, dependencies=[kafka], connections=lambda: 7))
        before = samples(api, token)
        assert before["agents", (("state", "in-sync"), ("tenant", "default"))] == 1
        assert before["agents", (("state", "away"), ("tenant", "default"))] == 1
        assert before["agent_connections", ()] == 7
        assert before["dependency_up", (("dependency", "kafka"),)] == 0
        done = ("command_seconds_count", (("outcome", "done"),))
        bench.do(AddCluster("west"))
        with pytest.raises(UnknownSubjectError):
            bench.plane.carry_out("default", RemoveCluster("nowhere"), Circumstances("test"))
        after = samples(api, token)
        assert after[done] == before[done] + 1
        refused = ("command_seconds_count", (("outcome", "refused"),))
        assert after[refused] == before[refused] + 1
        events = ("events_total", (("tenant", "default"),))
        assert after[events] == before[events] + 1
        assert after["unpublished_events", ()] == before["unpublished_events", ()] + 1 > 1


def test_it_wants_a_role_in_the_platform_s_tenant(tmp_path: Path) -> None:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        api = TestClient(create_app(bench.plane, bench.fleet))
        bench.do(CreateTenant(), "other")
        for home, status in (("platform", 200), ("default", 403), ("other", 403)):
            token = new_token(home)
            bench.do(IssueToken(token.id, "", Role.VIEWER, token.digest), home)
            assert api.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == status
        assert api.get("/metrics").status_code == 401


def test_viewers_are_counted(tmp_path: Path) -> None:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench, live_server(bench) as server:
        with server.viewer() as viewer:
            viewer.subscribe(1, "clusters")
            viewer.next("window")
            assert server.place.viewers == 1
            until("it is counted", lambda: server.place.frames == 1)
            assert server.place.bytes > 100
        until("it has left", lambda: server.place.viewers == 0)
