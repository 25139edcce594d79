"""Alerts in the browser: rules, what comes of them, silences and channels, against a control plane and agents."""

from __future__ import annotations

from typing import Any

import pytest
from alert_servers import running_hook
from playwright.sync_api import Page, expect
from scene import firing
from stage import NewPage, Stage
from waiting import until

pytestmark = pytest.mark.timeout(300)  # a busy machine's Chromium takes its time

ALERTS = "/v1/tenants/default/alerts"
AWAY = {"kind": "agents-away", "threshold": 0.5, "for": 60, "annotations": {"runbook": "https://wiki.example.com/away"}}
LANES = {
    "total": "100Mbit",
    "classes": [{"name": "api", "rate": "20Mbit", "ceil": "60Mbit", "match": [{"port": [443]}]}],
}


@pytest.fixture(scope="module", autouse=True)
def agents(stage: Stage) -> None:
    stage.add_agents("east", ["n1", "n2", "n3"])


def opened(page: Page, stage: Stage, search: str = "") -> None:
    page.goto(f"{stage.url}/t/default/alerts{search}")
    expect(page.get_by_role("heading", name="Alerts", level=1)).to_be_visible()


def rule(stage: Stage, name: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.api.ask("GET", f"{ALERTS}/rules/{name}")
    return found


def test_a_rule_is_made_and_fires_and_is_silenced(stage: Stage, new_page: NewPage) -> None:
    page = new_page()
    opened(page, stage, "?tab=rules")
    page.get_by_role("button", name="New rule").click()
    form = page.get_by_role("dialog", name="New rule")
    form.get_by_label("Name").fill("gone")
    form.get_by_label("Threshold").fill("much")
    expect(form.get_by_text("This cannot be read.")).to_be_visible()
    expect(form.get_by_role("button", name="Save rule")).to_be_disabled()
    form.get_by_label("Threshold").fill("20%")
    form.get_by_label("For at least").fill("0s")
    form.get_by_label("Severity").select_option("critical")
    form.get_by_label("Cluster").fill("east")
    form.get_by_label("Why?").fill("nodes were lost")
    expect(form.get_by_text("the past is not kept")).to_be_visible()
    form.get_by_role("button", name="Save rule").click()
    expect(form).to_be_hidden()
    row = page.get_by_role("row").filter(has_text="gone")
    expect(row).to_contain_text("above 20%")
    expect(row).to_contain_text("worst: 0 %", timeout=90_000)
    saved = rule(stage, "gone")
    assert {key: saved[key] for key in ("kind", "threshold", "scope", "for", "severity")} == {
        "kind": "agents-away", "threshold": 0.2, "scope": {"cluster": "east"}, "for": 0, "severity": "critical",
    }  # fmt: skip
    events = stage.api.ask("GET", "/v1/tenants/default/events?subject=alert-rule/gone")["items"]
    assert [each["reason"] for each in events] == ["nodes were lost"]

    page.get_by_role("navigation", name="Alerts").get_by_role("link", name="Alerts").click()
    expect(page.get_by_text("Nothing fires.")).to_be_visible()
    stage.agents["n1"].stop()
    alert = page.get_by_role("row").filter(has_text="1 of 3 agents of east are away: n1")
    expect(alert).to_be_visible(timeout=40_000)  # comes by itself
    expect(alert).to_contain_text("Critical")
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.get_by_text("The alert gone fires")).to_be_visible()
    page.get_by_role("button", name="Look: The alert gone fires").click()

    alert.get_by_role("button", name="Silence").click()
    page.get_by_role("dialog", name="Silence alerts").get_by_role("button", name="Silence").click()
    expect(alert).to_contain_text("silenced")
    expect(alert.get_by_role("button", name="Silence")).to_have_count(0)
    [silence] = stage.api.ask("GET", f"{ALERTS}/silences")["items"]
    assert {each["name"]: each["value"] for each in silence["matchers"]} == {"alertname": "gone", "cluster": "east"}
    assert silence["matches"] == 1
    assert [each["silenced_by"] for each in firing(stage)] == [[silence["id"]]]
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.get_by_text("1 agent is not connected")).to_be_visible()
    expect(page.get_by_text("The alert gone fires")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.get_by_role("link", name="Silences").click()
    expect(page.get_by_role("row").filter(has_text="being looked into")).to_contain_text("1 firing now")
    page.get_by_role("button", name="End it").click()
    until("the end", lambda: [each["silenced_by"] for each in firing(stage)] == [[]])
    expect(page.get_by_role("button", name="End it")).to_have_count(0)


def test_a_rule_says_how_often_it_would_have_fired(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("tried", LANES)
    wish = {"rule": {"kind": "budget", "threshold": 0.01, "over": 1, "scope": {"policy": "tried", "class": "api"}}}
    until("figures", lambda: stage.api.ask("POST", f"{ALERTS}/trial", wish)["fired"])
    page = new_page(stage.api.token("editor"))
    opened(page, stage, "?tab=rules")
    page.get_by_role("button", name="New rule").click()
    form = page.get_by_role("dialog", name="New rule")
    form.get_by_label("What it looks at").select_option("budget")
    expect(form.get_by_label("Threshold")).to_have_value("90%")
    form.get_by_label("Threshold").fill("1%")
    form.get_by_label("For at least").fill("0")
    form.get_by_label("Looked at over").fill("1")
    form.get_by_label("Policy").fill("tried")
    form.get_by_label("Lane").fill("api")
    expect(form.get_by_text("It would have fired 1 time in the last 15 min.")).to_be_visible()
    form.get_by_label("Threshold").fill("101%")
    expect(form.get_by_text("It would not have fired in the last 15 min.")).to_be_visible()
    # An editor tries rules, and puts none in force.
    expect(form.get_by_text("This needs Operator")).to_be_visible()
    expect(form.get_by_role("button", name="Save rule")).to_have_count(0)


def test_two_who_edit_one_rule_lose_nothing(stage: Stage, new_page: NewPage) -> None:
    stage.api.ask("PUT", f"{ALERTS}/rules/both", AWAY)
    one, other = new_page(), new_page(stage.api.token("operator"))
    for page, threshold in ((one, "60%"), (other, "70%")):
        opened(page, stage, "?tab=rules")
        page.get_by_role("link", name="both").click()
        page.get_by_role("dialog").get_by_label("Threshold").fill(threshold)
    one.get_by_role("button", name="Save rule").click()
    until("the first", lambda: rule(stage, "both")["threshold"] == 0.6)
    other.get_by_role("button", name="Save rule").click()
    conflict = other.get_by_role("dialog", name="Somebody has changed it meanwhile")
    expect(conflict).to_contain_text("threshold: 0.6")
    expect(conflict).to_contain_text("threshold: 0.7")
    assert rule(stage, "both")["threshold"] == 0.6
    conflict.get_by_role("button", name="Go on with mine").click()
    other.get_by_role("button", name="Save rule").click()
    until("the other", lambda: rule(stage, "both")["threshold"] == 0.7)
    assert rule(stage, "both")["annotations"] == AWAY["annotations"]


def test_a_viewer_sees_rules_and_changes_none(stage: Stage, new_page: NewPage) -> None:
    stage.api.ask("PUT", f"{ALERTS}/rules/seen", AWAY)
    page = new_page(stage.api.token("viewer"))
    opened(page, stage, "?tab=rules")
    expect(page.get_by_text("Your role here is Viewer. This needs Operator")).to_be_visible()
    assert page.get_by_role("button", name="New rule").count() == 0
    page.get_by_role("link", name="seen", exact=True).click()
    form = page.get_by_role("dialog")
    expect(form.get_by_label("Threshold")).to_be_disabled()
    expect(form.get_by_role("button", name="Save rule")).to_have_count(0)
    page.goto(f"{stage.url}/t/default/alerts?tab=channels")
    expect(page.get_by_text("This needs Administrator")).to_be_visible()
    assert page.get_by_role("button", name="New channel").count() == 0


def test_a_channel_is_made_and_tried(stage: Stage, new_page: NewPage) -> None:
    page = new_page()
    opened(page, stage, "?tab=channels")
    page.get_by_role("button", name="New channel").click()
    form = page.get_by_role("dialog", name="New channel")
    with running_hook() as hook:
        form.get_by_label("Name").fill("ops")
        form.get_by_label("URL").fill("no url")
        form.get_by_role("button", name="Save channel").click()
        expect(form.get_by_role("alert")).to_contain_text("is not a URL of a server")
        form.get_by_label("URL").fill(hook.url)
        form.get_by_role("button", name="Save channel").click()
        expect(form).to_be_hidden()
        page.get_by_role("button", name="Test: ops").click()
        expect(page.get_by_text("It was told.")).to_be_visible()
        assert any(b"This is a test of the channel ops" in body for _, body in hook.got)
        hook.answers.append(404)
        page.get_by_role("button", name="Test: ops").click()
        expect(page.get_by_text("It could not be told.")).to_be_visible()
        expect(page.get_by_role("status").filter(has_text="404")).to_be_visible()


def test_what_is_in_force_for_a_workload_is_asked_of_its_agent(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("asked", LANES)
    page = new_page()
    page.goto(f"{stage.url}/t/default/workloads")
    page.get_by_label("CLUSTER/NODE").fill("east/n2")
    page.get_by_label("CLUSTER/NODE").press("Enter")
    page.get_by_role("link", name="shop/asked-7d9f-0").click(timeout=20_000)
    sheet = page.get_by_role("dialog")
    expect(sheet).to_contain_text("the policy asked of this control plane")
    expect(sheet.get_by_role("row", name="api 20Mbit 60Mbit")).to_be_visible()
    page.goto(f"{stage.url}/t/default/workloads?agent=east/n2&pod=shop/none")
    expect(page.get_by_role("alert")).to_contain_text("has no workload shop/none")
