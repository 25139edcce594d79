"""Nodes as the injector reads them: which kubelets are too old, who is told, and what a failure changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio

from daemon.http import JSON, HttpRequest, HttpResponse
from daemon.kubernetes.api import ApiServer
from injector.pod.admission import mutate
from injector.pod.defaults import InjectionDefaults
from injector.pod.reviews import warned
from injector.server.budget import DecodingBudget
from injector.server.http import failure
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import Nodes
from injector.server.shared_policies import SharedPolicies
from injector.server.webhook import Webhook
from tests.injector_server import MemoryApi, api_server, body_of, compact, document_of, http1, review, serving

COLUMNS = [{"name": name} for name in ("Name", "Status", "Roles", "Age", "Version")]


class NodesApi(MemoryApi):
    """Answers with pages of a table: rows are names and versions. Real ones are in tests/kube."""

    def __init__(self, *pages: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.pages = list(pages)
        self.broken: Any = None

    async def handle(self, request: HttpRequest) -> HttpResponse:
        query = parse_qs(request.query)
        assert (request.method, request.path) == ("GET", "/api/v1/nodes")
        assert request.headers["accept"] == "application/json;as=Table;v=v1;g=meta.k8s.io"
        assert query["labelSelector"] == ["kubernetes.io/os!=windows"]
        if "GET nodes" in self.forbidden:
            return failure(403, 'User "robot" cannot list resource "nodes"')
        if self.broken is not None:
            return compact(self.broken)
        page = int(query.get("continue", ["0"])[0])
        rows = [{"cells": [name, "Ready", "<none>", "1d", version]} for name, version in self.pages[page]]
        more = {"continue": str(page + 1)} if page + 1 < len(self.pages) else {}
        # Columns are on the first page alone.
        return compact(
            {"kind": "Table", "metadata": more, "rows": rows, **({} if page else {"columnDefinitions": COLUMNS})}
        )


@asynccontextmanager
async def looking(api: NodesApi) -> AsyncIterator[tuple[Nodes, ApiServer, InjectorMetrics]]:
    metrics = InjectorMetrics()
    async with api_server(api) as access:
        client = ApiServer(access, metrics.api_failed, program="podlane-injector")
        yield Nodes(client, metrics), client, metrics
        await client.aclose()


def gauge(metrics: InjectorMetrics) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if line.startswith("podlane_injector_old_kubelets")]


@pytest.mark.trio
async def test_kubelets_that_are_too_old_are_counted_and_named() -> None:
    first = [("a", "v1.28.15"), ("b", "v1.29.0"), ("c", "v1.37.2")]
    second = [("d" * 63, "v1.27.3-gke.100"), ("e", "1.9"), ("f", "v2.0.0"), ("g", "v1.26.0+k3s1"), ("h", "unknown")]
    async with looking(NodesApi(first, second)) as (nodes, client, metrics):
        assert gauge(metrics) == [], "nothing is known yet"
        assert await nodes.look(client)
        (warning,) = nodes.warnings
        assert warning == (
            f"4 of 8 nodes have kubelets before 1.29, on which no Pod with a sidecar starts: a, {'d' * 30}, e, .... Upgrade "
            "them, or keep the Pod away."
        )
        assert gauge(metrics) == ["podlane_injector_old_kubelets 4.0"]


@pytest.mark.trio
async def test_where_all_are_new_enough_nobody_is_told_anything() -> None:
    api = NodesApi([("a", "v1.28.15")])
    async with looking(api) as (nodes, client, metrics):
        await nodes.look(client)
        assert nodes.warnings
        api.pages = [[("a", "v1.29.1")]]
        await nodes.look(client)
        assert nodes.warnings == ()
        assert gauge(metrics) == ["podlane_injector_old_kubelets 0.0"]


@pytest.mark.trio
async def test_without_an_answer_what_was_seen_counts(capsys: pytest.CaptureFixture[str]) -> None:
    api = NodesApi([("a", "v1.28.15")])
    async with looking(api) as (nodes, client, metrics):
        await nodes.look(client)
        seen = nodes.warnings
        api.forbidden.add("GET nodes")
        for _ in range(2):
            assert not await nodes.look(client)
        assert nodes.warnings == seen
        logged = capsys.readouterr().err
        assert logged.count("podlane-injector may not list nodes") == 1, "not again and again"
        assert "Give its service account the verb" in logged
        assert (
            'podlane_injector_api_errors_total{code="403",resource="nodes",verb="list"} 2' in metrics.render().decode()
        )


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "NodeList", "items": []},
        {"kind": "Table", "metadata": {}, "columnDefinitions": [{"name": "Name"}], "rows": []},
        {"kind": "Table", "metadata": None, "columnDefinitions": COLUMNS, "rows": []},
        {"kind": "Table", "metadata": {}, "columnDefinitions": COLUMNS, "rows": [{"cells": ["a"]}]},
        {"kind": "Table", "metadata": {}, "columnDefinitions": 5, "rows": 6},
    ],
    ids=["no table", "no versions", "no metadata", "a short row", "nonsense"],
)
@pytest.mark.trio
async def test_an_answer_that_is_no_such_table_changes_nothing(broken: Any) -> None:
    api = NodesApi([("a", "v1.28.15")])
    async with looking(api) as (nodes, client, _):
        await nodes.look(client)
        api.broken = broken
        assert not await nodes.look(client)
        assert nodes.warnings


@pytest.mark.trio
async def test_without_an_api_server_nothing_is_known() -> None:
    nodes = Nodes(None, InjectorMetrics())
    await nodes.follow()
    assert nodes.warnings == ()


@pytest.mark.parametrize("size", [0, 40_000], ids=["short", "long, in the other process"])
@pytest.mark.trio
async def test_answers_warn_of_old_kubelets(size: int) -> None:
    budget = DecodingBudget()
    document = review({"podlane.io/egress-bandwidth": "10M"})
    document["request"]["object"]["metadata"]["labels"]["long"] = "x" * size
    async with looking(NodesApi([("a", "v1.28.15")])) as (nodes, client, metrics):
        await nodes.look(client)
        webhook = Webhook(
            "mutate", mutate, InjectionDefaults(), SharedPolicies(None, 10.0), metrics, 60.0, budget,
            Namespaces(None, 10.0), nodes,
        )  # fmt: skip
        async with serving({"/mutate": webhook.handle}) as (_, port), trio.open_nursery() as nursery:
            nursery.start_soon(budget.work)
            answer = await http1(port).request("POST", "/mutate", {"content-type": JSON}, body_of(document))
            nursery.cancel_scope.cancel()
        (warning,) = nodes.warnings
    assert f"podlane: {warning}"[:256] in document_of(answer)["response"]["warnings"]


def test_only_who_creates_an_injected_pod_is_warned() -> None:
    patched = {"response": {"allowed": True, "patch": "W10=", "warnings": [f"podlane: {i}" for i in range(19)]}}
    response = warned(patched, ["x" * 300, "too many"])["response"]
    assert len(response["warnings"]) == 20
    assert response["warnings"][19].startswith("podlane: xxx")
    assert len(response["warnings"][19]) == 256
    assert warned({"response": {"allowed": True, "patch": "W10="}}, ()) == {
        "response": {"allowed": True, "patch": "W10="}
    }
    for other in ({"allowed": True}, {"allowed": False, "status": {}}):
        assert warned({"response": dict(other)}, ["old"]) == {"response": other}
