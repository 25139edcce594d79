"""What people do with the pages, from the browser to the agents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from stage import NewPage, Stage
from waiting import until

pytestmark = pytest.mark.timeout(300)  # a busy machine's Chromium takes its time

POLICY = {
    "total": "100Mbit",
    "classes": [
        {"name": "api", "rate": "20Mbit", "ceil": "60Mbit", "match": [{"sni": ["api.example.com"]}]},
        {"name": "web", "rate": "15Mbit", "ceil": "50Mbit", "match": [{"port": [443]}]},
    ],
}


@pytest.fixture(scope="module", autouse=True)
def agents(stage: Stage) -> None:
    stage.add_agents("east", ["n1", "n2", "n3"])


def editor(page: Page, stage: Stage, name: str) -> None:
    page.goto(f"{stage.url}/t/default/policies/{name}")
    expect(page.get_by_label("Guaranteed of api", exact=True)).to_be_visible()


def limit(stage: Stage, name: str) -> set[Any]:
    """What the agents were told that api is guaranteed."""
    documents = [each.agent.state.policies.get(name) for each in stage.agents.values()]
    return {json.loads(each.document)["classes"][0]["rate"] if each else None for each in documents}


def test_a_limit_is_changed_and_rolled_out_to_the_agents(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("rolled", POLICY)
    until("the first revision", lambda: limit(stage, "rolled") == {"20Mbit"})
    page = new_page()
    editor(page, stage, "rolled")
    page.get_by_label("Guaranteed of api", exact=True).fill("30Mbit")
    expect(page.get_by_text("Draft · 1 change on r1")).to_be_visible()
    page.get_by_role("button", name="Review and roll out").click()
    page.get_by_label("Watch each stage for").fill("0")
    page.get_by_label("Why?").fill("more room for api")
    page.get_by_role("button", name="Roll out", exact=True).click()
    expect(page.get_by_role("heading", name="r2 · more room for api")).to_be_visible()
    expect(page.get_by_text("Applied everywhere")).to_be_visible(timeout=30_000)
    assert limit(stage, "rolled") == {"30Mbit"}
    page.goto(f"{stage.url}/t/default/fleet")
    expect(page.get_by_role("row").filter(has_text="n1")).to_contain_text("Applied")


def test_a_bad_draft_cannot_be_rolled_out_and_its_remedy_is_a_button(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("bad", POLICY)
    page = new_page()
    editor(page, stage, "bad")
    page.get_by_label("Ceiling of api", exact=True).fill("10Mbit")
    alert = page.get_by_role("alert").filter(has_text="api cannot be held to 10 Mbit/s while 20 Mbit/s is guaranteed")
    expect(alert).to_be_visible()
    expect(page.get_by_text("1 problem to fix first")).to_be_visible()
    expect(page.get_by_role("button", name="Review and roll out")).to_be_disabled()
    page.get_by_role("button", name="Raise the ceil to 20Mbit").click()
    expect(page.get_by_label("Ceiling of api", exact=True)).to_have_value("20Mbit")
    expect(page.get_by_role("button", name="Review and roll out")).to_be_enabled()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    expect(alert).to_be_hidden()


def test_lanes_are_moved_by_keyboard_and_are_the_same_as_yaml(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("moved", POLICY)
    page = new_page()
    editor(page, stage, "moved")
    page.get_by_role("button", name="Lane api, place 1 of 2: move").focus()
    told, said = page.locator("[id^=DndLiveRegion]"), ""  # what is read to those who do not see it
    for key in ("Space", "ArrowDown", "Space"):
        page.keyboard.press(key)
        expect(told).not_to_have_text(said)
        said = told.inner_text()
    expect(page.get_by_role("button", name="Lane api, place 2 of 2: move")).to_be_visible()
    page.get_by_role("link", name="YAML").click()
    text = page.get_by_role("textbox", name="YAML")
    written = text.input_value()
    assert written.index("name: web") < written.index("name: api")
    text.fill(written.replace("15Mbit", "17Mbit"))
    page.get_by_role("link", name="Lanes").click()
    expect(page.get_by_label("Guaranteed of web", exact=True)).to_have_value("17Mbit")
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    draft = stage.api.ask("GET", "/v1/tenants/default/policies/moved")["draft"]["document"]["classes"]
    assert [(each["name"], each["rate"]) for each in draft] == [("web", "17Mbit"), ("api", "20Mbit")]


def test_two_who_edit_one_draft_lose_nothing(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("both", POLICY)
    one, other = new_page(), new_page(stage.api.token("editor"))
    for page in (one, other):
        editor(page, stage, "both")
    one.get_by_label("Guaranteed of api", exact=True).fill("31Mbit")
    other.get_by_label("Guaranteed of api", exact=True).fill("32Mbit")
    one.get_by_role("button", name="Save draft").click()
    expect(one.get_by_text("saved", exact=True)).to_be_visible()
    other.get_by_role("button", name="Save draft").click()
    conflict = other.get_by_role("dialog", name="Somebody has changed it meanwhile")
    expect(conflict).to_contain_text("rate: 31Mbit")
    expect(conflict).to_contain_text("rate: 32Mbit")
    place = "/v1/tenants/default/policies/both"
    assert stage.api.ask("GET", place)["draft"]["document"]["classes"][0]["rate"] == "31Mbit"
    other.get_by_role("button", name="Take theirs").click()
    expect(other.get_by_label("Guaranteed of api", exact=True)).to_have_value("31Mbit")
    other.get_by_role("button", name="Undo").click()
    expect(other.get_by_label("Guaranteed of api", exact=True)).to_have_value("32Mbit")
    other.get_by_role("button", name="Save draft").click()
    until("the other's", lambda: stage.api.ask("GET", place)["draft"]["document"]["classes"][0]["rate"] == "32Mbit")


def test_a_viewer_sees_all_and_changes_nothing(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("seen", POLICY)
    page = new_page(stage.api.token("viewer"))
    editor(page, stage, "seen")
    expect(page.get_by_text("Your role here is Viewer. This needs Lane editor")).to_be_visible()
    expect(page.get_by_label("Guaranteed of api", exact=True)).not_to_be_editable()
    assert page.get_by_role("button", name="Save draft").count() == 0
    # Nor by what its page could send.
    status = page.evaluate("""async () => {
        const session = await (await fetch('/v1/session')).json();
        const body = JSON.stringify({document: {total: '1Mbit', classes: []}, selector: {}});
        const headers = {'X-CSRF-Token': session.csrf_token, 'Content-Type': 'application/json'};
        return (await fetch('/v1/tenants/default/policies/seen/draft', {method: 'PUT', body, headers})).status;
    }""")
    assert status == 403


def test_a_session_that_has_ended_leads_back_to_where_one_was(stage: Stage, new_page: NewPage) -> None:
    token = stage.api.ask("POST", "/v1/tenants/default/tokens", {"role": "viewer"})
    page = new_page(token["token"])
    page.goto(f"{stage.url}/t/default/fleet?state=in-sync")
    expect(page.get_by_role("row").filter(has_text="n1")).to_be_visible()
    stage.api.ask("DELETE", f"/v1/tenants/default/tokens/{token['id']}")
    page.reload()
    page.get_by_label("Token").fill(stage.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/t/default/fleet?state=in-sync")
    expect(page.get_by_role("row").filter(has_text="n1")).to_be_visible()


def test_a_session_that_ends_says_so_and_loses_nothing_that_was_written(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("kept", POLICY)
    token = stage.api.ask("POST", "/v1/tenants/default/tokens", {"role": "editor"})
    page = new_page(token["token"])
    editor(page, stage, "kept")
    page.get_by_label("Guaranteed of api", exact=True).fill("1500kbit")
    stage.api.ask("DELETE", f"/v1/tenants/default/tokens/{token['id']}")
    asked = page.get_by_role("dialog", name="Your session has ended")
    expect(asked).to_contain_text("What you have written here is still there.")
    page.keyboard.press("Escape")
    asked.get_by_label("Token").fill("podlane-none")
    asked.get_by_role("button", name="Sign in").click()
    expect(asked.get_by_role("alert")).to_be_visible()
    asked.get_by_label("Token").fill(stage.api.token("editor"))
    asked.get_by_role("button", name="Sign in").click()
    expect(asked).to_be_hidden()
    expect(page.get_by_label("Guaranteed of api", exact=True)).to_have_value("1500kbit")
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    # As the control plane writes it.
    expect(page.get_by_label("Guaranteed of api", exact=True)).to_have_value("1.5Mbit")
    draft = stage.api.ask("GET", "/v1/tenants/default/policies/kept")["draft"]["document"]["classes"][0]
    assert draft["rate"] == "1.5Mbit"


def test_live_shows_what_agents_send(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("live", POLICY)
    page = new_page()
    page.goto(f"{stage.url}/t/default/live?policy=live")
    expect(page.get_by_text("Live, every second")).to_be_visible()
    row = page.get_by_role("table").get_by_role("row").filter(has_text="api")
    expect(row).to_contain_text("Mbit/s", timeout=20_000)
    page.keyboard.press("p")
    expect(page.get_by_text("Paused")).to_be_visible()


def test_the_palette_finds_policies_and_agents(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("found-by-name", POLICY)
    page = new_page()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("found-by")
    expect(page.get_by_role("option", name="found-by-name")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="found-by-name")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/fleet")


def test_a_connection_is_tried_and_its_lane_and_match_are_shown(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("tried", POLICY)
    page = new_page(stage.api.token("viewer"))
    editor(page, stage, "tried")
    trial = page.get_by_role("region", name="Try a connection")
    trial.get_by_label("TLS name").fill("api.example.com")
    expect(trial.get_by_role("status")).to_contain_text("api")
    expect(trial.get_by_role("status")).to_contain_text("lane 1, match 1")
    expect(page.locator(".lane.decided .chip.decided")).to_contain_text("api.example.com")
    trial.get_by_label("TLS name").fill("elsewhere.example.com")
    expect(trial.get_by_role("status")).to_contain_text("lane 2, match 1")
    trial.get_by_label("To address").fill("nowhere")
    expect(trial.get_by_role("status")).to_contain_text("'nowhere' is no IP address")


def test_limits_are_drawn_by_mouse_and_by_arrow_keys(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("drawn", POLICY)
    page = new_page()
    editor(page, stage, "drawn")
    handle = page.get_by_role("slider", name="Draw guaranteed of api")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Guaranteed of api", exact=True)).to_have_value("22Mbit")
    expect(handle).to_have_attribute("aria-valuetext", "22 Mbit/s")
    ceiling = page.get_by_role("slider", name="Draw ceiling of api")
    box, track = ceiling.bounding_box(), page.locator(".track.drawn").first.bounding_box()
    assert box is not None
    assert track is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.5, 0.4, 0.3):
        page.mouse.move(track["x"] + share * track["width"], box["y"], steps=3)
    page.mouse.up()
    expect(page.get_by_label("Ceiling of api", exact=True)).to_have_value("30Mbit")
    page.get_by_role("link", name="YAML").click()
    text = page.get_by_role("textbox", name="YAML")
    assert "rate: 22Mbit" in text.input_value()
    text.fill(text.input_value().replace("22Mbit", "25Mbit"))
    page.get_by_role("link", name="Lanes").click()
    expect(handle).to_have_attribute("aria-valuetext", "25 Mbit/s")


def test_a_pod_says_where_each_value_comes_from_and_what_does_not_count(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("wide", POLICY, selector={"podlane.io/namespace": "shop"})
    stage.api.publish("near", POLICY, selector={"podlane.io/namespace": "shop", "app": "near"})
    until("its policy", lambda: "near" in stage.agents["n1"].agent.state.policies)
    page = new_page(stage.api.token("viewer"))
    page.goto(f"{stage.url}/t/default/workloads?agent=east/n1&pod=shop/near-7d9f-0")
    sheet = page.get_by_role("dialog")
    expect(sheet.get_by_role("row", name="class api")).to_contain_text("classes of the control plane's policy")
    expect(sheet).to_contain_text("policy wide is for it, too, but near names more labels.")


def test_live_leads_from_the_fleet_to_a_pod_that_says_why_it_waits(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("levels", POLICY)
    page = new_page(stage.api.token("viewer"))
    page.goto(f"{stage.url}/t/default/live?policy=levels")
    page.get_by_role("region", name="Clusters").get_by_role("link", name="east").click()
    page.get_by_role("region", name="Agents of east").get_by_role("link", name="n1").click()
    page.get_by_role("region", name="Namespaces").get_by_role("link", name="shop").click()
    page.get_by_role("region", name="Workloads").get_by_role("link", name="Deployment levels").click(timeout=20_000)
    pods = page.get_by_role("region", name="Pods")
    expect(pods.get_by_role("link")).to_have_text(["shop/levels-7d9f-0", "shop/levels-7d9f-1"])
    pods.get_by_role("link", name="shop/levels-7d9f-0").click()
    expect(page.get_by_role("heading", name="levels-7d9f-0")).to_be_visible()
    table = page.get_by_role("region", name="Lanes, as numbers")
    expect(table.get_by_role("row").filter(has_text="api")).to_contain_text("Mbit/s")
    where = page.get_by_role("navigation", name="Where you are")
    expect(where.get_by_text("levels-7d9f-0")).to_have_attribute("aria-current", "page")
    expect(where.get_by_role("link", name="Deployment levels")).to_be_visible()
    where.get_by_role("link", name="east").click()
    page.wait_for_url("**/live?policy=levels&cluster=east")


def test_an_administrator_sees_what_a_viewer_sees_and_ends_it(stage: Stage, new_page: NewPage) -> None:
    stage.api.publish("viewed", POLICY)
    page = new_page()
    page.goto(f"{stage.url}/t/default/roles")
    page.get_by_role("button", name="See as this: Viewer").click()
    expect(page.get_by_text("You see default as: Viewer")).to_be_visible()
    editor(page, stage, "viewed")
    expect(page.get_by_text("Your role here is Viewer. This needs Lane editor")).to_be_visible()
    expect(page.get_by_role("button", name="Save draft")).to_have_count(0)
    page.get_by_role("button", name="End preview").click()
    page.wait_for_url("**/t/default/roles")
    editor(page, stage, "viewed")
    expect(page.get_by_role("button", name="Save draft")).to_be_visible()


def test_a_quota_is_set_and_refuses_what_is_beyond(stage: Stage, new_page: NewPage) -> None:
    stage.api.ask("PUT", "/v1/tenants/small", {"title": "a small one"})
    page = new_page()
    page.goto(f"{stage.url}/t/small/roles")
    page.get_by_role("button", name="Quota of small").click()
    page.get_by_role("dialog").get_by_label("Policies").fill("0")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("row").filter(has_text="small")).to_contain_text("0 of 0")
    place = "/v1/tenants/small/policies/first/draft"
    answer = stage.api.http.put(place, json={"document": POLICY, "selector": {}})
    assert answer.status_code == 409
    assert "The quota of the tenant small for policies is 0" in answer.text
