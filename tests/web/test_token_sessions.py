"""Sessions of browsers that begin with a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from control_plane.bootstrap import first_token
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store

PLACE = "/v1/tenants/default/clusters/east"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    yield ControlPlane(store)
    store.close()


@pytest.fixture
def browser(plane: ControlPlane) -> TestClient:
    return TestClient(create_app(plane))


def begin(browser: TestClient, token: object) -> str:
    answer = browser.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.is_success, answer.text
    return str(answer.json()["csrf_token"])


def test_the_cookie_stands_for_the_token(plane: ControlPlane, browser: TestClient) -> None:
    token = first_token(plane)
    answer = browser.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert str(token) not in cookie
    found = browser.get("/v1/session").json()
    assert found == answer.json()
    assert found["roles"] == {"platform": "administrator"}


def test_changes_want_the_page_s_own_token(plane: ControlPlane, browser: TestClient) -> None:
    csrf = begin(browser, first_token(plane))
    assert browser.put(PLACE).status_code == 403
    assert browser.put(PLACE, headers={"X-CSRF-Token": csrf[::-1]}).status_code == 403
    assert browser.put(PLACE, headers={"X-CSRF-Token": csrf}).is_success


def test_it_ends_with_the_token_and_when_one_signs_out(plane: ControlPlane, browser: TestClient) -> None:
    csrf = begin(browser, first_token(plane))
    issued = browser.post("/v1/tenants/default/tokens", json={"role": "viewer"}, headers={"X-CSRF-Token": csrf}).json()
    other = TestClient(browser.app)
    begin(other, issued["token"])
    assert other.get("/v1/session").json()["roles"] == {"default": "viewer"}
    assert browser.delete(f"/v1/tenants/default/tokens/{issued['id']}", headers={"X-CSRF-Token": csrf}).is_success
    assert other.get("/v1/session").status_code == 401
    text = browser.cookies["podlane-session"]
    assert browser.post("/v1/logout", headers={"X-CSRF-Token": csrf}).json() == {"logout_url": None}
    assert browser.get("/v1/session", headers={"Cookie": f"podlane-session={text}"}).status_code == 401


def test_a_session_begins_with_nothing_else(plane: ControlPlane, browser: TestClient) -> None:
    first_token(plane)
    assert browser.post("/v1/session").status_code == 401
    assert browser.post("/v1/session", headers={"Authorization": "Bearer none"}).status_code == 401
    assert browser.get("/v1/session", headers={"Cookie": "podlane-session=token.none"}).status_code == 401
    assert browser.get("/v1/sign-in").json() == {"provider": False}


def test_the_database_does_not_have_the_token(plane: ControlPlane, browser: TestClient, tmp_path: Path) -> None:
    token = str(first_token(plane))
    begin(browser, token)
    secret = token.rsplit("_", 1)[1].encode()
    assert not any(secret in path.read_bytes() for path in tmp_path.glob("events.db*"))
