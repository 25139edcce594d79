"""How often one may ask: per token, and per address for those without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from control_plane.access.gate import Gate
from control_plane.access.limits import RequestBuckets
from control_plane.access.refusals import RefusalRecorder
from control_plane.bootstrap import first_token, new_token
from control_plane.domain.access import Role
from control_plane.domain.commands import IssueToken
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    store = open_store(f"sqlite:{tmp_path / 'events.db'}")
    plane = ControlPlane(store)
    first_token(plane)
    yield plane
    store.close()


def bearer(plane: ControlPlane) -> dict[str, str]:
    token = new_token("default")
    plane.carry_out("default", IssueToken(token.id, "", Role.VIEWER, token.digest), Circumstances("test"))
    return {"Authorization": f"Bearer {token}"}


def test_a_bucket_fills_again_and_not_over_its_rim() -> None:
    buckets = RequestBuckets(rate=2, burst=3)
    assert [buckets.take("a", 0) for _ in range(4)] == [0, 0, 0, 1]
    assert buckets.take("b", 0) == 0
    assert [buckets.take("a", 0.5), buckets.take("a", 0.5)] == [0, 1]
    assert [buckets.take("a", 1000) for _ in range(4)] == [0, 0, 0, 1]
    assert RequestBuckets(rate=0.1, burst=1).take("a", 0) == 0
    slow = RequestBuckets(rate=0.1, burst=1)
    assert [slow.take("a", 0), slow.take("a", 0), slow.take("a", 9), slow.take("a", 10)] == [0, 10, 1, 0]


def test_names_do_not_take_all_memory() -> None:
    buckets = RequestBuckets(rate=1, burst=1)
    for number in range(30_000):
        buckets.take(str(number), 0)
    assert buckets.take("29999", 0) == 1
    assert buckets.take("0", 0) == 0, "it should be forgotten"


def test_who_asks_too_often_is_told_when_to_come_again(plane: ControlPlane, clock: Clock) -> None:
    gate = Gate(plane, RefusalRecorder(plane), 5, clock)
    api = TestClient(create_app(plane, gate=gate))
    first, second = bearer(plane), bearer(plane)
    answers = [api.get("/v1/whoami", headers=first) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    last = answers[-1]
    assert last.headers["retry-after"] == "1"
    assert last.headers["content-type"] == "application/problem+json"
    assert last.json()["remedy"] == "Wait 1 s, and send fewer."
    assert api.get("/v1/whoami", headers=second).status_code == 200
    clock.now += 1
    assert [api.get("/v1/whoami", headers=first).status_code for _ in range(6)] == [200] * 5 + [429]
    [noted] = api.get("/v1/tenants/default/refusals", headers=second).json()["items"][:1]
    assert (noted["status"], noted["known"]) == (429, True)


def test_strangers_are_slowed_down_and_those_behind_the_same_proxy_are_not(plane: ControlPlane, clock: Clock) -> None:
    app = create_app(plane, gate=Gate(plane, RefusalRecorder(plane), 5, clock))
    here, there = TestClient(app, client=("192.0.2.1", 1)), TestClient(app, client=("192.0.2.2", 1))
    wrong = {"Authorization": f"Bearer {new_token('default')}"}
    answers = [here.get("/v1/whoami", headers=wrong) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [401] * 20 + [429]
    assert answers[-1].headers["retry-after"] == "2"
    assert there.get("/v1/whoami", headers=wrong).status_code == 401
    assert here.get("/v1/whoami", headers=bearer(plane)).status_code == 200
    clock.now += 2
    assert here.get("/v1/whoami").status_code == 401
