"""The REST API: who may do what, what is changed once, what is refused and how, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from control_plane.bootstrap import first_token
from control_plane.domain.access import Role
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store
from control_plane.store.records import Cause, NewEvent

POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": ["443"]}]}]}
WRONG = {"total": "100Mbit", "classes": [{"name": "web", "rate": "200Mbit", "match": [{"port": [443]}]}]}
Call = Callable[..., Any]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    yield ControlPlane(store)
    store.close()


@pytest.fixture
def api(plane: ControlPlane) -> TestClient:
    """As the platform's first administrator."""
    token = first_token(plane)
    return TestClient(create_app(plane), headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=True)


def token_for(api: TestClient, tenant: str, role: Role) -> dict[str, str]:
    answer = api.post(f"/v1/tenants/{tenant}/tokens", json={"role": role})
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def publish(api: TestClient, name: str, document: object = POLICY) -> None:
    assert api.put(f"/v1/tenants/default/policies/{name}/draft", json={"document": document}).is_success
    assert api.post(f"/v1/tenants/default/policies/{name}/publish").is_success


def test_the_first_token_is_given_once(plane: ControlPlane, api: TestClient) -> None:
    assert first_token(plane) is None
    assert api.get("/v1/whoami").json()["tenant"] == "platform"
    assert [each["name"] for each in api.get("/v1/tenants").json()["items"]] == ["default", "platform"]


def test_a_policy_is_drafted_and_published(api: TestClient) -> None:
    place = "/v1/tenants/default/policies/web"
    drafted = api.put(f"{place}/draft", json={"document": POLICY, "selector": {"team": "shop"}}).json()
    assert (drafted["revision"], drafted["in_force"], drafted["draft"]["selector"]) == (0, None, {"team": "shop"})
    published = api.post(f"{place}/publish").json()
    assert (published["revision"], published["draft"]) == (1, None)
    assert published["in_force"] == drafted["draft"]
    assert api.get(place).json() == published
    publish(api, "web", {"total": "5Mbit", "classes": []})
    assert [each["revision"] for each in api.get(f"{place}/revisions").json()["items"]] == [1, 2]
    assert api.delete(place).json()["in_force"] is None
    assert api.get(place).json()["revision"] == 2


def test_a_wrong_policy_is_refused_with_place_and_remedy(api: TestClient) -> None:
    for answer in (
        api.put("/v1/tenants/default/policies/web/draft", json={"document": WRONG}),
        api.post("/v1/validate", json={"document": WRONG}),
    ):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        [problem] = answer.json()["problems"]
        assert problem["path"] == "classes[0].rate"
        assert "raise total to 200Mbit" in problem["remedy"]
    assert api.get("/v1/tenants/default/policies").json()["items"] == []
    assert "web" in api.post("/v1/validate", json={"document": POLICY}).json()["meaning"]


def test_who_has_not_seen_the_last_change_cannot_undo_it(api: TestClient) -> None:
    place = "/v1/tenants/default/policies/web"
    wish = {"document": POLICY}
    first = api.put(f"{place}/draft", json=wish, headers={"If-None-Match": "*"})
    assert first.headers["etag"] == api.get(place).headers["etag"]
    assert api.put(f"{place}/draft", json=wish, headers={"If-None-Match": "*"}).status_code == 412
    changed = api.put(f"{place}/draft", json={"document": {"total": "5Mbit", "classes": []}})
    stale = api.post(f"{place}/publish", headers={"If-Match": first.headers["etag"]})
    assert stale.status_code == 412
    assert "Read it" in stale.json()["remedy"]
    assert api.post(f"{place}/publish", headers={"If-Match": changed.headers["etag"]}).status_code == 200
    assert api.post(f"{place}/publish", headers={"If-Match": "W/x"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "wish"),
    [
        ("budgets/a", {"bytes": 5}),
        ("alerts/rules/a", {"kind": "agents-away", "threshold": 0.5}),
        ("alerts/channels/a", {"kind": "webhook", "url": "https://alerts.example.com/"}),
        ("grants/a", {"role": "viewer"}),
        ("clusters/a", None),
    ],
)
def test_what_was_removed_is_there_no_more_and_can_be_made_anew(api: TestClient, path: str, wish: Any) -> None:
    place, anew = f"/v1/tenants/default/{path}", {"If-None-Match": "*"}
    first = api.put(place, json=wish, headers=anew)
    assert first.is_success, first.text
    assert api.put(place, json=wish, headers=anew).status_code == 412
    assert api.delete(place).is_success
    again = api.put(place, json=wish, headers=anew)
    assert again.is_success, again.text
    assert again.headers["etag"] != first.headers["etag"]
    assert api.delete(place, headers={"If-Match": first.headers["etag"]}).status_code == 412


def test_a_repeated_request_happens_once(api: TestClient) -> None:
    place, key = "/v1/tenants/default/policies/web", {"Idempotency-Key": "k1"}
    api.put(f"{place}/draft", json={"document": POLICY})
    first = api.post(f"{place}/publish", headers=key)
    again = api.post(f"{place}/publish", headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    other = api.delete(place, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:podlane:problem:key-reused")


def test_a_token_is_told_once_and_kept_nowhere(api: TestClient, tmp_path: Path) -> None:
    place, key = "/v1/tenants/default/tokens", {"Idempotency-Key": "k1"}
    issued = api.post(place, json={"role": "viewer"}, headers=key).json()
    again = api.post(place, json={"role": "viewer"}, headers=key).json()
    assert again == {**issued, "token": None}
    assert [each["token"] for each in api.get(place).json()["items"]] == [None]
    secret = issued["token"].rpartition("_")[2].encode()
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir())
    mine = {"Authorization": f"Bearer {issued['token']}"}
    assert api.get("/v1/whoami", headers=mine).json() == {
        "author": f"default/{issued['id']}", "tenant": "default", "token": issued["id"], "roles": {"default": "viewer"},
    }  # fmt: skip
    assert api.delete(f"{place}/{issued['id']}").is_success
    refused = api.get("/v1/whoami", headers=mine)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_a_token_ends_when_it_was_said_to(tmp_path: Path) -> None:
    now = [1000.0]
    store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    plane = ControlPlane(store, lambda: now[0])
    api = TestClient(create_app(plane), headers={"Authorization": f"Bearer {first_token(plane)}"})
    text = api.post("/v1/tenants/default/tokens", json={"role": "viewer", "expires_in": 60}).json()["token"]
    now[0] += 59
    assert plane.authenticate(text) is not None
    now[0] += 1
    assert plane.authenticate(text) is None
    store.close()


def test_lists_of_tenants_have_those_that_the_caller_may_see(api: TestClient) -> None:
    api.put("/v1/tenants/other", json={})
    for home in ("default", "other", "platform"):
        for role in Role:
            governs = home == "platform" and role is Role.ADMINISTRATOR
            found = api.get("/v1/tenants", headers=token_for(api, home, role)).json()["items"]
            assert [each["name"] for each in found] == (["default", "other", "platform"] if governs else [home])


def test_a_dry_run_says_what_would_happen(api: TestClient) -> None:
    place = "/v1/tenants/default/policies/web"
    answer = api.put(f"{place}/draft?dry-run=true", json={"document": POLICY}).json()
    assert (answer["dry_run"], [each["kind"] for each in answer["events"]]) == (True, ["PolicyDrafted"])
    assert api.get(place).status_code == 404


def test_lists_are_read_page_by_page(api: TestClient) -> None:
    names = [f"p{number:02}" for number in range(7)]
    for name in names:
        publish(api, name)
    found, cursor = [], ""
    while True:
        page = api.get("/v1/tenants/default/policies", params={"limit": 3, "cursor": cursor}).json()
        found += [each["name"] for each in page["items"]]
        if page["next"] is None:
            break
        cursor = page["next"]
    assert found == names
    wrong = api.get("/v1/tenants/default/policies", params={"cursor": "no cursor"})
    assert (wrong.status_code, wrong.json()["type"]) == (400, "urn:podlane:problem:malformed")


def test_every_change_is_recorded_with_author_and_reason(api: TestClient) -> None:
    headers = {**token_for(api, "default", Role.EDITOR), "Podlane-Reason": "für\tFriday".encode()}
    api.put("/v1/tenants/default/policies/web/draft", json={"document": POLICY}, headers=headers)
    editor = api.get("/v1/whoami", headers=headers).json()["token"]
    last = api.get("/v1/tenants/default/events", params={"limit": 1000}).json()["items"][-1]
    assert (last["kind"], last["author"], last["address"]) == ("PolicyDrafted", f"default/{editor}", "testclient")
    assert last["reason"] == "für Friday"
    assert api.get("/v1/tenants/default/events/head").json() == {"position": last["position"], "digest": last["digest"]}


def test_what_is_too_long_is_refused_before_it_is_read(api: TestClient) -> None:
    answer = api.post("/v1/validate", content=b" " * (2**19 + 1), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    deep = "[" * 100_000 + "]" * 100_000
    for body in (deep, '{"document": ' + deep + "}", "{", "9" * 5000, '{"document": {"total": NaN}}'):
        answer = api.post("/v1/validate", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), body[:20]
        assert json.loads(answer.text)["remedy"]


def test_an_event_of_a_newer_version_is_no_riddle(api: TestClient, plane: ControlPlane) -> None:
    head = plane.store.heads()["default"]
    plane.store.append("default", head.position, [NewEvent("policy/web", "RolloutStarted", {})], Cause("ada", 0))
    answer = api.get("/v1/tenants/default")
    assert (answer.status_code, answer.json()["remedy"]) == (503, "Run the version that wrote it.")


def test_a_second_process_sees_what_the_first_did(api: TestClient, plane: ControlPlane, tmp_path: Path) -> None:
    other_store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    other = TestClient(create_app(ControlPlane(other_store)), headers=dict(api.headers))
    for number in range(3):
        publish(api, f"a{number}")
        publish(other, f"b{number}")
    assert api.get("/v1/tenants/default/policies").json() == other.get("/v1/tenants/default/policies").json()
    assert plane.store.verify("default") == other_store.verify("default")
    other_store.close()


def test_a_revision_on_its_way_is_paused_resumed_and_taken_back(api: TestClient) -> None:
    place = "/v1/tenants/default/policies/web"
    publish(api, "web")
    assert api.get(f"{place}/rollout").status_code == 404
    api.put(f"{place}/draft", json={"document": {"total": "5Mbit", "classes": []}})
    wish = {"stages": [{"count": 1}, {"labels": {"zone": "a"}}], "soak": 5, "gates": {"throttled": 1.5}}
    assert api.post(f"{place}/publish", json={"rollout": wish}).json()["rollout"] == "running"
    begun = api.get(f"{place}/rollout").json()
    assert [stage["says"] for stage in begun["stages"]] == ["1 agent", "zone=a", "100 %"]
    assert (begun["revision"], begun["before"], begun["stage"]) == (2, 1, 0)
    paused = api.post(f"{place}/rollout/pause", headers={"Podlane-Reason": "lunch"}).json()
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    assert api.post(f"{place}/rollout/resume").json()["state"] == "running"
    foreseen = api.post(f"{place}/rollout/abort?dry-run=true").json()
    assert [event["kind"] for event in foreseen["events"]] == ["RolloutTakenBack"]
    gone = api.post(f"{place}/rollout/abort").json()
    assert gone["state"] == "taken back"
    assert gone["reason"].startswith("aborted by platform/")
    assert api.get(place).json()["in_force"]["document"]["total"] == "100Mbit"
    late = api.post(f"{place}/rollout/pause")
    assert (late.status_code, late.json()["detail"]) == (409, "The rollout of revision 2 of web has ended: taken back.")


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"stages": []}, "at least 1 item"),
        ({"stages": [{}]}, "exactly one of count, percent and labels"),
        ({"stages": [{"percent": 0}]}, "percentage beyond 0 to 100"),
        ({"stages": [{"count": 1}], "gates": {"away": 7}}, "limit is out of range"),
        ({"stages": [{"count": 1, "sun": 1}]}, "sun"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_and_nothing_is_published(
    api: TestClient, wish: object, says: str
) -> None:
    place = "/v1/tenants/default/policies/web"
    api.put(f"{place}/draft", json={"document": POLICY})
    answer = api.post(f"{place}/publish", json={"rollout": wish})
    assert answer.status_code == 422
    assert says in answer.text
    assert api.get(place).json()["revision"] == 0


def test_caps_of_a_tenant_hold_its_policies(api: TestClient) -> None:
    caps, draft = "/v1/tenants/default/caps", "/v1/tenants/default/policies/web/draft"
    assert api.get(caps).json() == {
        "total": None, "ingress": None, "ceil": None, "priority": None, "beyond": "refuse", "version": 0,
    }  # fmt: skip
    given = api.put(caps, json={"total": "50Mbit"}, headers={"If-None-Match": "*"})
    assert (given.json()["total"], given.headers["ETag"]) == ("50Mbit", f'"{given.json()["version"]}"')
    refused = api.put(draft, json={"document": POLICY})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:podlane:problem:invalid")
    assert "50Mbit at most" in refused.json()["detail"]

    api.put(caps, json={"total": "50Mbit", "beyond": "clamp"})
    [would] = api.put(draft, json={"document": POLICY}, params={"dry-run": "true"}).json()["events"]
    drafted = api.put(draft, json={"document": POLICY}).json()
    assert drafted["draft"]["document"] == would["data"]["document"]
    assert drafted["clamped"] == would["data"]["clamped"]
    assert "total is 50Mbit instead of 100Mbit" in drafted["clamped"][0]
    assert api.put(caps, json={"total": "much"}).status_code == 422
    assert api.put(caps, json={}).json()["beyond"] == "refuse"
