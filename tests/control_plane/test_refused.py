"""Requests that were refused: noted with author, address, operation and reason, bounded, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from control_plane.access.gate import Gate
from control_plane.access.refusals import RefusalRecorder
from control_plane.bootstrap import first_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import IssueToken
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store import refusals
from control_plane.store.errors import StoreError
from control_plane.store.event_store import open_store
from control_plane.store.refusals import RefusalTable, RefusedRequest
from podlane.fleet.ecs import ecs_document

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(database_url: str, clock: Clock) -> Iterator[ControlPlane]:
    store = open_store(database_url)
    yield ControlPlane(store, clock)
    store.close()


@pytest.fixture
def recorder(plane: ControlPlane) -> RefusalRecorder:
    return RefusalRecorder(plane)


@pytest.fixture
def api(plane: ControlPlane, recorder: RefusalRecorder, clock: Clock) -> TestClient:
    token = first_token(plane)
    return TestClient(
        create_app(plane, gate=Gate(plane, recorder, 0, clock)), headers={"Authorization": f"Bearer {token}"}
    )


def bearer(plane: ControlPlane, tenant: str, role: Role) -> dict[str, str]:
    token = new_token(tenant)
    plane.carry_out(tenant, IssueToken(token.id, "", role, token.digest), Circumstances("test"))
    return {"Authorization": f"Bearer {token}"}


def refused(api: TestClient, tenant: str) -> list[dict]:
    return api.get(f"/v1/tenants/{tenant}/refusals", params={"limit": 1000}).json()["items"]


def test_who_may_not_is_noted_in_the_tenant_it_was_about(api: TestClient, plane: ControlPlane, clock: Clock) -> None:
    viewer = bearer(plane, "default", Role.VIEWER)
    mine = api.get("/v1/whoami", headers=viewer).json()["token"]
    place = "/v1/tenants/default/policies/web"
    assert api.delete(place, headers={**viewer, "Podlane-Reason": "für Freitag".encode()}).status_code == 403
    [found] = refused(api, "default")
    assert found == {
        "tenant": "default", "number": 1, "at": int(clock.now * 1000), "author": f"default/{mine}", "known": True,
        "address": "testclient", "operation": f"DELETE {place}", "status": 403, "problem": "not-allowed",
        "detail": f"default/{mine} has the role viewer in default, and may not publish in default.", "reason": "für Freitag",
        "count": 1,
    }  # fmt: skip
    # About another tenant: in that one's log. About one that there is not: in the author's.
    assert api.get("/v1/tenants/platform", headers=viewer).status_code == 403
    assert api.get("/v1/tenants/nowhere", headers=viewer).status_code == 403
    assert [each["operation"] for each in refused(api, "platform")] == ["GET /v1/tenants/platform"]
    assert [each["operation"] for each in refused(api, "default")][1:] == ["GET /v1/tenants/nowhere"]


def test_who_is_not_known_is_noted_with_what_was_claimed(api: TestClient) -> None:
    stranger = TestClient(api.app, client=("192.0.2.7", 1234))
    stranger.get("/v1/whoami")
    claimed = new_token("default")
    stranger.get("/v1/whoami", headers={"Authorization": f"Bearer {claimed}"})
    assert [(each["author"], each["known"], each["status"], each["address"]) for each in refused(api, "platform")] == [
        ("", False, 401, "192.0.2.7")
    ]
    assert [(each["author"], each["problem"]) for each in refused(api, "default")] == [
        (f"default/{claimed.id}", "unauthenticated")
    ]


def test_a_change_that_could_not_be_made_is_noted_and_a_question_is_not(api: TestClient) -> None:
    place = "/v1/tenants/default/policies/web"
    assert api.post(f"{place}/publish").status_code == 409
    assert api.put(f"{place}/draft", json={"document": {"total": "much"}}).status_code == 422
    assert api.put(f"{place}/draft", json={}).status_code == 422
    assert api.delete(place).status_code == 404
    assert api.put("/v1/tenants/default", json={}, headers={"If-Match": '"99"'}).status_code == 412
    assert api.put(f"{place}/draft", content=b" " * 2**20).status_code == 413
    before = refused(api, "default")
    assert [each["status"] for each in before] == [409, 422, 422, 404, 412, 413]
    assert all(each["detail"] and each["problem"] for each in before)
    assert api.get(place).status_code == 404
    assert api.post("/v1/validate", json={"document": {"total": "much"}}).status_code == 422
    assert refused(api, "default") == before


def test_a_flood_costs_little(api: TestClient, plane: ControlPlane) -> None:
    stranger = TestClient(api.app)
    answers = [stranger.get(f"/v1/whoami?x={number}") for number in range(200)]
    assert {answer.status_code for answer in answers} == {401, 429}
    for number in range(200):
        stranger.get(f"/v1/tenants/t{number}")
    found = refused(api, "platform")
    assert [(each["operation"], each["status"]) for each in found[:2]] == [
        ("GET /v1/whoami", 401),
        ("GET /v1/whoami", 429),
    ]
    assert found[0]["count"] + found[1]["count"] == 200
    assert len(found) == 101
    assert (found[-1]["problem"], sum(each["count"] for each in found)) == ("too-many", 400)
    # Those with a token are noted all the same.
    viewer = bearer(plane, "default", Role.VIEWER)
    assert api.get("/v1/tenants/platform", headers=viewer).status_code == 403
    assert refused(api, "platform")[-1]["known"]


def test_the_oldest_are_forgotten_and_strangers_do_not_push_out_people(
    plane: ControlPlane, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "KEPT", 10)
    table = plane.store.refusals

    def one(number: int, *, known: bool) -> RefusedRequest:
        return RefusedRequest("shop", plane.now_ms + number, "a", known, "", f"GET /{number}", 403, "p", "d")

    table.add("shop", [one(number, known=True) for number in range(5)])
    for part in range(10):
        table.add("shop", [one(part * 10 + number, known=False) for number in range(10)])
    found = table.read("shop", 0, 1000, plane.now_ms)
    assert [each.known for each in found] == [True] * 5 + [False] * 10
    assert [each.number for each in found] == [1, 2, 3, 4, 5, *range(96, 106)]
    assert table.read("shop", 103, 1, plane.now_ms)[0].number == 104
    clock.now += refusals.KEPT_MS / 1000 + 1
    assert table.read("shop", 0, 1000, plane.now_ms) == []
    table.add("shop", [one(0, known=True)])
    clock.now -= refusals.KEPT_MS / 1000 + 1
    assert len(table.read("shop", 0, 1000, plane.now_ms)) == 1, "they are still there"


def test_the_audit_log_has_both_by_time_and_page_by_page(api: TestClient, clock: Clock) -> None:
    for number in range(5):
        clock.now += 1
        api.put(f"/v1/tenants/default/clusters/c{number}")
        clock.now += 1
        api.delete(f"/v1/tenants/default/clusters/nowhere{number}")
        api.delete(f"/v1/tenants/default/clusters/nowhere{number}")
    found, cursor = [], ""
    while cursor is not None:
        page = api.get("/v1/tenants/default/audit", params={"limit": 3, "cursor": cursor}).json()
        assert len(page["items"]) <= 3
        found += page["items"]
        cursor = page["next"]
    told = [each["event"]["kind"] if each["event"] else each["refusal"]["count"] for each in found]
    assert told == ["TenantCreated", *["ClusterAdded", 2] * 5]
    assert [each["at"] for each in found] == sorted(each["at"] for each in found)
    assert api.get("/v1/tenants/default/audit", params={"cursor": "MQ=="}).status_code == 400


def test_nothing_secret_is_noted_wherever_it_was_sent(api: TestClient) -> None:
    secret = new_token("default")
    for text in (str(secret), JWT):
        headers = {"Authorization": f"Bearer {text}", "Podlane-Reason": f"with {text}"}
        for path in (f"/v1/tenants/{text}", f"/v1/tenants/default/policies/{text}?token={text}"):
            api.get(path, headers=headers)
            api.delete(path, headers={"Podlane-Reason": f"with {text}"})
            api.put(f"{path}/draft", json={"document": {"total": text}})
    entries = [
        each for tenant in ("platform", "default") for each in api.get(f"/v1/tenants/{tenant}/audit").json()["items"]
    ]
    assert len(entries) > 8
    told = json.dumps(entries)
    assert secret.id in told
    assert secret.secret not in told
    assert JWT.partition(".")[2] not in told


def test_what_is_noted_survives_a_database_that_fails(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("The disk is full. Make room.")

    with monkeypatch.context() as patched:
        patched.setattr(RefusalTable, "add", fail)
        api.delete("/v1/tenants/default/policies/web")
        assert api.get("/v1/tenants/default/refusals").status_code == 503
        api.delete("/v1/tenants/default/policies/web")
    assert [each["count"] for each in refused(api, "default")] == [2]


def test_a_thread_writes_what_is_left_at_the_end(
    api: TestClient, plane: ControlPlane, recorder: RefusalRecorder
) -> None:
    with recorder.running():
        api.delete("/v1/tenants/default/policies/web")
    assert [each.status for each in plane.store.refusals.read("default", 0, 10, plane.now_ms)] == [404]


def test_entries_in_the_fields_that_log_systems_know(api: TestClient) -> None:
    api.put("/v1/tenants/default/clusters/east")
    api.delete("/v1/tenants/default/clusters/west")
    changed, refused_one = [ecs_document(each) for each in api.get("/v1/tenants/default/audit").json()["items"][-2:]]
    assert changed["@timestamp"] == "2027-01-15T08:00:00.000Z"
    assert changed["event"]["action"] == "ClusterAdded"
    assert (changed["event"]["outcome"], changed["event"]["sequence"]) == ("success", 2)
    assert len(changed["event"]["hash"]) == 64
    assert changed["organization"] == {"id": "default"}
    assert changed["source"] == {"address": "testclient"}
    assert refused_one["event"]["outcome"] == "failure"
    assert refused_one["http"] == {"request": {"method": "DELETE"}, "response": {"status_code": 404}}
    assert refused_one["url"] == {"path": "/v1/tenants/default/clusters/west"}
    assert refused_one["user"]["name"] == changed["user"]["name"]
