"""Events are written beside the answers: to the right object, once, and whatever the API server does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from daemon.http import HttpRequest, HttpResponse
from daemon.kubernetes.api import ApiServer
from daemon.kubernetes.event_series import Happening, Owner
from injector.pod.admission import mutate
from injector.pod.defaults import InjectionDefaults
from injector.pod.happenings import EventReason, mutated
from injector.server.budget import DecodingBudget
from injector.server.events import Events
from injector.server.http import failure
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import Nodes
from injector.server.shared_policies import SharedPolicies
from injector.server.webhook import Webhook
from tests.injector_server import (
    MemoryApi,
    _Everything,
    api_server,
    body_of,
    compact,
    document_of,
    http1,
    review,
    serving,
)

REPLICA_SET = "/apis/apps/v1/namespaces/shop/replicasets/web-1"
EVENTS = "/api/v1/namespaces/shop/events/"
OWNER = Owner("apps/v1", "ReplicaSet", "web-1", "uid-of-the-replica-set")
REFUSED = Happening("shop", OWNER, EventReason.REFUSED, "No.", is_warning=True)
JOB = replace(REFUSED, owner=Owner("batch/v1", "Job", "once", "uid-of-the-job"))
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "uid-of-the-deployment"}
JSON = {"content-type": "application/json"}


class Watched(MemoryApi):
    """An API server that has a ReplicaSet, and can refuse to write."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[int] = []
        self.put(REPLICA_SET, replica_set())

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if self.refusals and request.method == "PATCH":
            return failure(self.refusals.pop(0), "not now")
        return await super().handle(request)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [document for path, document in self.objects.items() if path.startswith(EVENTS)]


class Told(InjectorMetrics):
    """Metrics that tell when an Event has been counted."""

    def __init__(self) -> None:
        super().__init__()
        self._told = trio.Event()

    def event(self, result: str) -> None:
        super().event(result)
        self._told.set()

    async def until(self, **expected: float) -> None:
        """Wait for these counts."""
        with trio.fail_after(20):
            while counted(self) != expected:
                self._told = trio.Event()
                await self._told.wait()


def replica_set(uid: str = OWNER.uid, **owner: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web-1", "uid": uid, "ownerReferences": [DEPLOYMENT | {"controller": True} | owner]}}


@asynccontextmanager
async def writing(memory: Watched) -> AsyncIterator[tuple[Events, Told]]:
    metrics = Told()
    async with api_server(memory) as access:
        server = ApiServer(access, metrics.api_failed, program="podlane-injector")
        events = Events(server, metrics)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.run)
            yield events, metrics
            nursery.cancel_scope.cancel()
        await server.aclose()


def counted(metrics: InjectorMetrics) -> dict[str, float]:
    prefix = 'podlane_injector_events_total{result="'
    rows = [row.removeprefix(prefix) for row in metrics.render().decode().splitlines() if row.startswith(prefix)]
    return {row.partition('"')[0]: float(row.split()[1]) for row in rows}


@pytest.mark.trio
async def test_an_event_is_for_the_deployment_and_its_count_is_written_later() -> None:
    memory = Watched()
    async with writing(memory) as (events, metrics):
        events.add(REFUSED)
        events.add(None)
        await metrics.until(written=1)
        (event,) = memory.events
        assert event["involvedObject"] == {
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "namespace": "shop",
            "uid": "uid-of-the-deployment",
        }  # fmt: skip
        assert event["metadata"]["name"].startswith("web.")
        assert (event["type"], event["reason"], event["message"], event["count"]) == ("Warning", "Refused", "No.", 1)
        assert event["firstTimestamp"] == event["lastTimestamp"]
        for _ in range(100):
            events.add(REFUSED)
        events.add(replace(REFUSED, message="Never."))
        await metrics.until(written=2)
        assert [each["message"] for each in memory.events] == ["No.", "Never."], "the first one's count waits"
        assert [method for method, _, _ in memory.requests].count("GET") == 1, "whose it is does not change"


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        pytest.param(
            replica_set(kind="Rollout", apiVersion="argoproj.io/v1alpha1"), "Rollout", id="another controller"
        ),
        pytest.param(replica_set(controller=False), "ReplicaSet", id="nobody's"),
        pytest.param(None, "ReplicaSet", id="it may not be read"),
    ],
)
@pytest.mark.trio
async def test_the_owner_is_the_replica_sets_controller_or_itself(stored: Mapping[str, Any] | None, kind: str) -> None:
    memory = Watched()
    if stored is None:
        memory.forbidden.add("GET replicasets")
    else:
        memory.put(REPLICA_SET, stored)
    async with writing(memory) as (events, metrics):
        events.add(REFUSED)
        await metrics.until(written=1)
        assert [event["involvedObject"]["kind"] for event in memory.events] == [kind]


@pytest.mark.parametrize("stored", [None, replica_set("another")], ids=["gone", "another of that name"])
@pytest.mark.trio
async def test_nobody_is_told_where_there_is_no_such_replica_set(stored: Mapping[str, Any] | None) -> None:
    memory = Watched()
    if stored is None:
        del memory.objects[REPLICA_SET]
    else:
        memory.put(REPLICA_SET, stored)
    async with writing(memory) as (events, metrics):
        events.add(REFUSED)
        await metrics.until(dropped=1)
        events.add(JOB)
        await metrics.until(dropped=1, written=1)
        assert [event["involvedObject"]["kind"] for event in memory.events] == ["Job"]


@pytest.mark.parametrize("code", [429, 500, 503])
@pytest.mark.trio
async def test_what_may_go_by_is_tried_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.kubernetes.event_series.RETRY_INTERVAL", 0.01)
    memory = Watched()
    memory.refusals = [code, code]
    async with writing(memory) as (events, metrics):
        events.add(JOB)
        await metrics.until(failed=2, written=1)
        assert [event["count"] for event in memory.events] == [1]


@pytest.mark.trio
async def test_what_will_not_go_by_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.kubernetes.event_series.RETRY_INTERVAL", 0.01)
    memory = Watched()
    memory.refusals = [403]
    async with writing(memory) as (events, metrics):
        events.add(JOB)
        await metrics.until(failed=1)
        events.add(replace(JOB, message="Never."))
        await metrics.until(failed=1, written=1)
        assert [event["message"] for event in memory.events] == ["Never."]


@pytest.mark.trio
async def test_names_of_events_are_valid_however_long_their_objects_are() -> None:
    memory = Watched()
    long = "a" * 229 + "." + "b" * 23
    async with writing(memory) as (events, metrics):
        events.add(replace(JOB, owner=replace(JOB.owner, name=long)))
        await metrics.until(written=1)
        (event,) = memory.events
    assert event["involvedObject"]["name"] == long
    assert len(event["metadata"]["name"]) <= 253
    assert event["metadata"]["name"].startswith("a" * 229 + ".")
    assert ".." not in event["metadata"]["name"]


# --- beside the answers ----------------------------------------------------------------------------------------------


def refused_review(number: int) -> dict[str, Any]:
    document = review({"podlane.io/egress-bandwidth": "fast"})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"job-{number}", "uid": str(number), "controller": True}
    document["request"]["object"]["metadata"]["ownerReferences"] = [owner]
    return document


@pytest.mark.trio
async def test_answers_do_not_wait_for_events_and_what_is_too_much_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server takes the request for an Event, and never answers it."""
    monkeypatch.setattr("daemon.kubernetes.event_series.MOST", 20)
    asked, metrics = trio.Event(), InjectorMetrics()

    async def stuck(request: HttpRequest) -> HttpResponse:
        if "/events/" in request.path:
            asked.set()
            await trio.sleep_forever()
        return compact({"metadata": {}})

    async with serving(_Everything(stuck)) as (_, port), api_server(MemoryApi()) as access:
        api = ApiServer(replace(access, port=port), program="podlane-injector")
        events = Events(api, metrics)
        webhook = Webhook(
            "mutate", mutate, InjectionDefaults(), SharedPolicies(api, 10.0), metrics, 9.0, DecodingBudget(),
            Namespaces(api, 10.0), Nodes(api, metrics), telling=mutated, record=events.add,
        )  # fmt: skip
        async with serving({"/mutate": webhook.handle}) as (_, own), trio.open_nursery() as nursery:
            nursery.start_soon(events.run)
            client = http1(own)
            with trio.fail_after(60):
                for number in range(20 + 3):
                    answer = await client.request("POST", "/mutate", JSON, body_of(refused_review(number)))
                    assert document_of(answer)["response"]["allowed"] is False
                await asked.wait()
            nursery.cancel_scope.cancel()
        await client.aclose()
        await api.aclose()
    assert counted(metrics)["dropped"] == 3
    assert 'podlane_injector_admissions_total{result="timeout"' not in metrics.render().decode()


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 40_000], ids=["short", "long, in the other process"])
async def test_an_event_follows_its_review(size: int) -> None:
    memory, budget = Watched(), DecodingBudget()
    document = refused_review(1)
    document["request"]["object"]["metadata"]["labels"]["long"] = "x" * size
    async with writing(memory) as (events, metrics):
        api: Any = events._api
        webhook = Webhook(
            "mutate", mutate, InjectionDefaults(), SharedPolicies(api, 10.0), metrics, 9.0, budget,
            Namespaces(api, 10.0), Nodes(api, metrics), telling=mutated, record=events.add,
        )  # fmt: skip
        async with serving({"/mutate": webhook.handle}) as (_, own), trio.open_nursery() as nursery:
            nursery.start_soon(budget.work)
            client = http1(own)
            await client.request("POST", "/mutate", JSON, body_of(document))
            await metrics.until(written=1)
            await client.aclose()
            nursery.cancel_scope.cancel()
    (event,) = memory.events
    assert event["involvedObject"]["name"] == "job-1"
    assert event["message"].startswith("podlane.io/egress-bandwidth: 'fast' is not a Kubernetes quantity.")
    assert json.dumps(event)
