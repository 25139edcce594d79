"""Namespaces as the injector reads them: rarely, and never less strict than they may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from daemon.kubernetes.api import ApiServer
from injector.errors import NamespaceError
from injector.server.namespaces import Namespaces
from tests.injector_server import MemoryApi, api_server
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject
from traffic_policy.units import Rate

SHOP = "/api/v1/namespaces/shop"
MOST = {"metadata": {"annotations": {"podlane.io/max-egress-bandwidth": "10M", "team": "a"}}}


@asynccontextmanager
async def reading(api: MemoryApi, clock: list[float]) -> AsyncIterator[Namespaces]:
    async with api_server(api) as access:
        client = ApiServer(access)
        yield Namespaces(client, 10.0, now=lambda: clock[0])
        await client.aclose()


@pytest.mark.trio
async def test_what_was_read_is_used_for_a_while_and_shared() -> None:
    api, clock = MemoryApi(), [0.0]
    api.put(SHOP, MOST)
    async with reading(api, clock) as namespaces:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: namespaces.rules("shop", {}, enforced=False))
        assert len(api.requests) == 1
        clock[0] = 9.0
        assert (await namespaces.rules("shop", {}, enforced=False)).most_sent == Rate.parse("10Mbit")
        api.put(SHOP, {"metadata": {}})
        clock[0] = 11.0
        rules = await namespaces.rules("shop", {}, enforced=True)
        assert (rules.most_sent, rules.enforced) == (None, True)
        assert len(api.requests) == 2


@pytest.mark.trio
async def test_without_an_answer_the_last_one_counts_and_without_any_the_review_fails() -> None:
    api, clock = MemoryApi(), [0.0]
    api.put(SHOP, MOST)
    async with reading(api, clock) as namespaces:
        await namespaces.rules("shop", {}, enforced=False)
        api.forbidden.add("GET namespaces")
        clock[0] = 300.0
        assert (await namespaces.rules("shop", {}, enforced=False)).most_sent == Rate.parse("10Mbit")
        clock[0] = 700.0
        with pytest.raises(NamespaceError, match=r"may not get namespaces shop.*Try again"):
            await namespaces.rules("shop", {}, enforced=False)


@pytest.mark.trio
async def test_a_namespace_that_is_gone_and_no_api_server_have_no_rules() -> None:
    async with reading(MemoryApi(), [0.0]) as namespaces:
        assert (await namespaces.rules("gone", {}, enforced=False)).most_sent is None
    assert (await Namespaces(None, 10.0).rules("shop", {}, enforced=True)).enforced


@pytest.mark.trio
async def test_which_policy_a_pod_has_is_found_by_its_labels_and_those_of_the_namespace() -> None:
    """Also by labels that are not ours."""
    about = {"name": "a", "uid": "a", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    chosen = {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "web"}}}
    policy = PolicyObject.from_object(CLUSTER_TRAFFIC_POLICY, {"metadata": about, "spec": {"total": "1Gbit", **chosen}})
    api = MemoryApi()
    known: list[ClusterPolicies | None] = [ClusterPolicies([policy])]
    api.put(SHOP, {"metadata": {"labels": {"team": "a"}}})
    async with api_server(api) as access:
        client = ApiServer(access)
        namespaces = Namespaces(client, 10.0, policies=lambda: known[0])
        (web, db) = [(await namespaces.rules("shop", {"app": app}, enforced=False)).verdict for app in ("web", "db")]
        assert web is not None
        assert db is not None
        assert (web.winner, db.winner) == (policy, None)
        known[0] = None
        assert (await namespaces.rules("shop", {"app": "web"}, enforced=False)).verdict is None
        await client.aclose()
