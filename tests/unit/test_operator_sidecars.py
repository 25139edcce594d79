"""Pods with sidecars: what the operator writes on them, and what counts as programmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from test_cluster_policies import ctpol, lane, tpol

from cluster_operator.pods import ReportedPod, WatchedPod, needed_of_pod, watched_pod
from cluster_operator.sidecars import SidecarKeeper, WatchedNamespace, judged
from daemon.kubernetes.access import ApiAccess
from daemon.kubernetes.api import ApiServer
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject
from traffic_policy.pod.annotations import EFFECTIVE
from traffic_policy.pod.governed import NOTHING, Governance
from traffic_policy.units import Rate

SHOP = WatchedNamespace({"team": "a"}, {})
WEB = tpol("web", classes=[lane("mail")])
GUARD = ctpol("guard", caps={"total": "20Mbit"})
NOBODY = ApiServer(ApiAccess("127.0.0.1", 1, "", None, "", None, "shop", "a test"))
"""Nobody listens there."""


def with_sidecar(annotations: Mapping[str, str], *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    """As the API server has it."""
    about = {"name": "web-0", "namespace": "shop", "uid": "u", "labels": {"app": "web"}, "annotations": annotations}
    return {
        "metadata": {**about, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "podlane"}], **spec},
        "status": {"phase": "Running", "initContainerStatuses": [{"name": "podlane", "ready": ready}]},
    }


def watched(text: str = NOTHING, own: Mapping[str, str] | None = None, **more: Any) -> WatchedPod:
    found = watched_pod(needed_of_pod(with_sidecar({**(own or {}), EFFECTIVE: text}, **more)))
    assert found is not None
    return found


def said(
    pod: WatchedPod, *policies: PolicyObject, namespace: WatchedNamespace = SHOP
) -> tuple[ReportedPod, str | None]:
    assert pod.sidecar is not None
    found = judged(pod, pod.sidecar, ClusterPolicies(policies), namespace)
    return found.report, found.wanted


def test_it_is_written_where_it_differs_and_counts_when_it_is_there() -> None:
    report, wanted = said(watched(), WEB)
    assert (report.policy, report.generation, report.state) == ("web", 1, "waiting")
    assert wanted is not None
    assert Governance.read(wanted).base is not None
    report, nothing = said(watched(wanted), WEB)
    assert (report.state, nothing) == ("programmed", None)
    assert said(watched(wanted, ready=False), WEB)[0].state == "waiting"
    assert said(watched(wanted)) == (ReportedPod("", 0, "waiting", "", ""), NOTHING)


def test_caps_are_told_and_count_without_a_policy() -> None:
    own = {"podlane.io/egress-bandwidth": "50M"}
    report, wanted = said(watched(own=own), GUARD)
    assert report.clamped == "total is 20Mbit instead of 50Mbit, by the caps of ClusterTrafficPolicy guard."
    assert wanted == '{"caps":[{"of":"ClusterTrafficPolicy guard","total":"20Mbit"}]}'


def test_what_a_namespace_allows_is_a_cap() -> None:
    most = WatchedNamespace({}, {"podlane.io/max-egress-bandwidth": "10M"})
    _, wanted = said(watched(), WEB, namespace=most)
    assert wanted is not None
    (caps,) = Governance.read(wanted).caps
    assert caps.caps.total == Rate.parse("10Mbit")
    broken = WatchedNamespace({}, {"podlane.io/max-egress-bandwidth": "fast"})
    report, wanted = said(watched(), WEB, namespace=broken)
    assert (report.state, wanted) == ("failed", None)
    assert "The namespace's annotation podlane.io/max-egress-bandwidth cannot be read" in report.reason


@pytest.mark.parametrize(
    ("policy", "own", "reason"),
    [
        (tpol("web", classes=[lane("a"), lane("b")]), {}, "TrafficPolicy web: classes[1].match[0]"),
        (WEB, {"podlane.io/egress-bandwidth": "5M"}, "Cannot guarantee 10 Mbit/s inside 5 Mbit/s"),
        (WEB, {"podlane.io/typo": "5M"}, "There is no such annotation."),
    ],
)
def test_what_the_sidecar_would_refuse_has_failed_and_is_written_all_the_same(
    policy: PolicyObject, own: Mapping[str, str], reason: str
) -> None:
    """Else a Pod's owner could keep what was forged while no injector was there, by annotations that contradict."""
    report, wanted = said(watched('{"policy": "forged"}', own=own), policy)
    assert report.state == "failed"
    assert wanted is not None
    assert Governance.read(wanted).uid == "web"
    assert reason in report.reason
    assert said(watched(wanted, own=own), policy) == (report, None)


def test_a_configmap_is_not_looked_at() -> None:
    report, wanted = said(watched(own={"podlane.io/policy": "lanes"}), WEB)
    assert report.state == "waiting"
    assert wanted is not None


def test_sidecars_that_do_not_follow_policies_are_left_alone() -> None:
    old = watched_pod(needed_of_pod(with_sidecar({"podlane.io/egress-bandwidth": "1M"})))
    assert old is not None
    assert old.sidecar is None
    assert old.obstacle == "Its sidecar was injected without following policies. Create the Pod again."
    for status, follows in (('{"governed": true}', True), ('{"governed": 1}', False), ("[]", False), ("{", False)):
        found = watched_pod(needed_of_pod(with_sidecar({"podlane.io/status": status})))
        assert found is not None
        assert (found.sidecar is not None) is follows, "where no policy was for it there is no annotation yet"
    host = watched(hostNetwork=True)
    assert (host.sidecar, "node's network" in host.obstacle) == (None, True)


def test_of_a_pod_without_a_sidecar_annotations_are_not_kept() -> None:
    kept = needed_of_pod(with_sidecar({"podlane.io/classes": "x" * 1000}, initContainers=[]))
    assert "annotations" not in kept["metadata"]


def test_all_pods_are_looked_at_whenever_something_has_changed() -> None:
    keeper = SidecarKeeper(NOBODY, now=lambda: 0.0)
    text = said(watched(), WEB)[1]
    assert text is not None
    pods = [replace(watched(text), uid="a"), replace(watched(), uid="b")]

    def states(*policies: PolicyObject, namespace: WatchedNamespace = SHOP) -> dict[str, str]:
        return {uid: report.state for uid, report in keeper.look(policies, pods, {"shop": namespace}).items()}

    assert states(WEB) == states(WEB) == {"a": "programmed", "b": "waiting"}
    assert states() == {"a": "waiting", "b": "programmed"}
    assert states(replace(WEB, generation=2)) == {"a": "waiting", "b": "waiting"}
    assert states(WEB, namespace=WatchedNamespace({}, {"podlane.io/max-egress-bandwidth": "9M"}))["a"] == "waiting"
    pods[1] = replace(watched(text), uid="b")
    assert states(WEB) == {"a": "programmed", "b": "programmed"}
    pods.pop()
    assert states(WEB) == {"a": "programmed"}


@pytest.mark.trio
async def test_one_that_cannot_be_told_is_waited_for_before_it_counts_as_failed() -> None:
    clock = [0.0]
    keeper, pod = SidecarKeeper(NOBODY, now=lambda: clock[0]), watched()
    text = said(pod, WEB)[1]
    assert text is not None
    for at, state in ((0.0, "waiting"), (29.0, "waiting"), (31.0, "failed")):
        clock[0] = at
        assert keeper.look([WEB], [pod], {"shop": SHOP})["u"].state == state
        assert not await keeper._write(pod, text)
    assert (
        "Its sidecar cannot be told. The API server at 127.0.0.1:1"
        in keeper.look([WEB], [pod], {"shop": SHOP})["u"].reason
    )
    assert keeper.look([], [pod], {"shop": SHOP})["u"].state == "programmed"
