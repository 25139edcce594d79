"""Budgets of bytes in the browser, against a control plane and agents that send."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from scene import spend
from stage import NewPage, Stage
from waiting import until

pytestmark = pytest.mark.timeout(300)  # a busy machine's Chromium takes its time

BUDGETS = "/v1/tenants/default/budgets"
GIB = 1 << 30
LANES = {
    "total": "100Mbit",
    "classes": [{"name": "api", "rate": "20Mbit", "ceil": "60Mbit", "match": [{"port": [443]}]}],
}


@pytest.fixture(scope="module", autouse=True)
def agents(stage: Stage) -> None:
    stage.add_agents("east", ["n1"])
    stage.api.publish("sending", LANES)


def opened(page: Page, stage: Stage, search: str = "") -> None:
    page.goto(f"{stage.url}/t/default/budgets{search}")
    expect(page.get_by_role("heading", name="Budgets", level=1)).to_be_visible()


def row(page: Page, name: str) -> Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("link", name=name, exact=True))


def budget(stage: Stage, name: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.api.ask("GET", f"{BUDGETS}/{name}")
    return found


def names(stage: Stage) -> set[str]:
    return {each["name"] for each in stage.api.ask("GET", BUDGETS)["items"]}


def test_a_budget_is_made_and_fills_by_what_agents_send(stage: Stage, new_page: NewPage) -> None:
    page = new_page()
    opened(page, stage)
    expect(page.get_by_text("No budgets yet")).to_be_visible()
    page.get_by_role("button", name="New budget").click()
    form = page.get_by_role("dialog", name="New budget")
    form.get_by_label("Name").fill("Sending!")
    form.get_by_label("Bytes").fill("much")
    expect(form.get_by_text("Write a number and a unit")).to_be_visible()
    expect(form.get_by_role("button", name="Save budget")).to_be_disabled()
    form.get_by_label("Bytes").fill("500TiB")
    form.get_by_label("In each").select_option("day")
    form.get_by_label("Policy").fill("sending")
    form.get_by_label("Lane").fill("api")
    form.get_by_label("Direction").select_option("egress")
    form.get_by_label("Why?").fill("the link is paid by volume")
    form.get_by_role("button", name="Save budget").click()
    expect(form.get_by_role("alert")).to_contain_text("Sending!")  # the control plane says what is wrong with it
    form.get_by_label("Name").fill("sending")
    form.get_by_role("button", name="Save budget").click()
    expect(form).to_be_hidden()
    made = budget(stage, "sending")
    wanted = {"bytes": 500 << 40, "period": "day", "policy": "sending", "class": "api", "direction": "egress"}
    assert {key: made[key] for key in wanted} == wanted
    events = stage.api.ask("GET", "/v1/tenants/default/events?subject=budget/sending")["items"]
    assert [each["reason"] for each in events] == ["the link is paid by volume"]
    found = row(page, "sending")
    expect(found).to_contain_text("Policy sending · Lane api · Sent")
    expect(found).to_contain_text("Lasts")
    until("bytes of the agent", lambda: budget(stage, "sending")["used"])
    expect(found).not_to_contain_text("0 B of")  # comes by itself
    expect(found).to_contain_text("iB of 500 TiB a day")

    # With the keyboard alone: the row, its form, and back.
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    form = page.get_by_role("dialog", name="Budget: sending")
    form.get_by_label("Bytes").fill("1kB")
    form.get_by_label("Bytes").press("Enter")
    expect(form).to_be_hidden()
    expect(found).to_contain_text("Used up")
    expect(found).to_contain_text("beyond it")


def test_each_change_can_be_undone(stage: Stage, new_page: NewPage) -> None:
    page = new_page(stage.api.token("operator"))
    opened(page, stage)
    said = page.get_by_role("main").get_by_role("status")

    page.get_by_role("button", name="New budget").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("undone")
    form.get_by_label("Bytes").fill("5GiB")
    form.get_by_role("button", name="Save budget").click()
    expect(said).to_contain_text("The budget undone counts.")
    page.get_by_role("button", name="Undo").click()
    expect(row(page, "undone")).to_have_count(0)
    assert "undone" not in names(stage)

    stage.api.ask("PUT", f"{BUDGETS}/undone", {"bytes": GIB, "policy": "sending"})
    row(page, "undone").get_by_role("link").click()
    form.get_by_label("Bytes").fill("2GiB")
    form.get_by_role("button", name="Save budget").click()
    expect(said).to_contain_text("The budget undone was changed.")
    assert budget(stage, "undone")["bytes"] == 2 * GIB
    page.get_by_role("button", name="Undo").click()
    expect(said).to_have_count(0)
    assert (budget(stage, "undone")["bytes"], budget(stage, "undone")["policy"]) == (GIB, "sending")

    row(page, "undone").get_by_role("link").click()
    form.get_by_role("button", name="Remove budget").click()
    expect(said).to_contain_text("The budget undone was removed.")
    expect(row(page, "undone")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(row(page, "undone")).to_be_visible()
    assert (budget(stage, "undone")["bytes"], budget(stage, "undone")["policy"]) == (GIB, "sending")

    # What somebody else has changed meanwhile is not taken back with it.
    row(page, "undone").get_by_role("link").click()
    form.get_by_label("Bytes").fill("3GiB")
    form.get_by_role("button", name="Save budget").click()
    expect(said).to_contain_text("was changed")
    stage.api.ask("PUT", f"{BUDGETS}/undone", {"bytes": 7 * GIB})
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("alert")).to_contain_text("It was changed meanwhile")
    assert budget(stage, "undone")["bytes"] == 7 * GIB


def test_two_who_edit_one_budget_lose_nothing(stage: Stage, new_page: NewPage) -> None:
    stage.api.ask("PUT", f"{BUDGETS}/both", {"bytes": GIB})
    page = new_page(stage.api.token("operator"))
    opened(page, stage, "?budget=both")
    page.get_by_role("dialog").get_by_label("Bytes").fill("3GiB")
    stage.api.ask("PUT", f"{BUDGETS}/both", {"bytes": 2 * GIB})
    page.get_by_role("button", name="Save budget").click()
    conflict = page.get_by_role("dialog", name="Somebody has changed it meanwhile")
    expect(conflict).to_contain_text(f"bytes: {2 * GIB}")
    expect(conflict).to_contain_text(f"bytes: {3 * GIB}")
    conflict.get_by_role("button", name="Go on with mine").click()
    page.get_by_role("button", name="Save budget").click()
    until("mine", lambda: budget(stage, "both")["bytes"] == 3 * GIB)
    page.get_by_role("button", name="Undo").click()
    until("theirs", lambda: budget(stage, "both")["bytes"] == 2 * GIB)


def test_a_viewer_sees_budgets_and_changes_none(stage: Stage, new_page: NewPage) -> None:
    spend(stage)
    page = new_page(stage.api.token("viewer"))
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("b")
    expect(page.get_by_text("Your role here is Viewer. This needs Operator")).to_be_visible()
    assert page.get_by_role("button", name="New budget").count() == 0
    archive, partner = row(page, "archive"), row(page, "partner")
    expect(archive).to_contain_text("Will not last")
    expect(archive).to_contain_text("of 500 GiB a month")
    expect(archive).to_contain_text("as it goes")
    expect(partner).to_contain_text("Used up")
    expect(partner).to_contain_text("53 GiB of 50 GiB a month · 106 %")
    expect(partner).to_contain_text("3 GiB beyond it")
    archive.get_by_role("link").click()
    form = page.get_by_role("dialog", name="Budget: archive")
    expect(form.get_by_label("Bytes")).to_have_value("500GiB")
    expect(form.get_by_label("Bytes")).to_be_disabled()
    expect(form.get_by_role("button", name="Save budget")).to_have_count(0)
    expect(form.get_by_role("button", name="Remove budget")).to_have_count(0)
