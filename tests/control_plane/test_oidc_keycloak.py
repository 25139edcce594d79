"""Logging in by a real identity provider, Keycloak: browsers by code and PKCE, the command line by the device flow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from keycloak_server import Browser, Keycloak, running_keycloak
from starlette.testclient import TestClient
from test_command import PODLANE, control_plane

from control_plane.access.gate import Gate, Users
from control_plane.access.provider import IdentityProvider, ProviderSettings
from control_plane.access.refusals import RefusalRecorder
from control_plane.access.sessions import BrowserSessions
from control_plane.bootstrap import first_token
from control_plane.domain.access import Role
from control_plane.domain.commands import CreateTenant, GrantGroup
from control_plane.domain.errors import UnauthenticatedError
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

ROOT = Path(__file__).parents[2]
SECRET = "the client's secret"
POLICY = {"total": "100Mbit", "classes": []}
_numbers = count()
pytestmark = pytest.mark.timeout(240)
"""Of which Keycloak takes a part to start."""


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    found = subprocess.run([ROOT / "tools" / "keycloak", "--find"], capture_output=True, text=True, check=False)
    if found.returncode == 77:
        pytest.skip("Keycloak is not here: tools/keycloak")
    assert found.returncode == 0, found.stderr
    with running_keycloak(Path(found.stdout.strip()), tmp_path_factory.mktemp("keycloak")) as keycloak:
        yield keycloak


class Clock:
    """Ahead of time by as much as a test wants: of sessions alone, since Keycloak's own cannot be set."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(database_url: str) -> Iterator[ControlPlane]:
    store = open_store(database_url)
    plane = ControlPlane(store)
    first_token(plane)
    by = Circumstances("test")
    plane.carry_out("shop", CreateTenant(), by)
    plane.carry_out("shop", GrantGroup("shop-editors", Role.EDITOR), by)
    plane.carry_out("shop", GrantGroup("everybody", Role.VIEWER), by)
    yield plane
    store.close()


@pytest.fixture
def gate(plane: ControlPlane, keycloak: Keycloak, clock: Clock) -> Gate:
    provider = IdentityProvider(ProviderSettings(keycloak.issuer, "podlane", "podlane-api", SECRET))
    users = Users(provider, BrowserSessions(plane.store.sessions, provider, clock), "http://testserver")
    return Gate(plane, RefusalRecorder(plane), 0, users=users)


@pytest.fixture
def page(plane: ControlPlane, gate: Gate) -> TestClient:
    """A browser's page of ours, with its cookies."""
    return TestClient(create_app(plane, gate=gate), follow_redirects=False)


def log_in(page: TestClient, name: str, path: str = "/") -> str:
    """What the callback was called with."""
    begun = page.get("/v1/login", params={"next": path})
    assert begun.status_code == 303, begun.text
    back = Browser(name).log_in(begun.headers["location"])
    assert back.startswith("http://testserver/v1/login/callback?"), back[:2000]
    return back


def test_a_browser_logs_in_works_and_logs_out(page: TestClient, plane: ControlPlane) -> None:
    back = log_in(page, "ada", "/tenants/shop?x=1")
    done = page.get(back)
    assert (done.status_code, done.headers["location"]) == (303, "/tenants/shop?x=1")
    cookie = next(value for value in done.headers.get_list("set-cookie") if value.startswith("podlane-session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    session = page.get("/v1/session").json()
    assert session["roles"] == {"shop": "editor"}
    assert session["author"].startswith("oidc:ada/")
    assert [each["name"] for each in page.get("/v1/tenants").json()["items"]] == ["shop"]

    draft, body = "/v1/tenants/shop/policies/web/draft", {"document": POLICY}
    # Another site's page can have the cookie sent, but does not know this.
    for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": "ä".encode()}):
        refused = page.put(draft, json=body, headers=headers)
        assert (refused.status_code, "csrf_token" in refused.json()["remedy"]) == (403, True)
    csrf = {"X-CSRF-Token": session["csrf_token"]}
    assert page.put(draft, json=body, headers=csrf).status_code == 200
    assert page.post("/v1/tenants/shop/policies/web/publish", headers=csrf).status_code == 403
    assert page.get("/v1/tenants/default/policies").status_code == 403
    [event] = [each for each in plane.store.read("shop") if each.kind == "PolicyDrafted"]
    assert event.author == session["author"]

    stolen = dict(page.cookies)
    out = page.post("/v1/logout", headers=csrf)
    assert out.json()["logout_url"].startswith("http://127.0.0.1")
    assert page.get("/v1/session").status_code == 401
    thief = TestClient(page.app, cookies=stolen)
    assert thief.get("/v1/session").status_code == 401


def test_a_login_is_for_the_browser_that_began_it_and_counts_once(page: TestClient) -> None:
    back = log_in(page, "ada")
    other = TestClient(page.app, follow_redirects=False)
    assert other.get(back).status_code == 401
    other.get("/v1/login")
    assert other.get(back).status_code == 401, "its own state is another"
    changed = back.replace("state=", "state=x")
    assert page.get(changed).status_code == 401
    kept = dict(page.cookies)
    assert page.get(back).status_code == 303
    again = TestClient(page.app, follow_redirects=False, cookies=kept)
    refused = again.get(back)
    assert (refused.status_code, "invalid_grant" in refused.json()["detail"]) == (401, True)
    assert page.get("/v1/login/callback?error=access_denied&state=x").status_code == 401


def test_a_code_is_worth_nothing_without_its_verifier(page: TestClient, gate: Gate) -> None:
    back = log_in(page, "ada")
    [code] = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["code"]
    assert gate.users is not None
    with pytest.raises(UnauthenticatedError, match="invalid_grant"):
        gate.users.provider.exchange(code, "http://testserver/v1/login/callback", "x" * 43)


@pytest.mark.parametrize("path", ["https://evil.example.com", "//evil.example.com", "/\\evil.example.com", "x", "/\tx"])
def test_no_login_leads_elsewhere(page: TestClient, path: str) -> None:
    page.get("/v1/login", params={"next": path})
    value = next(cookie.value for cookie in page.cookies.jar if cookie.name == "podlane-login")
    assert urllib.parse.parse_qs(value.strip('"'))["next"] == ["/"]


def test_who_leaves_a_group_loses_its_roles_and_who_is_locked_out_the_session(
    page: TestClient, keycloak: Keycloak, clock: Clock
) -> None:
    page.get(log_in(page, "ada"))
    [user] = keycloak.administer("GET", "/podlane/users?username=ada")
    groups = {each["name"]: each["id"] for each in keycloak.administer("GET", "/podlane/groups")}
    place = f"/podlane/users/{user['id']}/groups"
    keycloak.administer("DELETE", f"{place}/{groups['shop-editors']}")
    keycloak.administer("PUT", f"{place}/{groups['everybody']}")
    try:
        assert page.get("/v1/session").json()["roles"] == {"shop": "editor"}
        clock.ahead = 601
        assert page.get("/v1/session").json()["roles"] == {"shop": "viewer"}
        keycloak.administer("PUT", f"/podlane/users/{user['id']}", {**user, "enabled": False})
        assert page.get("/v1/session").status_code == 200, "fresh for ten minutes"
        clock.ahead = 1202
        assert page.get("/v1/session").status_code == 401
        clock.ahead = 0
        assert page.get("/v1/session").status_code == 401, "it is gone"
    finally:
        keycloak.administer("PUT", f"/podlane/users/{user['id']}", {**user, "enabled": True})
        keycloak.administer("PUT", f"{place}/{groups['shop-editors']}")
        keycloak.administer("DELETE", f"{place}/{groups['everybody']}")


def test_a_session_ends_after_half_a_day(page: TestClient, clock: Clock) -> None:
    page.get(log_in(page, "ada"))
    clock.ahead = 12 * 3600 + 1
    assert page.get("/v1/session").status_code == 401


def test_the_database_has_nothing_that_lets_anybody_in(page: TestClient, plane: ControlPlane) -> None:
    page.get(log_in(page, "ada"))
    text = next(cookie.value for cookie in page.cookies.jar if cookie.name == "podlane-session")
    with plane.store.database.reading() as execute:
        [row] = execute("SELECT id, document, sealed FROM sessions")
    assert text not in str(row)
    assert "eyJ" not in str(row)
    thief = TestClient(page.app, cookies={"podlane-session": row[0]})
    assert thief.get("/v1/session").status_code == 401


def device_login(page: TestClient, name: str) -> dict:
    begun = page.post("/v1/login/device").json()
    wish = {"device_code": begun["device_code"]}
    assert page.post("/v1/login/device/token", json=wish).json()["pending"] == "authorization_pending"
    allow(begun["verification_uri_complete"], name)
    return page.post("/v1/login/device/token", json=wish).json()


def allow(url: str, name: str) -> None:
    browser = Browser(name)
    assert "Device Login Successful" in browser.submit(browser.log_in(url), url, accept="Yes")


def test_a_program_logs_in_by_somebodys_browser(page: TestClient, keycloak: Keycloak) -> None:
    tokens = device_login(page, "ada")
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert page.get("/v1/whoami", headers=headers).json()["roles"] == {"shop": "editor"}
    again = page.post("/v1/login/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    assert page.get("/v1/whoami", headers={"Authorization": f"Bearer {again['access_token']}"}).status_code == 200
    assert page.post("/v1/login/refresh", json={"refresh_token": "x"}).status_code == 401
    assert page.post("/v1/login/device/token", json={"device_code": "x"}).status_code == 401
    # A refresh token is no access token, though it is signed by the same provider.
    refused = page.get("/v1/whoami", headers={"Authorization": f"Bearer {tokens['refresh_token']}"})
    assert refused.status_code == 401
    # Neither is a token that the provider has given for another application.
    form = {"grant_type": "password", "client_id": "other", "username": "ada", "password": "ada's password"}
    foreign = keycloak.ask("/realms/podlane/protocol/openid-connect/token", form)["access_token"]
    refused = page.get("/v1/whoami", headers={"Authorization": f"Bearer {foreign}"})
    assert (refused.status_code, "'aud'" in refused.json()["detail"]) == (401, True), refused.text


def test_who_has_no_role_may_look_at_nothing(page: TestClient) -> None:
    headers = {"Authorization": f"Bearer {device_login(page, 'eve')['access_token']}"}
    assert page.get("/v1/whoami", headers=headers).json()["roles"] == {}
    assert page.get("/v1/tenants", headers=headers).json()["items"] == []
    refused = page.get("/v1/tenants/shop", headers=headers)
    assert refused.status_code == 403
    assert "no role in shop" in refused.json()["detail"]


def test_the_providers_keys_change(page: TestClient, keycloak: Keycloak, gate: Gate) -> None:
    before = device_login(page, "ada")["access_token"]
    assert gate.users is not None
    provider = gate.users.provider
    assert provider.user_of(before).name == "ada"
    realm = keycloak.administer("GET", "/podlane")["id"]
    key = {
        "name": "newer", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider", "parentId": realm,
        "config": {"priority": [str(1000 + next(_numbers))], "enabled": ["true"], "active": ["true"], "keySize": ["2048"]},
    }  # fmt: skip
    keycloak.administer("POST", "/podlane/components", key)
    after = device_login(page, "ada")["access_token"]
    assert after.partition(".")[0] != before.partition(".")[0]
    provider._read_at -= 6
    assert provider.user_of(after).name == "ada"
    assert provider.user_of(before).name == "ada"


def test_the_command_line_logs_in(tmp_path: Path, keycloak: Keycloak) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    options = ["--oidc-issuer", keycloak.issuer, "--oidc-client-id", "podlane", "--oidc-client-secret-file", str(secret),
               "--oidc-audience", "podlane-api"]  # fmt: skip
    environment = {**os.environ, "PODLANE_CONFIG": str(tmp_path / "config"), "NO_COLOR": "1"}

    def run(*arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [*PODLANE, *arguments], input=given, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with control_plane(tmp_path, *options) as running:
        run("login", running.url, "--context", "admin", given=running.token)
        run("grants", "set", "shop-editors", "--role", "operator", "--tenant", "default")
        command = [*PODLANE, "login", running.url, "--oidc"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as login:
            assert login.stderr is not None
            found = re.search(r"go to (\S+)", login.stderr.readline())
            assert found
            allow(found[1], "ada")
            told = login.stderr.read()
        assert "operator of default; verbs are about the tenant default" in told
        run("policy", "apply", "web", "-f", "-", given=json.dumps(POLICY))
        # The token has ended: the next verb gets another, and keeps it.
        file = tmp_path / "config" / "contexts.yaml"
        before = file.read_text()
        file.write_text(re.sub(r"expires_at: [1-9].*", "expires_at: 1.0", before))
        assert json.loads(run("whoami", "-o", "json"))["roles"] == {"default": "operator"}
        assert "expires_at: 1.0" not in file.read_text()
        assert "shop-editors" in run("grants", "list")
        [entry] = [each["event"] for each in json.loads(run("audit", "list", "-o", "json"))
                   if each["event"] and each["event"]["kind"] == "PolicyPublished"]  # fmt: skip
        assert entry["author"].startswith("oidc:ada/")
    # Nothing that lets anybody in is in the process' log or its database.
    log = (tmp_path / "log").read_bytes() + b"".join(
        path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()
    )
    assert running.token.rpartition("_")[2].encode() not in log
    assert b"eyJ" not in log
    assert SECRET.encode() not in log
