"""An administrator looks at a tenant as another role would: the server lowers what may be done, and never raises it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from control_plane.bootstrap import first_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import CreateTenant, IssueToken
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": ["443"]}]}]}
POLICIES = "/v1/tenants/default/policies"


class Desk:
    """One control plane, asked with tokens of any role."""

    def __init__(self, folder: Path) -> None:
        self.plane = ControlPlane(open_store(f"sqlite:{folder / 'events.db'}"))
        self.first = str(first_token(self.plane))
        self.plane.carry_out("other", CreateTenant(), Circumstances("test"))
        self.http = TestClient(create_app(self.plane))

    def token(self, tenant: str, role: Role) -> str:
        token = new_token(tenant)
        self.plane.carry_out(tenant, IssueToken(token.id, "", role, token.digest), Circumstances("test"))
        return str(token)

    def ask(self, method: str, path: str, token: str, view_as: str, body: object = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}", "Podlane-View-As": view_as}
        answer = self.http.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.text


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("viewing"))
    yield desk
    desk.plane.store.close()


@pytest.mark.parametrize("home", ["default", "platform"])
def test_they_have_the_role_there_and_none_elsewhere(desk: Desk, home: str) -> None:
    token = desk.token(home, Role.ADMINISTRATOR)
    status, text = desk.ask("GET", "/v1/session", token, "default/editor")
    assert status == 200
    assert '"roles":{"default":"editor"}' in text
    assert desk.ask("GET", POLICIES, token, "default/viewer")[0] == 200
    assert desk.ask("GET", "/v1/tenants/other/policies", token, "default/viewer")[0] == 403
    assert '"other"' not in desk.ask("GET", "/v1/tenants", token, "default/viewer")[1]


def test_what_the_role_may_not_do_is_refused_as_to_the_role(desk: Desk) -> None:
    status, text = desk.ask("PUT", f"{POLICIES}/web/draft", desk.first, "default/viewer", {"document": POLICY})
    assert status == 403
    assert "has the role viewer in default" in text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", f"{POLICIES}/web/draft", {"document": POLICY}),
        ("PUT", f"{POLICIES}/web/draft?dry-run=true", {"document": POLICY}),
        ("POST", f"{POLICIES}/web/publish", None),
        ("POST", "/v1/tenants/default/alerts/channels/ops/test", None),
        ("PUT", "/v1/tenants/default/quota", {"agents": 1}),
        ("POST", "/v1/tenants/default/tokens", {"role": "viewer"}),
    ],
)
def test_nothing_is_changed_meanwhile(desk: Desk, method: str, path: str, body: object) -> None:
    before = desk.plane.store.heads()
    status, text = desk.ask(method, path, desk.first, "default/operator", body)
    assert status == 403
    assert "nothing is changed meanwhile" in text
    assert desk.plane.store.heads() == before


def test_what_changes_nothing_is_tried_as_the_role_may(desk: Desk) -> None:
    place, body = f"{POLICIES}/web/preview", {"document": POLICY}
    assert desk.ask("POST", place, desk.first, "default/editor", body)[0] == 200
    assert desk.ask("POST", place, desk.first, "default/viewer", body)[0] == 403


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR, Role.OPERATOR])
def test_only_administrators_look_so_and_nobody_rises(desk: Desk, role: Role) -> None:
    token = desk.token("default", role)
    for view_as in ("default/viewer", "default/operator", "default/administrator", "other/viewer"):
        assert desk.ask("GET", "/v1/session", token, view_as)[0] == 403
    assert desk.ask("GET", "/v1/session", desk.token("default", Role.ADMINISTRATOR), "other/viewer")[0] == 403
    assert desk.ask("GET", "/v1/session", desk.first, "default/administrator")[0] == 403
    assert desk.ask("GET", "/v1/session", desk.first, "default/king")[0] == 400
