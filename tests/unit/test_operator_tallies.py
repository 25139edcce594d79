"""Counting again only what has changed gives what counting everything gives."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster_operator.pods import ReportedPod, WatchedPod
from cluster_operator.status import PolicyTally, tallies
from cluster_operator.tally_book import TallyBook
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject

MADE = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
SPACES = {"shop": {"team": "a"}, "bank": {"team": "b"}, "empty": {}}


def policy(name: str, namespace: str = "", **labels: str) -> PolicyObject:
    about: dict[str, Any] = {"name": name, "uid": name, "generation": 1, "creationTimestamp": MADE}
    spec = {"total": "100Mbit", "podSelector": {"matchLabels": labels}}
    if namespace:
        return PolicyObject.from_object(
            TRAFFIC_POLICY, {"metadata": {**about, "namespace": namespace}, "spec": spec}
        )  # fmt: skip
    spec["namespaceSelector"] = {"matchLabels": {"team": "a"}}
    return PolicyObject.from_object(CLUSTER_TRAFFIC_POLICY, {"metadata": about, "spec": spec})


def pod(uid: str, namespace: str = "shop", **more: Any) -> WatchedPod:
    return replace(WatchedPod(uid, namespace, {"app": "web"}, MADE, True), **more)


def counted(
    book: TallyBook, policies: list[PolicyObject], pods: list[WatchedPod], reports: dict[str, ReportedPod], now: datetime = NOW
) -> dict[str, PolicyTally]:  # fmt: skip
    found = book.tallies(policies, pods, SPACES, reports, now)
    assert found == tallies(ClusterPolicies(policies), pods, SPACES, reports, now)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_counting_everything_gives(seed: int) -> None:
    chance, book = random.Random(seed), TallyBook()
    pods, reports, now = {}, {}, NOW
    policies = {
        each.uid: each
        for each in (policy("c"), policy("web", "shop", app="web"), policy("any", "shop"), policy("own", "bank", app="db"), policy("alone", "empty"))
    }  # fmt: skip
    for step in range(200):
        uid = f"pod-{chance.randrange(20)}"
        match chance.randrange(5):
            case 0:
                made = MADE if chance.random() < 0.5 else now.isoformat()
                space, app = chance.choice(["shop", "bank", "unknown"]), chance.choice(["web", "db"])
                pods[uid] = pod(uid, space, labels={"app": app}, created=made, placed=chance.random() < 0.8)
            case 1:
                pods.pop(uid, None)
            case 2:
                state = chance.choice(["programmed", "failed", "waiting"])
                reports[uid] = ReportedPod(chance.choice(list(policies)), 1, state, f"reason {step % 3}", "")
            case 3:
                chosen = chance.choice(list(policies))
                policies[chosen] = replace(policies[chosen], generation=chance.randrange(3))
            case _:
                now += timedelta(seconds=chance.randrange(20))
        counted(book, list(policies.values()), list(pods.values()), reports, now)


def test_what_has_not_changed_is_not_counted_again() -> None:
    book, policies = TallyBook(), [policy("web", "shop"), policy("own", "bank")]
    pods = [pod("a"), pod("b", "bank")]
    first = counted(book, policies, pods, {})
    again = counted(book, policies, pods, {"a": ReportedPod("web", 1, "programmed", "", "")})
    assert again["own"] is first["own"]
    assert again["web"] is not first["web"]
    assert (first["web"].programmed, again["web"].programmed) == (0, 1), "the old one is as it was"


def test_what_waits_is_counted_again_by_time_alone() -> None:
    book, policies = TallyBook(), [policy("web", "shop")]
    pods = [pod("a", created=NOW.isoformat())]
    assert counted(book, policies, pods, {})["web"].waiting == 1
    assert counted(book, policies, pods, {}, NOW + timedelta(minutes=1))["web"].lacking == 1


def test_counts_of_the_clusters_policy_are_of_all_namespaces() -> None:
    book, policies = TallyBook(), [policy("c")]
    pods = [pod("a"), pod("b", "bank"), pod("c", "unknown")]
    assert counted(book, policies, pods, {})["c"].matched == 1
    assert counted(book, policies, pods, {})["c"].matched == 1, "it is not added to itself"
