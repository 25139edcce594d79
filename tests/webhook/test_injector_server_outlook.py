"""What the injector asks about the Pods of a policy: what it warns of, in which bounds, and what a failure changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio

from daemon.http import HttpRequest, HttpResponse
from daemon.kubernetes.api import ApiServer
from injector.pod.defaults import InjectionDefaults
from injector.pod.policies import validate_policy
from injector.server.budget import DecodingBudget
from injector.server.http import failure
from injector.server.policy_outlook import MOST_PODS, PolicyOutlook
from injector.server.review import Facts, Judge, ReadNamespace, ReadPolicy, ReviewAnswer
from injector.server.shared_policies import SharedPolicies
from tests.injector_server import MemoryApi, api_server, compact
from traffic_policy.pod.namespace import NO_RULES

GROUP = "/apis/podlane.io/v1alpha1"
MAIL = {"name": "mail", "rate": "30Mbit", "match": [{"port": [25]}]}
PAGES = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


def pod(name: str, namespace: str = "shop", total: str = "20M") -> dict[str, Any]:
    about = {"name": name, "namespace": namespace, "labels": {"app": "web"}}
    return {"metadata": {**about, "annotations": {"podlane.io/egress-bandwidth": total}}}


class ClusterApi(MemoryApi):
    """Answers with lists, in pages as long as they are asked for. A real one is in tests/kube."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        super().__init__()
        self.put("/api/v1/namespaces/shop", {"metadata": {"name": "shop"}})
        self.pods = list(pods)
        self.policies: list[dict[str, Any]] = []
        self.asked: list[dict[str, list[str]]] = []
        self.hangs = False

    async def handle(self, request: HttpRequest) -> HttpResponse:
        query = parse_qs(request.query)
        if self.hangs:
            await trio.sleep_forever()
        if "GET pods" in self.forbidden:
            return failure(403, 'User "robot" cannot list resource "pods"')
        lists = {
            "/api/v1/namespaces/shop/pods": self.pods, "/api/v1/pods": self.pods,
            "/api/v1/namespaces": [{"metadata": {"name": "shop"}}],
            f"{GROUP}/namespaces/shop/trafficpolicies": self.policies, f"{GROUP}/trafficpolicies": self.policies,
            f"{GROUP}/clustertrafficpolicies": [],
        }  # fmt: skip
        if request.path not in lists:
            return await super().handle(request)
        if request.path.endswith("/pods"):
            assert request.headers["accept"] == PAGES
            self.asked.append(query)
        begin = int(query.get("continue", ["0"])[0])
        end = begin + int(query["limit"][0])
        found = lists[request.path]
        more = {"continue": str(end)} if end < len(found) else {}
        return compact({"metadata": {"resourceVersion": "1", **more}, "items": found[begin:end]})


@asynccontextmanager
async def looking(api: MemoryApi, patience: float = 60.0) -> AsyncIterator[PolicyOutlook]:
    budget = DecodingBudget()
    async with api_server(api) as access, trio.open_nursery() as nursery:
        nursery.start_soon(budget.work)
        client = ApiServer(access)
        yield PolicyOutlook(client, SharedPolicies(client, 10.0), budget, patience)
        await client.aclose()
        nursery.cancel_scope.cancel()


def asked(kind: str = "TrafficPolicy", before: Any = None, **spec: Any) -> tuple[bytes, ReviewAnswer]:
    """A review, and what is answered without looking at Pods."""
    about = {"name": "web", **({"namespace": "shop"} if kind == "TrafficPolicy" else {})}
    request = {
        "uid": "u", "operation": "UPDATE" if before else "CREATE",
        "kind": {"group": "podlane.io", "version": "v1alpha1", "kind": kind},
        "object": {"metadata": about, "spec": spec}, "oldObject": before,
    }  # fmt: skip
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    facts = Facts(ReadPolicy(None), ReadNamespace(NO_RULES))
    return json.dumps(review).encode(), Judge(validate_policy, InjectionDefaults()).decide(review, facts)


def warnings(answer: ReviewAnswer) -> list[str]:
    response = json.loads(answer.body)["response"]
    assert (response["uid"], response["allowed"]) == ("u", True)
    return list(response.get("warnings", []))


@pytest.mark.trio
async def test_pods_are_asked_for_by_the_policy_s_selector_and_warned_of() -> None:
    api = ClusterApi(*(pod(f"web-{n}") for n in range(250)))
    async with looking(api) as outlook:
        selector = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}
        (said,) = warnings(await outlook.add(*asked(total="100Mbit", classes=[MAIL], podSelector=selector)))
    assert said.startswith("podlane: Pods web-0, web-1, web-2 and 247 more would be refused it")
    assert len(said) <= 256
    assert len(api.asked) == 3, "pages"
    assert api.asked[0]["labelSelector"] == ["app=web,!x"]
    assert api.asked[0]["fieldSelector"] == ["spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed"]


@pytest.mark.trio
async def test_what_is_looked_at_is_bounded() -> None:
    api = ClusterApi(*(pod(f"web-{n}", total="90M") for n in range(MOST_PODS + 50)))
    async with looking(api) as outlook:
        told = warnings(await outlook.add(*asked(total="100Mbit")))
        assert told == [f"podlane: There are more Pods than were looked at, {MOST_PODS}."]
        api.pods = [pod("web")]
        api.policies = [
            {"metadata": {"name": str(n), "namespace": "shop"}, "spec": {"total": "1Mbit"}} for n in range(600)
        ]
        assert warnings(await outlook.add(*asked(total="100Mbit", classes=[MAIL]))) == [], "too many policies"


@pytest.mark.trio
async def test_caps_of_a_cluster_tell_of_pods_in_their_namespaces() -> None:
    async with looking(ClusterApi(pod("web"))) as outlook:
        told = warnings(await outlook.add(*asked("ClusterTrafficPolicy", caps={"total": "10Mbit"})))
    assert told == [
        "podlane: In Pod shop/web: total is 10Mbit instead of 20Mbit, by the caps of ClusterTrafficPolicy web."
    ]


@pytest.mark.trio
async def test_without_rights_or_an_answer_in_time_there_is_a_warning_less() -> None:
    api = ClusterApi(pod("web"))
    body, answer = asked(total="100Mbit", classes=[MAIL])
    async with looking(api) as outlook:
        api.forbidden.add("GET pods")
        assert await outlook.add(body, answer) is answer
        api.forbidden.clear()
        assert warnings(await outlook.add(body, answer)) != []
    api.hangs = True
    async with looking(api, patience=0.2) as outlook:
        with trio.fail_after(10):
            assert await outlook.add(body, answer) is answer
    assert await PolicyOutlook(None, SharedPolicies(None, 1.0), DecodingBudget()).add(body, answer) is answer


@pytest.mark.trio
async def test_nothing_is_asked_where_nothing_changes_or_all_is_refused() -> None:
    api = ClusterApi(pod("web"))
    hidden = [MAIL, {**MAIL, "name": "hidden"}]
    async with looking(api) as outlook:
        for body, answer in (
            asked(total="100Mbit", before={"spec": {"total": "100Mbit"}}),
            asked(total="100Mbit", classes=hidden),
        ):
            assert await outlook.add(body, answer) is answer
    assert api.requests == []
    assert api.asked == []


@pytest.mark.trio
async def test_a_large_policy_is_read_by_the_process_for_long_work() -> None:
    many = [
        {**MAIL, "name": f"c{n}", "rate": "1Mbit", "match": [{"sni": [f"{'n' * 40}{n}.example.com"]}]}
        for n in range(200)
    ]
    async with looking(ClusterApi(pod("web"))) as outlook:
        body, answer = asked(total="1Gbit", classes=many, before={"spec": {"total": "1Gbit", "classes": many[:-1]}})
        assert len(body) > 32 * 1024
        (said,) = warnings(await outlook.add(body, answer))
    assert said.startswith("podlane: Pod web would be refused it")
