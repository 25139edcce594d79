"""Where a connection would go, asked of a control plane: the answer is that of the table which agents route with."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from control_plane.bootstrap import first_token
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store

POLICY = {
    "total": "100Mbit",
    "classes": [
        {
            "name": "api",
            "rate": "20Mbit",
            "match": [{"sni": ["api.example.com", "*.shop.example.com"]}, {"alpn": "h3"}],
        },
        {"name": "old", "rate": "5Mbit", "match": {"host": "www.example.com"}},
        {"name": "inside", "rate": "5Mbit", "match": {"cidr": ["10.0.0.0/8", "fd00::/8"], "port": ["80", "8000-8100"]}},
        {"name": "logins", "rate": "1Mbit", "match": [{"application": ["ssh", "https"]}]},
        {"name": "served", "rate": "1Mbit", "match": {"direction": "inbound", "source": "192.0.2.0/24"}},
    ],
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    plane = ControlPlane(open_store(f"sqlite:{tmp_path_factory.mktemp('try') / 'events.db'}"))
    return TestClient(create_app(plane), headers={"Authorization": f"Bearer {first_token(plane)}"})


def ask(api: TestClient, document: dict[str, Any] = POLICY, **connection: Any) -> Any:
    return api.post("/v1/try-connection", json={"document": document, "connection": connection})


@pytest.mark.parametrize(
    ("connection", "name", "at", "held"),
    [
        ({"port": 443, "sni": "API.example.com."}, "api", (0, 0), {"sni": ["api.example.com"]}),
        ({"port": 443, "sni": "a.shop.example.com"}, "api", (0, 0), {"sni": ["*.shop.example.com"]}),
        ({"port": 443, "protocol": "udp", "alpn": ["h3"]}, "api", (0, 1), {"alpn": ["h3"], "protocol": ["udp"]}),
        ({"port": 8443, "host": "www.example.com:8443"}, "old", (1, 0), {"host": ["www.example.com"]}),
        ({"port": 8050, "address": "10.9.0.1"}, "inside", (2, 0), {"cidr": ["10.0.0.0/8"], "port": ["8000-8100"]}),
        ({"port": 8050}, "default", None, {}),
        ({"port": 443}, "logins", (3, 0), {"application": ["https"], "protocol": ["tcp"]}),
        ({"port": 9, "direction": "inbound", "source": "192.0.2.7"}, "served", (4, 0), {"source": ["192.0.2.0/24"]}),
        ({"port": 9, "direction": "inbound"}, "default", None, {}),
        ({"port": 0, "protocol": "icmp"}, "default", None, {}),
    ],
)
def test_the_match_that_decides_is_named(
    api: TestClient, connection: dict[str, Any], name: str, at: tuple[int, int] | None, held: dict[str, list[str]]
) -> None:
    found = ask(api, **connection).json()
    assert (found["name"], found["held"]) == (name, held)
    assert (found["lane"], found["match"]) == (at or (None, None))
    assert bool(found["words"]) == (at is not None)


def test_it_says_why_a_name_does_not_count(api: TestClient) -> None:
    found = ask(api, port=25, sni="api.example.com").json()
    assert (found["name"], found["silenced"], found["reads_names"]) == ("default", True, False)
    blocked = {**POLICY, "quic": "block"}
    found = ask(api, blocked, port=443, protocol="udp", sni="api.example.com").json()
    assert (found["refused"], found["silenced"]) == (True, False)
    assert ask(api, port=443, sni="elsewhere.example.com").json()["reads_names"]


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ({"port": 443, "address": "somewhere"}, "'somewhere' is no IP address"),
        ({"port": 443, "source": "10.0.0.0/8"}, "'10.0.0.0/8' is no IP address"),
        ({"port": 443, "sni": "a b"}, "sni: "),
        ({"port": 70000}, "less than or equal to 65535"),
    ],
)
def test_what_cannot_be_tried_is_said(api: TestClient, connection: dict[str, Any], says: str) -> None:
    answer = ask(api, **connection)
    assert answer.status_code == 422
    assert says in answer.text


def test_a_policy_that_is_wrong_is_not_tried_and_a_program_can_mend_it(api: TestClient) -> None:
    wrong = {"total": "10Mbit", "classes": [{**POLICY["classes"][0], "rate": "8Mbit", "ceil": "2Mbit"}]}
    answer = ask(api, wrong, port=443)
    assert answer.status_code == 422
    mends = answer.json()["problems"][0]["mends"]
    assert mends == [
        {"path": "classes[0].rate", "value": "2Mbit", "raises": False},
        {"path": "classes[0].ceil", "value": "8Mbit", "raises": True},
    ]
    for mend in mends:
        key = mend["path"].removeprefix("classes[0].")
        mended = {**wrong, "classes": [{**wrong["classes"][0], key: mend["value"]}]}
        assert ask(api, mended, port=443).status_code == 200
