"""Alerts over agents that report: they fire, are told, and are over; after a restart, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from alert_servers import Hook, running_alertmanager, running_hook
from fleet_bench import Agent, Bench, running_bench
from waiting import until

from control_plane.alerts.desk import desk_of
from control_plane.alerts.driver import AlertDriver
from control_plane.alerts.reach import Reach
from control_plane.alerts.secrets import ChannelSecrets
from control_plane.bootstrap import first_token
from control_plane.domain.alert_book import Alert
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.commands import (
    EndSilence,
    RemoveAlertRule,
    SetAlertChannel,
    SetAlertRule,
    SetSilence,
)
from control_plane.fleet.agent_status import FleetStatus
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store
from fleet_api.agent_pb2 import LaneSum, Report

LOOPBACK = Reach.parse("127.0.0.0/8")
AWAY = AlertRule(AlertKind.AGENTS_AWAY, 0.2, hold=5)
THROTTLED = AlertRule(AlertKind.THROTTLED, 0.5, over=10, annotations={"runbook": "see {{ policy }}/{{ class }}"})


class Watched:
    """Three agents with a policy in force, and what looks after alerts; its clock goes by :meth:`pass_time` alone."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.agents = {f"n{i}": bench.agent(f"n{i}").hello() for i in range(3)}
        bench.publish()
        bench.read()
        self.restart()

    def restart(self) -> None:
        bench = self.bench
        self.desk = desk_of(bench.plane, LOOPBACK, ChannelSecrets(), lambda: bench.clock[0])
        self.driver = AlertDriver(
            bench.plane, bench.fleet, self.desk.view, self.desk.teller, lambda: bench.clock[0], bench.clock[0]
        )

    def rule(self, name: str, rule: AlertRule) -> None:
        self.bench.do(SetAlertRule(name, rule))

    def pass_time(self, seconds: int, **counts: int) -> None:
        """Second by second; all agents report ``counts``, if there are any."""
        for _ in range(seconds):
            if counts:
                for agent in self.agents.values():
                    lane = LaneSum(policy="web", lane="web", direction="egress", workloads=1, **counts)
                    agent.say(report=Report(interval_ms=1000, lanes=[lane]))
            self.bench.clock[0] += 1
            self.driver.look()
            self.idle()

    def back(self, node: str) -> None:
        """It connects again."""
        self.agents[node] = Agent(self.bench, self.agents[node].credentials).hello()

    def idle(self) -> None:
        """Until nobody is being told."""
        until("channels", lambda: not any(each.busy for each in self.desk.teller._tellings.values()))

    @property
    def alerts(self) -> list[Alert]:
        with self.bench.plane.reading("default") as tenant:
            return list(tenant.alerts.alerts.values())

    @property
    def firing(self) -> list[str]:
        return sorted(alert.rule for alert in self.alerts if not alert.ended)

    def kinds(self) -> list[str]:
        kinds = [event.kind for event in self.bench.store.read_all("default", 0)]
        return [kind for kind in kinds if kind.startswith("Alert") and not kind.endswith("Set")]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        found = Watched(bench)
        yield found
        found.driver.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as found:
        yield found


def told(hook: Hook) -> list[tuple[str, str]]:
    bodies = [json.loads(body) for _, body in hook.got]
    return [(alert["labels"]["alertname"], alert["state"]) for body in bodies for alert in body["alerts"]]


def test_agents_that_go_away_fire_after_a_while_and_once(watched: Watched) -> None:
    watched.rule("away", AWAY)
    watched.pass_time(20)
    assert watched.firing == []
    watched.agents["n1"].call.end()
    watched.pass_time(14)
    assert watched.firing == []
    [seen] = watched.desk.view.values_of("default", "away") or ()
    assert (seen.state, round(seen.value, 2)) == ("pending", 0.33)
    watched.pass_time(1)
    [alert] = watched.alerts
    assert alert.labels["cluster"] == "east"
    assert alert.annotations["summary"] == "1 of 3 agents of east are away: n1"
    watched.pass_time(60)
    assert watched.kinds() == ["AlertFired"]


def test_it_is_over_when_it_has_been_good_for_a_while(watched: Watched) -> None:
    watched.rule("away", AWAY)
    watched.agents["n1"].call.end()
    watched.pass_time(30)
    assert watched.firing == ["away"]
    watched.back("n1")
    watched.pass_time(30)
    assert watched.firing == ["away"]
    watched.pass_time(1)
    assert watched.firing == []
    [alert] = watched.alerts
    assert alert.reason == "0.0% now"


def test_what_had_to_wait(watched: Watched) -> None:
    watched.rule("slow", THROTTLED)
    watched.pass_time(10, packets=100, overlimits=40)
    assert watched.firing == []
    watched.pass_time(10, packets=100, overlimits=90)
    [alert] = watched.alerts
    assert alert.labels["class"] == "web"
    assert alert.annotations["runbook"] == "see web/web"
    assert "of the packets of web/web (egress) had to wait" in alert.annotations["summary"]
    watched.pass_time(45, packets=100, overlimits=1)
    assert watched.firing == []


def test_few_packets_say_nothing(watched: Watched) -> None:
    watched.rule("slow", THROTTLED)
    watched.pass_time(20, packets=1, overlimits=1)
    assert watched.firing == []


def test_drops_the_ceil_and_what_gets_less_than_its_rate(watched: Watched) -> None:
    watched.rule("drops", AlertRule(AlertKind.DROPPED, 0.1, over=5))
    watched.rule("full", AlertRule(AlertKind.BUDGET, 0.9, over=5))
    watched.rule("starved", AlertRule(AlertKind.BELOW_GUARANTEE, 1, over=5))
    good = {"packets": 900, "bytes": 100_000, "ceil": 1_000_000, "rate": 500_000}
    watched.pass_time(5, **good, dropped=50)
    assert watched.firing == []
    watched.pass_time(5, **good, dropped=200)
    assert watched.firing == ["drops"]
    watched.pass_time(5, **{**good, "bytes": 120_000}, below=1)
    assert watched.firing == ["drops", "full", "starved"]


def test_a_rule_is_about_what_its_scope_says(watched: Watched) -> None:
    for name, scope in {
        "other": {"policy": "shop"},
        "down": {"direction": "ingress"},
        "mine": {"class": "web"},
        "here": {"cluster": "east", "class": "web"},
        "there": {"cluster": "west"},
    }.items():
        watched.rule(name, AlertRule(AlertKind.THROTTLED, 0.5, scope, over=5))
    watched.pass_time(10, packets=100, overlimits=90)
    assert watched.firing == ["here", "mine"]
    [here] = [alert for alert in watched.alerts if alert.rule == "here"]
    assert (here.labels["cluster"], here.labels["policy"]) == ("east", "web")


def test_a_rollout_that_does_not_go_on(watched: Watched) -> None:
    from control_plane.domain.checked_policy import CheckedPolicy
    from control_plane.domain.commands import DraftPolicy, PublishPolicy
    from control_plane.domain.rollout import RolloutPlan, Stage

    watched.rule("stuck", AlertRule(AlertKind.ROLLOUT_STUCK, 120))
    document = {"total": "90Mbit", "classes": []}
    watched.bench.do(DraftPolicy("web", CheckedPolicy.from_document(document)))
    watched.bench.do(PublishPolicy("web", RolloutPlan((Stage(count=1),), soak=10)))
    watched.pass_time(130)
    assert watched.firing == []
    watched.pass_time(1)
    assert watched.alerts[0].annotations["summary"] == "the rollout of web has not gone on for 2 min"


def test_certificates_that_expire(watched: Watched) -> None:
    watched.rule("expiry", AlertRule(AlertKind.CERTIFICATE_EXPIRY, 6 * 3600))
    watched.pass_time(1)
    assert watched.firing == []
    watched.bench.clock[0] += 19 * 3600
    watched.pass_time(1)
    assert watched.firing == ["expiry"]
    assert "a certificate of east expires in 4 h" in watched.alerts[0].annotations["summary"]


def test_a_rule_that_is_removed_ends_its_alerts(watched: Watched) -> None:
    watched.rule("slow", THROTTLED)
    watched.pass_time(12, packets=100, overlimits=90)
    watched.bench.do(RemoveAlertRule("slow"))
    [alert] = watched.alerts
    assert (alert.state, alert.reason) == ("resolved", "the rule was removed")
    watched.pass_time(2)
    assert watched.desk.view.values_of("default", "slow") is None


def test_what_is_no_more_is_over_after_a_while(watched: Watched) -> None:
    watched.rule("slow", THROTTLED)
    watched.pass_time(12, packets=100, overlimits=90)
    watched.pass_time(300)
    assert watched.firing == ["slow"], "nothing is heard of it: that says nothing"
    watched.pass_time(10)
    assert watched.alerts[0].reason == "there was nothing to see for 300 s"


def test_a_webhook_is_told_once_of_each(watched: Watched, hook: Hook) -> None:
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
    watched.rule("slow", THROTTLED)
    watched.pass_time(40, packets=100, overlimits=90)
    assert told(hook) == [("slow", "firing")]
    watched.pass_time(60, packets=100)
    assert told(hook) == [("slow", "firing"), ("slow", "resolved")]
    assert watched.kinds() == ["AlertFired", "AlertsTold", "AlertResolved", "AlertsTold"]


def test_after_a_restart_it_is_known_what_was_told(watched: Watched, hook: Hook) -> None:
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
    watched.rule("away", AWAY)
    watched.agents["n1"].call.end()
    watched.pass_time(30)
    watched.restart()
    watched.pass_time(60)
    assert told(hook) == [("away", "firing")]
    assert watched.firing == ["away"]
    watched.back("n1")
    watched.restart()
    watched.pass_time(60)
    assert told(hook) == [("away", "firing"), ("away", "resolved")]


def test_a_webhook_that_fails_is_told_again_later_and_later(watched: Watched, hook: Hook) -> None:
    hook.answers = [500, 503, 429]
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
    watched.rule("slow", THROTTLED)
    at = []
    for _ in range(30):
        before = len(hook.got)
        watched.pass_time(1, packets=100, overlimits=90)
        if len(hook.got) > before:
            at.append(watched.bench.clock[0])
    assert [later - earlier for earlier, later in pairwise(at)] == [1, 2, 4]
    assert watched.kinds() == ["AlertFired", "AlertsTold"]


def test_a_webhook_that_refuses_for_good_is_noted(watched: Watched, hook: Hook) -> None:
    hook.answers = [404]
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
    watched.rule("slow", THROTTLED)
    watched.pass_time(40, packets=100, overlimits=90)
    assert len(hook.got) == 1
    [alert] = watched.alerts
    assert alert.troubles == {"ops": "127.0.0.1 answered 404 Not Found"}
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, f"{hook.url}&right=1")))
    watched.pass_time(2, packets=100, overlimits=90)
    assert len(hook.got) == 2, "another place has not been told"
    assert watched.alerts[0].troubles == {}


def test_of_a_silenced_alert_nobody_is_told_until_the_end_of_the_silence(watched: Watched, hook: Hook) -> None:
    watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
    watched.rule("slow", THROTTLED)
    now = int(watched.bench.clock[0])
    matchers = (AlertMatcher("policy", "w*b"), AlertMatcher("severity", "critical", differs=True))
    watched.bench.do(SetSilence("a1", AlertSilence(matchers, now, now + 1000, "a move", "me")))
    watched.pass_time(30, packets=100, overlimits=90)
    assert watched.firing == ["slow"]
    assert hook.got == []
    watched.bench.do(EndSilence("a1"))
    watched.pass_time(1, packets=100, overlimits=90)
    assert told(hook) == [("slow", "firing")]


def test_rules_that_name_channels_tell_no_others(watched: Watched, hook: Hook) -> None:
    with running_hook() as other:
        watched.bench.do(SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, hook.url)))
        watched.bench.do(SetAlertChannel("shop", AlertChannel(ChannelKind.WEBHOOK, other.url)))
        watched.rule("slow", AlertRule(AlertKind.THROTTLED, 0.5, over=5, channels=("shop",)))
        watched.pass_time(10, packets=100, overlimits=90)
        assert (told(hook), told(other)) == ([], [("slow", "firing")])


def test_alertmanager_has_what_fires(watched: Watched, tmp_path: Path) -> None:
    with running_alertmanager(tmp_path) as url:

        def there() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.load(urlopen(f"{url}/api/v2/alerts", timeout=5))
            return found

        # The test's clock is not the machine's: to Alertmanager what ends in its future fires.
        watched.bench.do(SetAlertChannel("am", AlertChannel(ChannelKind.ALERTMANAGER, url)))
        watched.rule("slow", AlertRule(AlertKind.THROTTLED, 0.5, over=5, labels={"team": "net-{{ class }}"}))
        watched.pass_time(10, packets=100, overlimits=90)
        [alert] = there()
        assert alert["labels"] == {
            "alertname": "slow", "tenant": "default", "kind": "throttled", "severity": "warning", "policy": "web",
            "class": "web", "direction": "egress", "team": "net-web",
        }  # fmt: skip
        assert alert["status"]["state"] == "active"
        assert "had to wait" in alert["annotations"]["summary"]
        ends = alert["endsAt"]
        watched.pass_time(31, packets=100, overlimits=90)
        assert there()[0]["endsAt"] > ends, "it is told again, else it would take it for over"
        assert watched.kinds() == ["AlertFired", "AlertsTold"]


def test_of_two_processes_one_looks_and_the_other_takes_over(database_url: str) -> None:
    drivers, looks = [], [0, 0]

    def clock_of(number: int) -> float:
        looks[number] += 1
        return 1_800_000_000.0 + looks[number]

    for number in range(2):
        plane = ControlPlane(open_store(database_url))
        first_token(plane)
        desk = desk_of(plane)
        drivers.append(AlertDriver(plane, FleetStatus(), desk.view, desk.teller, partial(clock_of, number)))
    first, second = drivers
    first.plane.carry_out("default", SetAlertRule("slow", THROTTLED), Circumstances("test"))
    first.start()
    until("the first looks", lambda: looks[0] > 1)
    second.start()
    until("the first looks on, while the other tries", lambda: looks[0] > 5)
    assert looks[1] == 1, "when it began"
    first.close()
    until("the second looks", lambda: second.view.values_of("default", "slow") is not None)
    second.close()
    for driver in drivers:
        driver.plane.store.close()
