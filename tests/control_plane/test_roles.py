"""Who may do what: every cell of the table in docs/reference/roles.md, and no operation that is not in it."""

from __future__ import annotations

import re
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

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "roles.md"
POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": ["443"]}]}]}
ALERT_RULE = {"kind": "throttled", "threshold": 0.5}
SILENCE = {
    "matchers": [{"name": "severity", "value": "info"}],
    "ends_at": 2**32,
    "starts_at": 2**32 - 60,
    "comment": "x",
}
BODIES = {
    "POST /v1/validate": {"document": POLICY},
    "POST /v1/try-connection": {"document": POLICY, "connection": {"port": 443}},
    "PUT /v1/tenants/{tenant}": {"title": "x"},
    "PUT /v1/tenants/{tenant}/quota": {"agents": 5},
    "PUT /v1/tenants/{tenant}/caps": {"total": "1Gbit"},
    "PUT /v1/tenants/{tenant}/budgets/{budget}": {"bytes": 5},
    "POST /v1/tenants/{tenant}/tokens": {"role": "viewer"},
    "PUT /v1/tenants/{tenant}/grants/{group}": {"role": "viewer"},
    "PUT /v1/tenants/{tenant}/policies/{policy}/draft": {"document": POLICY},
    "POST /v1/tenants/{tenant}/clusters/{cluster}/join-tokens": {},
    "PUT /v1/tenants/{tenant}/clusters/{cluster}/trust": {},
    "PUT /v1/tenants/{tenant}/clusters/{cluster}/labels": {"labels": {"zone": "a"}},
    "POST /v1/tenants/{tenant}/policies/{policy}/preview": {"document": POLICY},
    "PUT /v1/tenants/{tenant}/alerts/rules/{rule}": ALERT_RULE,
    "POST /v1/tenants/{tenant}/alerts/trial": {"rule": ALERT_RULE},
    "POST /v1/tenants/{tenant}/alerts/silences": SILENCE,
    "PUT /v1/tenants/{tenant}/alerts/silences/{silence}": SILENCE,
    "PUT /v1/tenants/{tenant}/alerts/channels/{channel}": {"kind": "webhook", "url": "https://alerts.example.com/"},
}
"""What operations want. A body that is wrong is refused before it is asked who sends it."""
QUERY = {"dry-run": "true", "since": "1", "until": "2", "workload": "shop/web"}
NAMES = {
    "tenant": "default",
    "policy": "web",
    "cluster": "east",
    "group": "ops",
    "budget": "month",
    "token": "0" * 16,
    "node": "n1",
    "rule": "away",
    "silence": "a1",
    "channel": "ops",
}
COLUMNS = [*Role, "platform"]


def table() -> dict[str, dict[str, str]]:
    """The cells of each operation, by the column's name."""
    rows = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if found := re.fullmatch(r"`([A-Z]+ /\S+)`", cells[0]):
            assert found[1] not in rows, found[1]
            rows[found[1]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


ROWS = table()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    store = open_store(f"sqlite:{tmp_path_factory.mktemp('roles') / 'events.db'}")
    plane = ControlPlane(store)
    first_token(plane)
    plane.carry_out("other", CreateTenant(), Circumstances("test"))
    yield plane
    store.close()


@pytest.fixture(scope="module")
def api(plane: ControlPlane) -> TestClient:
    return TestClient(create_app(plane))


def operations(api: TestClient) -> set[str]:
    paths = api.app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_the_table_has_every_operation_and_no_other(api: TestClient) -> None:
    assert set(ROWS) == operations(api)
    for row in ROWS.values():
        assert set(row.values()) <= {"yes", "-", "nobody asks"}


@pytest.mark.parametrize("home", ["default", "other", "platform"])
@pytest.mark.parametrize("role", Role)
def test_each_cell(api: TestClient, plane: ControlPlane, home: str, role: Role) -> None:
    """Operations are about the tenant default; ``home`` is that of the token."""
    token = new_token(home)
    plane.carry_out(home, IssueToken(token.id, "", role, token.digest), Circumstances("test"))
    headers = {"Authorization": f"Bearer {token}"}
    before = plane.store.heads()
    for operation, row in ROWS.items():
        if "nobody asks" in row.values():
            continue
        method, path = operation.split()
        column = "platform" if home == "platform" and role is Role.ADMINISTRATOR else role
        # What is about no tenant is the same for all; else roles count at home, and the platform's administrators'.
        allowed = row[column] == "yes" and (column == "platform" or home == "default" or "{tenant}" not in path)
        answer = api.request(method, path.format(**NAMES), params=QUERY, json=BODIES.get(operation), headers=headers)
        if allowed:
            # Not all that they are about is there.
            assert answer.is_success or answer.status_code in (404, 409), f"{operation}: {answer.text}"
        else:
            assert answer.status_code == 403, f"{operation}: {answer.text}"
    assert plane.store.heads() == before


def test_who_has_no_token_may_do_nothing(api: TestClient) -> None:
    for number, (operation, row) in enumerate(ROWS.items()):
        if "nobody asks" not in row.values():
            method, path = operation.split()
            # From another address each time: strangers may not ask often.
            api = TestClient(api.app, client=(f"192.0.2.{number}", 1))
            for headers in ({}, {"Authorization": f"Bearer {new_token('platform')}"}):
                answer = api.request(
                    method, path.format(**NAMES), params=QUERY, json=BODIES.get(operation), headers=headers
                )
                assert answer.status_code == 401, operation
