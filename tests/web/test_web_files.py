"""The files of the pages: what browsers are told with them, and what is no page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from control_plane.web_pages import WebFiles

PAGES = {"": ["/assets/Overview.js"], "live": ["/assets/Live.js", "/assets/Live.css"], "policies/*": ["/assets/P.js"]}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text('<meta content="PODLANE_NONCE"><meta content="PODLANE_SESSION">')
    (tmp_path / "pages.json").write_text(json.dumps(PAGES))
    (tmp_path / "assets" / "index-abc.js").write_text("let a = 1;" * 100)
    (tmp_path / "icon.svg").write_text("<svg/>")
    return client_of(tmp_path)


def client_of(folder: Path) -> TestClient:
    app = Starlette()
    app.router.default = WebFiles(PlainTextResponse("no page", 404), folder)
    return TestClient(app)


def test_a_page_lets_in_nothing_from_elsewhere(client: TestClient) -> None:
    pages = [client.get(path) for path in ("/", "/t/default/fleet", "/index.html")]
    nonces = [page.text.split('"')[1] for page in pages]
    assert len({*nonces}) == 3, "each response has a nonce of its own"
    for page, nonce in zip(pages, nonces, strict=True):
        policy = page.headers["content-security-policy"]
        assert f"style-src 'self' 'nonce-{nonce}'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert page.headers["cache-control"] == "no-store"


def test_assets_are_kept_for_good_and_sent_packed(client: TestClient) -> None:
    packed = client.get("/assets/index-abc.js", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/assets/index-abc.js", headers={"Accept-Encoding": "identity"})
    assert packed.text == plain.text == "let a = 1;" * 100
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.headers["vary"] == "Accept-Encoding"
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["content-type"].startswith("text/javascript")
    assert client.get("/icon.svg").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/none", "/assets/none.js", "/assets/../index.html", "/openapi.json", "/healthz"]
)
def test_what_is_no_page_stays_so(client: TestClient, path: str) -> None:
    assert client.get(path).text == "no page" or path == "/assets/../index.html"


def test_only_reading_gets_pages(client: TestClient) -> None:
    assert client.post("/t/default").text == "no page"


def test_without_files_it_says_how_to_get_them(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    assert "make web" in client.get("/").text
    assert client.get("/t/default").text == "no page"


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("/t/default", ["Overview.js"]),
        ("/t/default/", ["Overview.js"]),
        ("/t/default/live", ["Live.js", "Live.css"]),
        ("/t/default/policies/web", ["P.js"]),
        ("/t/default/policies", []),
        ("/t/default/policies/web/more", []),
        ("/sign-in", []),
        ("/", []),
    ],
)
def test_a_page_names_its_files_before_a_script_does(client: TestClient, path: str, files: list[str]) -> None:
    links = client.get(path).headers.get("link", "")
    assert re.findall(r"/assets/([\w.]+)>; rel=(\w+)", links) == [
        (name, "modulepreload" if name.endswith(".js") else "preload") for name in files
    ]


def test_a_page_knows_whether_there_is_a_session(client: TestClient) -> None:
    assert '"no"' in client.get("/").text
    assert '"yes"' in client.get("/", headers={"Cookie": "other=1; podlane-session=abc"}).text
    assert client.get("/pages.json").headers["content-type"].startswith("text/html"), "it is no file of ours"
