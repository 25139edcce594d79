"""Every page in both themes and on two screens: nothing that axe finds, nothing wider than the screen, and a picture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect
from scene import dress
from stage import ROOT, NewPage, Stage

pytestmark = pytest.mark.timeout(400)  # a busy machine's Chromium takes its time

PAGES = {
    "overview": "",
    "live": "/live?policy=shared-lanes&seconds=60",
    "live-agent": "/live?cluster=fra1&node=fra1-w001",
    "live-workload": "/live?cluster=fra1&node=fra1-w001&namespace=shop&controller=Deployment/shared-lanes",
    "live-pod": "/live?cluster=fra1&node=fra1-w001&pod=shop/shared-lanes-7d9f-0",
    "policies": "/policies",
    "editor": "/policies/shared-lanes",
    "names": "/names",
    "yaml": "/policies/shared-lanes?tab=yaml",
    "history": "/policies/shared-lanes?tab=history",
    "rollouts": "/rollouts",
    "rollout": "/rollouts/shared-lanes",
    "alerts": "/alerts",
    "alert-rules": "/alerts?tab=rules",
    "alert-rule": "/alerts?tab=rules&rule=away",
    "silences": "/alerts?tab=silences",
    "channels": "/alerts?tab=channels",
    "budgets": "/budgets",
    "budget": "/budgets?budget=archive",
    "fleet": "/fleet",
    "agent": "/fleet?agent=iad1/iad1-w001",
    "workloads": "/workloads?agent=fra1/fra1-w001",
    "in-force": "/workloads?agent=fra1/fra1-w001&pod=shop/batch-7d9f-0",
    "audit": "/audit",
    "roles": "/roles",
    "settings": "/settings",
}
SCREENS = {"wide": (1440, 900), "small": (390, 844)}
PICTURES = Path(os.environ.get("PODLANE_WEB_PICTURES", ROOT / "out" / "web"))
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module", autouse=True)
def fleet(stage: Stage) -> None:
    dress(stage)
    PICTURES.mkdir(parents=True, exist_ok=True)


# A narrow screen is where words have no room; the wide one is for pictures.
@pytest.mark.parametrize("screen", ["small", pytest.param("wide", marks=pytest.mark.nightly)])
def test_every_page_has_room_for_japanese(stage: Stage, new_page: NewPage, screen: str) -> None:
    width, height = SCREENS[screen]
    page = new_page(width=width, height=height, language="ja-JP")
    expect(page.locator("html")).to_have_attribute("lang", "ja")
    for name, path in PAGES.items():
        page.goto(f"{stage.url}/t/default{path}")
        expect(page.locator("main h1")).to_be_visible()
        expect(page.locator(".skeleton")).to_have_count(0)
        page.screenshot(path=PICTURES / f"{name}-ja-{screen}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the screen"


@pytest.mark.covering
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_is_for_everybody(stage: Stage, new_page: NewPage, axe: str, screen: str, theme: str) -> None:
    width, height = SCREENS[screen]
    page = new_page(theme=theme, width=width, height=height)
    found = {}
    for name, path in PAGES.items():
        page.goto(f"{stage.url}/t/default{path}")
        expect(page.locator("main h1")).to_be_visible()
        expect(page.locator(".skeleton")).to_have_count(0)
        page.screenshot(path=PICTURES / f"{name}-{theme}-{screen}.png")
        options = {"runOnly": RULES}
        violations = page.evaluate(
            f"async options => {{ {axe}; return (await axe.run(document, options)).violations }}", options
        )
        found[name] = [(each["id"], [node["target"] for node in each["nodes"]]) for each in violations]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the screen"
    assert found == {name: [] for name in PAGES}
