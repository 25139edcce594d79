"""Budgets of bytes, from what agents report to what REST, metrics and alerts say; over restarts and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fleet_bench import Bench, running_bench
from starlette.testclient import TestClient

from control_plane.alerts.sight import TenantSight
from control_plane.bootstrap import another_token
from control_plane.budgets.meter import VolumeMeter
from control_plane.domain.alert_evaluation import RuleWatch
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.commands import FireAlert
from control_plane.http.app import create_app
from control_plane.store.backup import backup_lines, restore
from control_plane.store.errors import StoreError
from control_plane.store.event_store import open_store
from control_plane.store.lane_volumes import KEPT, DayVolume
from fleet_api.agent_pb2 import LaneSum, Report

BUDGETS = "/v1/tenants/default/budgets"
GIB = 2**30
NOON = int(datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp())


class Process:
    """A control plane with one agent; its meter writes when the test says so."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.clock[0] = NOON
        self.meter = VolumeMeter(bench.store.volumes, bench.fleet, lambda: bench.clock[0])
        token = another_token(bench.plane)
        self.api = TestClient(create_app(bench.plane, bench.fleet), headers={"Authorization": f"Bearer {token}"})
        node = f"n{id(self)}"
        self.agent = bench.agent(node).hello()
        if not bench.revision():
            bench.publish()
        bench.read()
        bench.until("it is let in", lambda: ("east", node) in bench.fleet.agents("default").agents)

    def report(self, size: int, policy: str = "web", lane: str = "web", direction: str = "egress") -> None:
        """It has sent so much in this second, and the next begins."""
        found = LaneSum(policy=policy, lane=lane, direction=direction, packets=1, bytes=size)
        self.agent.say(report=Report(interval_ms=1000, lanes=[found]))
        self.bench.clock[0] += 1

    def write(self) -> None:
        self.meter.write(int(self.bench.clock[0]))

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.api.request(method, f"{BUDGETS}{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def used(self, name: str = "month") -> int:
        found: int = self.ask("GET", f"/{name}")["used"]
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Process]]:
    """Starts another process on the same database."""
    url = f"sqlite:{tmp_path / 'events.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_database")()
    with ExitStack() as stack:
        yield lambda: Process(stack.enter_context(running_bench(tmp_path, url)))


def test_what_agents_report_counts_in_its_day_and_month(start: Callable[[], Process]) -> None:
    process = start()
    process.report(GIB)
    process.write()
    process.ask("PUT", "/month", {"bytes": 10 * GIB, "policy": "web", "class": "web"})
    process.ask("PUT", "/day", {"bytes": 4 * GIB, "period": "day", "direction": "egress"})
    assert process.used("month") == GIB, "what was before it was made counts, too"
    process.report(2 * GIB)
    process.report(5 * GIB, direction="ingress")
    process.report(7, policy="", lane="other")
    process.write()
    process.write()
    [day, month] = process.ask("GET", "")["items"]
    assert (month["used"], month["share"], month["class"]) == (8 * GIB, 0.8, "web")
    assert (day["used"], day["until"]) == (3 * GIB + 7, NOON + 43_200)
    # Eight of ten in 14.5 days, and three of four in half a day.
    assert month["used_up"] == pytest.approx(NOON + 3.625 * 86_400, abs=60)
    assert day["used_up"] == pytest.approx(NOON + 4 * 3600, abs=60)
    process.bench.clock[0] += 86_400
    assert process.used("day") == 0
    assert process.ask("GET", "/day")["used_up"] is None
    process.report(9)
    process.write()
    assert (process.used("day"), process.used("month")) == (9, 8 * GIB + 9)
    process.bench.clock[0] += 17 * 86_400
    assert process.used("month") == 0


def test_it_is_of_all_processes_and_of_before_a_restart(start: Callable[[], Process]) -> None:
    one = start()
    one.ask("PUT", "/month", {"bytes": 10 * GIB})
    one.report(GIB)
    two = start()
    two.report(2 * GIB)
    one.write()
    two.meter.close()  # with the second that is not over yet
    assert one.used() == two.used() == 3 * GIB
    three = start()
    assert three.used() == 3 * GIB
    three.report(4)
    three.write()
    assert one.used() == 3 * GIB + 4


def test_nothing_is_lost_while_the_database_is_away(
    start: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    process.ask("PUT", "/month", {"bytes": 10 * GIB})

    def away(*_: object) -> None:
        raise StoreError("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(process.bench.store.volumes, "add", away)
        for _ in range(3):
            process.report(100)
            with pytest.raises(StoreError):
                process.write()
    process.report(100)
    process.write()
    assert process.used() == 400


def test_what_an_agent_makes_up_overflows_nothing_and_is_the_tenants_own(start: Callable[[], Process]) -> None:
    process = start()
    process.ask("PUT", "/month", {"bytes": 1})
    for _ in range(3):
        process.report(2**64 - 1)
        process.write()
    assert process.used() == 2**53 - 1
    with process.bench.plane.reading("other") as tenant:
        assert process.bench.plane.budgets.uses(tenant, NOON) == {}


def test_an_alert_tells_when_a_share_is_used(start: Callable[[], Process]) -> None:
    process = start()
    process.ask("PUT", "/month", {"bytes": 10 * GIB, "class": "web"})
    bench, rule = process.bench, AlertRule(AlertKind.VOLUME_BUDGET, 0.8, {"budget": "month"})
    watch = RuleWatch("default", "much", rule)

    def look() -> list[Any]:
        bench.clock[0] += 6
        now = int(bench.clock[0])
        with bench.plane.reading("default") as tenant:
            sight = TenantSight(
                tenant, bench.fleet.agents("default"), now, 0, lambda: bench.plane.budgets.uses(tenant, now, 5)
            )
            return watch.step(sight.readings(rule), frozenset(), now)

    process.report(8 * GIB)
    process.write()
    assert look() == []
    process.report(GIB)
    process.write()
    [fired] = look()
    assert isinstance(fired, FireAlert)
    assert (fired.labels["budget"], fired.labels["class"], fired.value) == ("month", "web", 0.9)
    assert fired.annotations["summary"] == "90.0% of the budget month used: 9.0 GiB of 10.0 GiB per month"
    assert 'budget_used_bytes{tenant="default",budget="month"} 9663676416' in process.api.get("/metrics").text
    assert 'budget_bytes{tenant="default",budget="month"} 10737418240' in process.api.get("/metrics").text


def test_a_budget_is_changed_as_everything_is(start: Callable[[], Process]) -> None:
    process = start()
    made = process.ask("PUT", "/a", {"bytes": 5})
    assert (made["period"], made["policy"], made["share"]) == ("month", "", 0)
    stale = process.api.put(f"{BUDGETS}/a", json={"bytes": 6}, headers={"If-Match": f'"{made["version"] - 1}"'})
    assert stale.status_code == 412
    dry = process.api.put(f"{BUDGETS}/a", json={"bytes": 6}, params={"dry-run": "true"}).json()
    assert [each["kind"] for each in dry["events"]] == ["BudgetSet"]
    assert process.ask("GET", "/a")["bytes"] == 5
    for wrong in ({"bytes": 0}, {"bytes": 1, "direction": "up"}, {"bytes": 1, "period": "year"}, {}):
        process.ask("PUT", "/a", wrong, status=422)
    process.ask("PUT", "/Not a name", {"bytes": 1}, status=422)
    process.ask("DELETE", "/a")
    for method in ("GET", "DELETE"):
        process.ask(method, "/a", status=404)


def test_days_of_long_ago_are_forgotten_and_a_backup_has_the_others(
    start: Callable[[], Process], tmp_path: Path
) -> None:
    store = start().bench.store
    store.volumes.add({"default": [DayVolume(100, "web", "web", "egress", 1)]})
    store.volumes.add({"default": [DayVolume(100 + KEPT, "web", "web", "egress", 2), DayVolume(102, "", "", "", 3)]})
    assert sum(row[3] for row in store.volumes.since("default", 0, 0)) == 6
    store.volumes.add({"default": [DayVolume(101 + KEPT, "web", "web", "egress", 4)]})
    assert sum(row[3] for row in store.volumes.since("default", 0, 0)) == 9
    with closing(open_store(f"sqlite:{tmp_path / 'restored.db'}")) as restored:
        restore(restored, backup_lines(store, 0))
        assert list(restored.volumes.read_all("default")) == list(store.volumes.read_all("default"))
