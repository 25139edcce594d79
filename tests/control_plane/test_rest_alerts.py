"""Alerts by REST: rules, trials, silences and channels, as a client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_servers import Hook, running_hook
from starlette.testclient import TestClient

from control_plane.alerts.desk import desk_of
from control_plane.alerts.driver import AlertDriver
from control_plane.alerts.reach import Reach
from control_plane.alerts.secrets import ChannelSecrets
from control_plane.bootstrap import first_token
from control_plane.fleet.agent_status import FleetStatus
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store
from fleet_api.agent_pb2 import LaneSum

ALERTS = "/v1/tenants/default/alerts"
NOW = 1_800_000_000
RULE = {"kind": "throttled", "threshold": 0.5, "over": 10}


class Desk:
    """A control plane whose agents' figures are put by the test."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.store = open_store(f"sqlite:{folder / 'events.db'}")
        self.plane = ControlPlane(self.store, lambda: self.now)
        self.fleet = FleetStatus()
        (folder / "default.ops").write_text("word")
        reach = Reach.parse("127.0.0.0/8")
        self.desk = desk_of(self.plane, reach, ChannelSecrets(folder), lambda: self.now)
        token = first_token(self.plane)
        self.api = TestClient(
            create_app(self.plane, self.fleet, desk=self.desk), headers={"Authorization": f"Bearer {token}"}
        )
        self.driver = AlertDriver(self.plane, self.fleet, self.desk.view, self.desk.teller, lambda: self.now, NOW)
        self.fleet.agents("default").figures.know({"web": frozenset({"web"})})

    def pass_time(self, seconds: int, overlimits: int) -> None:
        for _ in range(seconds):
            lane = LaneSum(policy="web", lane="web", direction="egress", packets=100, overlimits=overlimits)
            self.fleet.agents("default").figures.add(self.now, "east/n1", [lane])
            self.now += 1
            self.driver.look()

    def ask(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        answer = self.api.request(method, ALERTS + path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.driver.close()
    found.store.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as found:
        yield found


def test_a_rule_is_put_seen_changed_and_removed(desk: Desk) -> None:
    made = desk.ask("PUT", "/rules/slow", RULE)
    assert (made["state"], made["for"], made["severity"]) == (None, 0, "warning")
    desk.pass_time(12, 90)
    [seen] = desk.ask("GET", "/rules")["items"]
    assert (seen["state"], seen["firing"]) == ("firing", 1)
    assert seen["values"][0]["says"] == "90.0%"
    assert seen["values"][0]["labels"] == {"policy": "web", "class": "web", "direction": "egress"}
    version = made["version"]
    assert desk.ask("PUT", "/rules/slow", {**RULE, "for": 60}, 200, **{"If-Match": f'"{version}"'})["for"] == 60
    refused = desk.ask("PUT", "/rules/slow", RULE, 412, **{"If-Match": f'"{version}"'})
    assert "changed meanwhile" in refused["title"]
    desk.ask("DELETE", "/rules/slow")
    assert desk.ask("GET", "/rules/slow", status=404)["remedy"] == "Look at the list of rules."


def test_alerts_are_listed_with_what_became_of_them(desk: Desk, hook: Hook) -> None:
    desk.ask("PUT", "/channels/ops", {"kind": "webhook", "url": hook.url})
    desk.ask("PUT", "/rules/slow", RULE)
    desk.pass_time(12, 90)
    desk.driver.close()
    assert desk.ask("GET", "/channels/ops")["trouble"] == ""
    [alert] = desk.ask("GET", "?state=firing")["items"]
    assert alert["told"] == [{"channel": "ops", "state": "firing", "trouble": ""}]
    assert (alert["ended"], alert["silenced_by"], alert["rule"]) == (None, [], "slow")
    assert desk.ask("GET", "?state=resolved")["items"] == []
    assert desk.ask("GET", "?severity=critical")["items"] == []
    assert len(hook.got) == 1


def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    happened = desk.ask("PUT", "/rules/slow?dry-run=true", RULE)
    assert [each["kind"] for each in happened["events"]] == ["AlertRuleSet"]
    desk.ask("GET", "/rules/slow", status=404)


def test_a_trial_says_how_often_it_would_have_fired(desk: Desk) -> None:
    for overlimits in (90, 0, 90, 0, 90):
        desk.pass_time(60, overlimits)
    found = desk.ask("POST", "/trial", {"rule": {**RULE, "for": 5}})
    assert (found["fired"], found["seconds"], found["worst"]) == (3, 890, 0.9)
    assert found["says"] == "It would have fired 3 times in the last 890 s; at worst 90.0%"
    first = found["alerts"][0]
    # After the first second all is beyond half, and 5 later it fires; after 65 it is 5 of 10, and over 30 later.
    assert (first["at"], first["seconds"]) == (NOW + 1 + 5, 65 + 30 - 6)
    assert desk.ask("POST", "/trial", {"rule": {**RULE, "threshold": 0.95}})["fired"] == 0
    elsewhere = desk.ask("POST", "/trial", {"rule": {**RULE, "scope": {"cluster": "west"}}})
    assert (elsewhere["fired"], elsewhere["worst"]) == (0, None)
    away = desk.ask("POST", "/trial", {"rule": {"kind": "agents-away", "threshold": 0}})
    assert (away["seconds"], away["says"]) == (0, "Of what rules of the kind agents-away look at, the past is not kept")
    assert desk.ask("GET", "")["items"] == []


def test_what_fires_in_a_trial_fires(desk: Desk) -> None:
    """The same rule over the same figures, looked at as they came."""
    desk.ask("PUT", "/rules/slow", {**RULE, "for": 3})
    for overlimits in (90, 0, 60, 52, 0, 90):
        desk.pass_time(45, overlimits)
    fired = [e for e in desk.store.read_all("default", 0) if e.kind == "AlertFired"]
    over = [e for e in desk.store.read_all("default", 0) if e.kind == "AlertResolved"]
    trial = desk.ask("POST", "/trial", {"name": "slow", "rule": {**RULE, "for": 3}})
    assert [each["at"] for each in trial["alerts"]] == [event.data["at"] for event in fired]
    assert [each["at"] + each["seconds"] for each in trial["alerts"]][: len(over)] == [e.data["at"] for e in over]
    assert len(fired) > 1


def test_a_silence_shows_what_it_matches(desk: Desk) -> None:
    desk.ask("PUT", "/rules/slow", RULE)
    desk.pass_time(12, 90)
    wish = {"matchers": [{"name": "policy", "value": "w*"}], "ends_at": NOW + 100, "comment": "a move"}
    made = desk.ask("POST", "/silences", wish, 201)
    assert (made["state"], made["matches"], made["alerts"][0]["rule"]) == ("active", 1, "slow")
    assert made["author"].startswith("platform/")
    [alert] = desk.ask("GET", "")["items"]
    assert alert["silenced_by"] == [made["id"]]
    changed = desk.ask("PUT", f"/silences/{made['id']}", {**wish, "matchers": [{"name": "policy", "value": "shop"}]})
    assert changed["matches"] == 0
    later = desk.ask("POST", "/silences", {**wish, "starts_at": NOW + 50}, 201)
    assert later["state"] == "pending"
    assert [each["id"] for each in desk.ask("GET", "/silences?limit=1")["items"]] == sorted([made["id"], later["id"]])[
        :1
    ]
    desk.ask("DELETE", f"/silences/{made['id']}")
    desk.ask("DELETE", f"/silences/{made['id']}", status=404)
    desk.ask("PUT", "/silences/ab", wish, 404)


def test_a_repeated_request_makes_one_silence(desk: Desk) -> None:
    wish = {"matchers": [{"name": "policy", "value": "web"}], "ends_at": NOW + 100, "comment": "a move"}
    first = desk.ask("POST", "/silences", wish, 201, **{"Idempotency-Key": "k"})
    assert desk.ask("POST", "/silences", wish, 201, **{"Idempotency-Key": "k"})["id"] == first["id"]
    assert len(desk.ask("GET", "/silences")["items"]) == 1


def test_a_channel_is_tested_and_its_secret_is_nowhere(desk: Desk, hook: Hook) -> None:
    desk.ask("PUT", "/channels/ops", {"kind": "webhook", "url": hook.url})
    assert desk.ask("POST", "/channels/ops/test") == {"sent": True, "says": "127.0.0.1 answered 200 OK"}
    [(headers, body)] = hook.got
    assert "Podlane-Signature" in headers
    assert b"This is a test of the channel ops" in body
    hook.answers = [500]
    assert desk.ask("POST", "/channels/ops/test")["says"] == "127.0.0.1 answered 500 Internal Server Error"
    assert "word" not in str([event.data for event in desk.store.read_all("default", 0)])
    assert "word" not in str(desk.ask("GET", "/channels"))
    desk.ask("POST", "/channels/other/test", status=404)


def test_a_channel_that_is_not_told_says_why(desk: Desk) -> None:
    desk.ask("PUT", "/channels/ops", {"kind": "webhook", "url": "http://127.0.0.1:9/"})
    desk.ask("PUT", "/rules/slow", RULE)
    desk.pass_time(12, 90)
    desk.driver.close()
    assert desk.ask("GET", "/channels")["items"][0]["trouble"] == "127.0.0.1 does not answer: Connection refused"
    metrics = desk.api.get("/metrics").text
    assert 'podlane_control_plane_alerts{tenant="default",severity="warning"} 1' in metrics
    assert 'podlane_control_plane_alerts{tenant="default",severity="critical"} 0' in metrics
    assert 'podlane_control_plane_untold_alerts{tenant="default"} 1' in metrics


def test_what_fires_is_firing_whoever_looks(desk: Desk) -> None:
    """Also while nothing is seen of it."""
    desk.ask("PUT", "/rules/slow", RULE)
    desk.pass_time(12, 90)
    desk.now += 20
    desk.driver.look()
    seen = desk.ask("GET", "/rules/slow")
    assert (seen["state"], seen["firing"], seen["values"]) == ("firing", 1, [])
    assert desk.ask("GET", "/rules")["items"] == [seen]


def test_a_channel_that_rules_tell_stays(desk: Desk) -> None:
    refused = desk.ask("PUT", "/rules/slow", {**RULE, "channels": ["ops"]}, 422)
    assert refused["detail"] == "There is no channel ops."
    desk.ask("PUT", "/channels/ops", {"kind": "webhook", "url": "https://alerts.example.com/"})
    desk.ask("PUT", "/rules/slow", {**RULE, "channels": ["ops"]})
    assert "Change its rules first" in desk.ask("DELETE", "/channels/ops", status=409)["remedy"]


def test_a_preview_says_what_would_have_waited(desk: Desk) -> None:
    """Of a policy that is in force, with the figures of its lanes."""
    web = {"name": "web", "rate": "1Mbit", "ceil": "80Mbit", "match": [{"port": ["443"]}]}
    policies = "/v1/tenants/default/policies"
    for method, path, body in (
        ("PUT", "/web/draft", {"document": {"total": "100Mbit", "classes": [web]}, "selector": {"team": "shop"}}),
        ("POST", "/web/publish", None),
        ("PUT", "/all/draft", {"document": {"total": "100Mbit", "classes": [web]}}),
        ("POST", "/all/publish", None),
    ):
        assert desk.api.request(method, policies + path, json=body).is_success
    for bits in (10_000_000, 90_000_000, 30_000_000):
        lane = LaneSum(policy="web", lane="web", direction="egress", bytes=bits // 8, packets=1, workloads=2)
        desk.fleet.agents("default").figures.add(desk.now, "east/n1", [lane])
        desk.now += 1
    wish = {"document": {"total": "100Mbit", "classes": [{**web, "ceil": "20Mbit"}]}, "selector": {}}
    before = desk.store.heads()
    found = desk.api.post(f"{policies}/web/preview", json=wish).json()
    assert desk.store.heads() == before
    assert (found["revision"], found["workloads"], found["seconds"]) == (1, 2, 3)
    [lane] = [each for each in found["lanes"] if each["lane"] == "web"]
    assert (lane["fate"], lane["before"]["ceil"], lane["after"]["ceil"]) == ("changed", 80_000_000, 20_000_000)
    assert lane["waited"] == 1
    assert lane["beyond"] == pytest.approx(50 / 130)
    assert (found["selector_before"], found["selector_after"]) == ({"team": "shop"}, {})
    assert found["rivals"] == [{"policy": "all", "wins": True}]
    wrong = {"document": {"total": "1Mbit", "classes": [{**web, "rate": "2Mbit"}]}}
    assert desk.api.post(f"{policies}/web/preview", json=wrong).json()["type"] == "urn:podlane:problem:invalid-policy"
