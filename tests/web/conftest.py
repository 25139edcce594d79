"""The pages in Debian's Chromium, against a control plane and agents that run. Skipped where one of them cannot be had."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import ROOT, NewPage, Stage, open_stage

from control_plane.web_pages import FOLDER

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make build")
playwright.expect.set_options(timeout=20_000)  # milliseconds: next to other tests a page takes its time
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
SIGNED_IN = "**/t/default**"


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    if not (FOLDER / "index.html").exists():
        pytest.skip("The pages are not built: make web")
    with playwright.sync_playwright() as programs:
        # Without its sandbox, which root cannot have. It loads pages of ours alone.
        found = programs.chromium.launch(executable_path=chromium, args=list(_OPTIONS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, browser: playwright.Browser) -> Iterator[Stage]:  # noqa: ARG001
    # Those whom alerts are told to are on this machine as well.
    with open_stage(tmp_path_factory.mktemp("stage"), "--alerts-may-reach", "127.0.0.0/8") as made:
        yield made


@pytest.fixture
def new_page(browser: playwright.Browser, stage: Stage) -> Iterator[NewPage]:
    """Opens pages of separate users, who have signed in with their tokens. An error in a page fails the test."""
    contexts, errors = [], list[str]()

    def open_page(
        token: str = "", *, theme: str = "light", width: int = 1440, height: int = 900, language: str = "en-GB"
    ) -> playwright.Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce", locale=language
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: "Content Security Policy" in said.text and errors.append(said.text))
        page.goto(f"{stage.url}/sign-in")
        page.locator("#token").fill(token or stage.token)
        page.locator("#token").press("Enter")
        page.wait_for_url(SIGNED_IN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which finds what people with a disability could not use."""
    source: Path = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not source.exists():
        pytest.skip("axe-core is not installed: make web")
    return source.read_text()
