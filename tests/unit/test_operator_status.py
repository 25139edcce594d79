"""The status of policies: counts, conditions, reasons and Events, out of policies, Pods and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster_operator.pods import ReportedPod, WatchedPod, needed_of_pod, reported_pods, watched_pod
from cluster_operator.status import differs, status_of, tallies
from cluster_operator.writer import happenings
from traffic_policy.cluster.faults import faults
from traffic_policy.cluster.kinds import CLUSTER_TRAFFIC_POLICY, TRAFFIC_POLICY
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject

MADE = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def policy(
    name: str = "web", kind: str = TRAFFIC_POLICY, generation: int = 1, created: str = MADE, **spec: Any
) -> PolicyObject:
    about = {"name": name, "uid": name, "generation": generation, "creationTimestamp": created}
    if kind == TRAFFIC_POLICY:
        about["namespace"] = "shop"
        spec = {"total": "100Mbit", **spec}
    return PolicyObject.from_object(kind, {"metadata": about, "spec": spec})


def pod(uid: str, **more: Any) -> WatchedPod:
    return replace(WatchedPod(uid, "shop", {"app": "web"}, MADE, True), **more)


def said(
    state: str = "programmed", policy: str = "web", generation: int = 1, reason: str = "", clamped: str = ""
) -> ReportedPod:
    return ReportedPod(policy, generation, state, reason, clamped)


def status(
    *pods: WatchedPod,
    reports: Mapping[str, ReportedPod] | None = None,
    others: tuple[PolicyObject, ...] = (),
    mine: PolicyObject | None = None,
    before: Mapping[str, Any] | None = None,
    now: datetime = NOW,
) -> dict[str, Any]:
    mine = mine or policy()
    counted = tallies(ClusterPolicies((mine, *others)), pods, {"shop": {}}, reports or {}, now)
    return status_of(mine, counted[mine.uid], " ".join(map(str, faults(mine))), before or {}, now)


def conditions(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in found["conditions"]}


def message(found: Mapping[str, Any], kind: str) -> str:
    return str(next(each["message"] for each in found["conditions"] if each["type"] == kind))


def test_all_pods_have_it() -> None:
    found = status(pod("a"), pod("b"), reports={"a": said(), "b": said()})
    assert found["pods"] == {"matched": 2, "programmed": 2, "failed": 0, "overruled": 0}
    assert conditions(found) == {
        "Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed"),
        "Conflicted": ("False", "NoConflict"), "Clamped": ("False", "NotCapped"), "OtherLimits": ("False", "NoneSeen"),
        "Ready": ("True", "Programmed"), "Reconciling": ("False", "Settled"), "Stalled": ("False", "NotStalled"),
    }  # fmt: skip
    assert message(found, "Programmed") == "In force in 2 of 2 Pods."
    assert (found["observedGeneration"], found["reasons"]) == (1, [])


def test_what_else_holds_pods_is_told_and_is_no_failure() -> None:
    other = replace(said(), others="A tbf of others holds what it receives.")
    found = status(pod("a"), pod("b"), pod("c"), reports={"a": other, "b": other, "c": said()})
    assert conditions(found)["OtherLimits"] == ("True", "HeldByOthers")
    assert message(found, "OtherLimits") == "In 2 Pods: A tbf of others holds what it receives."
    assert conditions(found)["Ready"] == ("True", "Programmed")
    (told,) = (each for each in happenings(policy(), status(), found) if each.reason == "OtherLimits")
    assert told.is_warning
    document = {"pods": [{"uid": "a", "policy": "web", "generation": 1, "state": "programmed", "others": other.others}]}
    assert reported_pods(document) == {"a": other}


def test_no_pod_is_no_failure() -> None:
    assert conditions(status())["Programmed"] == ("True", "NoPods")


def test_pods_fail_and_the_commonest_reasons_are_told() -> None:
    reports = {str(i): said("failed", reason=f"reason {i % 4}") for i in range(9)} | {"9": said()}
    found = status(*(pod(uid) for uid in reports), reports=reports)
    assert found["pods"] == {"matched": 10, "programmed": 1, "failed": 9, "overruled": 0}
    assert found["reasons"][0] == {"reason": "reason 0", "pods": 3}
    assert len(found["reasons"]) == 3
    assert conditions(found)["Programmed"] == ("False", "Failed")
    assert message(found, "Programmed") == "In force in 1 of 10 Pods. 3 Pods: reason 0"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pod("a"), "needs the label podlane.io/mode=agent, and its node an agent."),
        (pod("a", obstacle="The Pod has a sidecar."), "The Pod has a sidecar."),
    ],
)
def test_pods_that_nobody_holds_are_told(given: WatchedPod, words: str) -> None:
    found = status(given)
    assert conditions(found)["Programmed"] == ("False", "NotHeld")
    assert words in found["reasons"][0]["reason"]
    assert found["pods"]["failed"] == 0


def test_an_earlier_generation_does_not_count() -> None:
    found = status(pod("a"), mine=policy(generation=2), reports={"a": said(generation=1)})
    assert found["pods"]["programmed"] == 0
    assert conditions(found)["Programmed"] == ("False", "Pending")


def test_new_pods_do_not_make_it_flap() -> None:
    before = status(pod("a"), reports={"a": said()})
    young = pod("b", created=(NOW - timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    later = status(pod("a"), young, reports={"a": said()}, before=before)
    assert conditions(later)["Programmed"] == ("True", "Programmed")
    assert later["pods"]["matched"] == 2
    assert conditions(status(pod("a"), young, reports={"a": said()}))["Programmed"] == ("False", "Pending"), "at first"
    much_later = NOW + timedelta(minutes=1)
    assert conditions(status(pod("a"), young, reports={"a": said()}, before=before, now=much_later))["Programmed"] == (
        "False",
        "NotHeld",
    )


def test_times_are_those_of_the_last_change() -> None:
    first = status()
    later = NOW + timedelta(hours=1)
    second = status(pod("a"), before=first, now=later)
    times = {each["type"]: each["lastTransitionTime"] for each in second["conditions"]}
    assert times == {"Accepted": "2026-01-01T01:00:00Z", "Programmed": "2026-01-01T02:00:00Z",
                     "Conflicted": "2026-01-01T01:00:00Z", "Clamped": "2026-01-01T01:00:00Z",
                     "OtherLimits": "2026-01-01T01:00:00Z",
                     "Ready": "2026-01-01T02:00:00Z", "Reconciling": "2026-01-01T01:00:00Z",
                     "Stalled": "2026-01-01T01:00:00Z"}  # fmt: skip


def test_the_loser_says_who_won_and_why() -> None:
    found = status(
        pod("a"),
        reports={"a": said(policy="old")},
        mine=policy(created="2026-02-01T00:00:00Z"),
        others=(policy("old"),),
    )
    assert conditions(found)["Conflicted"] == ("True", "Overruled")
    assert message(found, "Conflicted") == "In 1 Pod: TrafficPolicy old is older."
    assert found["pods"] == {"matched": 1, "programmed": 0, "failed": 0, "overruled": 1}
    assert conditions(found)["Programmed"] == ("True", "Overruled")


def test_what_is_nearer_is_no_conflict() -> None:
    base = policy("base", CLUSTER_TRAFFIC_POLICY, total="1Gbit")
    found = status(
        pod("a"), pod("b", namespace="other"), mine=base, others=(policy(),), reports={"b": said(policy="base")}
    )
    assert conditions(found)["Conflicted"] == ("False", "NoConflict")
    assert found["pods"] == {"matched": 2, "programmed": 1, "failed": 0, "overruled": 1}
    assert message(found, "Programmed") == "In force in 1 of 1 Pod."


def test_a_clamp_is_told() -> None:
    found = status(pod("a"), reports={"a": said(clamped="total is 1Mbit instead of 2Mbit, by the caps of X.")})
    assert conditions(found)["Clamped"] == ("True", "Capped")
    assert message(found, "Clamped") == "In 1 Pod: total is 1Mbit instead of 2Mbit, by the caps of X."


def test_caps_alone_are_in_force_at_once() -> None:
    guard = policy("guard", CLUSTER_TRAFFIC_POLICY, caps={"total": "1Gbit"})
    found = status(pod("a"), mine=guard, others=(policy(),), reports={"a": said()})
    assert conditions(found)["Programmed"] == ("True", "Caps")
    assert found["pods"] == {"matched": 1, "programmed": 1, "failed": 0, "overruled": 0}


def test_what_no_agent_can_honour_is_not_accepted() -> None:
    two = [{"name": name, "rate": "1Mbit", "match": [{"port": [25]}]} for name in ("a", "b")]
    found = status(mine=policy(classes=two))
    assert conditions(found)["Accepted"] == ("False", "Invalid")
    assert "classes[1].match[0]: This match (port 25) can never decide" in message(found, "Accepted")
    assert found["classes"] == "a, b"
    assert conditions(status(mine=policy(requests="follow")))["Accepted"] == ("False", "Invalid")


def test_what_others_add_is_no_difference() -> None:
    found = status(pod("a"), reports={"a": said()})
    theirs = {**found, "conditions": [*found["conditions"], {"type": "Theirs", "status": "True"}], "more": 1}
    assert not differs(found, theirs)
    assert differs(found, {**theirs, "pods": {}})
    assert differs(found, {**found, "conditions": found["conditions"][1:]})
    assert differs(found, {})


def test_events_are_told_when_something_becomes_so() -> None:
    first = status(pod("a"), reports={"a": said()})
    told = happenings(policy(), {}, first)
    assert [(each.reason, each.message, each.is_warning) for each in told] == [
        ("Programmed", "In force in 1 of 1 Pod.", False)
    ]
    assert happenings(policy(), first, first) == []
    failed = status(pod("a"), reports={"a": said("failed", reason="no")}, before=first)
    assert [(each.reason, each.is_warning) for each in happenings(policy(), first, failed)] == [("NotProgrammed", True)]


def test_what_is_kept_of_a_pod() -> None:
    given: dict[str, Any] = {
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u",
            "labels": {"app": "web"},
            "creationTimestamp": MADE,
        },
        "spec": {"containers": [{"name": "web"}]},
        "status": {"phase": "Running"},
    }
    assert watched_pod(needed_of_pod(given)) == pod("u")
    sidecar = {**given, "spec": {"containers": [], "initContainers": [{"name": "podlane"}]}}
    host = {**given, "spec": {"containers": [], "hostNetwork": True}}
    for each in (sidecar, host):
        found = watched_pod(needed_of_pod(each))
        assert found is not None
        assert found.obstacle
    assert watched_pod(needed_of_pod({**given, "status": {"phase": "Failed"}})) is None


def test_reports_are_read() -> None:
    entry = {"uid": "a", "policy": "web", "generation": 1, "state": "failed", "reason": "no"}
    assert reported_pods({"pods": [entry]}) == {"a": said("failed", reason="no")}
    assert reported_pods({}) == {}
