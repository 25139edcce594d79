"""Which of a fleet's policies a workload has, and what that means for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from fleet_api.desired import DesiredState, FleetPolicy
from node_agent.errors import WorkloadsError
from node_agent.fleet.policies import FleetPolicies, LanesOfPolicies, Placement, place
from node_agent.sources.file import read_workloads
from node_agent.sources.pods import asked
from node_agent.workload import EntryClaim, NodeWorkload, PodClaim
from traffic_policy.pod.mode import Mode
from traffic_policy.selection import labels_of_node, labels_of_pod, selected

DOCUMENT = {"total": "20Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": {"port": 443}}]}
AGENT = {"podlane.io/mode": "agent"}


def policy(name: str, document: dict[str, Any] | None = None, **selector: str) -> FleetPolicy:
    return FleetPolicy(name, 1, json.dumps(document or DOCUMENT), selector)


@pytest.mark.parametrize(
    ("selectors", "labels", "winner"),
    [
        ({}, {}, None),
        ({"a": {}}, {}, "a"),
        ({"a": {}}, {"x": "1"}, "a"),
        ({"a": {"x": "1"}}, {}, None),
        ({"a": {"x": "1"}}, {"x": "2"}, None),
        ({"a": {"x": "1"}}, {"x": "1", "y": "2"}, "a"),
        ({"a": {"x": "1", "y": "2"}}, {"x": "1"}, None),
        ({"a": {}, "b": {"x": "1"}}, {"x": "1"}, "b"),
        ({"b": {"x": "1"}, "a": {"y": "2"}}, {"x": "1", "y": "2"}, "a"),
        ({"a": {"x": "1"}, "b": {"x": "1", "y": "2"}}, {"x": "1", "y": "2"}, "b"),
        ({"b": {}, "a": {}}, {}, "a"),
        ({"a": {"x": ""}}, {}, None),
    ],
)
def test_more_labels_win_then_the_first_name(
    selectors: dict[str, dict[str, str]], labels: dict[str, str], winner: str | None
) -> None:
    for order in (1, -1):
        policies = [policy(name, **selector) for name, selector in list(selectors.items())[::order]]
        found = selected(policies, labels)
        assert (None if found is None else found.name) == winner


def test_labels_of_nodes_count_as_those_of_workloads_do() -> None:
    general, east = policy("general", x="1"), replace(policy("zeast"), nodes={"a": "1", "b": "2"})
    assert selected([general, east], {"x": "1"}) == east
    assert selected([policy("finer", x="1", y="1"), east], {"x": "1", "y": "1"}) == policy("finer", x="1", y="1")


def test_a_cluster_s_labels_count_more_than_what_an_agent_says() -> None:
    said = {"zone": "a", "arch": "arm64", "podlane.io/cluster": "west"}
    assert labels_of_node("east", {"zone": "b"}, said) == {"zone": "b", "arch": "arm64", "podlane.io/cluster": "east"}


def test_a_pod_is_selected_by_its_namespace_which_it_cannot_hide() -> None:
    assert labels_of_pod("shop", {"app": "web", "podlane.io/namespace": "other"}) == {
        "app": "web",
        "podlane.io/namespace": "shop",
    }


def pod(annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "web",
        "namespace": "shop",
        "uid": "u",
        "annotations": annotations or {},
        "labels": labels or {},
    }
    return {"metadata": metadata, "spec": {"containers": [{"name": "web"}], **spec}, "status": {"phase": "Running"}}


def claimed(
    given: dict[str, Any], above: dict[str, str] | None = None, mode: Mode = Mode.AGENT, **annotations: str
) -> NodeWorkload | None:
    """The workload of a Pod in a cluster with a control plane."""
    namespace = {"metadata": {"name": "shop", "labels": above or {}, "annotations": annotations}}
    found = asked(given, namespace, mode, fleet=True)
    without = asked(given, namespace, mode)
    if without is not None:
        assert found is not None
        assert found.workload(None).refusal == without.workload(None).refusal, "without a policy it is as it was"
    return None if found is None else found.workload(None)


def test_pods_without_limits_may_have_a_policy() -> None:
    nothing = claimed(pod(labels={"app": "web"}))
    assert nothing is not None
    assert nothing.claim == PodClaim({"app": "web", "podlane.io/namespace": "shop"})
    named = claimed(pod(labels=AGENT), mode=Mode.NONE)
    assert named is not None
    assert named.claim is not None
    assert not named.claim.optional
    assert "no limit is set" in named.refusal
    settings = claimed(pod({"podlane.io/on-failure": "closed"}))
    assert settings is not None
    assert settings.claim is not None
    made = LanesOfPolicies().of_workload(settings, policy("p"))
    assert made.lanes is not None
    assert (made.lanes.on_failure, made.fleet_policy) == ("closed", "p")


@pytest.mark.parametrize(
    ("given", "above", "mode"),
    [
        (pod(), {}, Mode.NONE),
        (pod(), {"podlane.io/mode": "none"}, Mode.AGENT),
        (pod(labels={"podlane.io/mode": "sidecar"}), {}, Mode.AGENT),
        (pod(hostNetwork=True), {}, Mode.AGENT),
        (pod(containers=[{"name": "podlane"}]), {}, Mode.AGENT),
    ],
    ids=["mode", "namespace", "sidecar", "host", "has one"],
)
def test_others_are_still_not_the_agents(given: dict[str, Any], above: dict[str, str], mode: Mode) -> None:
    assert claimed(given, above, mode) is None


@pytest.mark.parametrize(
    "annotations",
    [
        {"podlane.io/egress-bandwidth": "10M"},
        {"kubernetes.io/ingress-bandwidth": "10M"},
        {"podlane.io/policy": "shared"},
        {"podlane.io/classes": "[]"},
    ],
)
def test_what_a_pod_says_itself_wins(annotations: dict[str, str]) -> None:
    found = claimed(pod(annotations))
    assert found is not None
    assert found.claim is None
    if all(name.startswith("podlane.io/") for name in annotations):
        defaults = claimed(pod(), **annotations)
        assert defaults is not None
        assert defaults.claim is None, "and so do defaults of its namespace"


def test_a_namespaces_maximum_clamps_what_the_policy_gives() -> None:
    found = claimed(pod(), **{"podlane.io/max-egress-bandwidth": "5M"})
    assert found is not None
    made = LanesOfPolicies().of_workload(found, policy("p"))
    assert made.lanes is not None
    assert str(made.lanes.policy.total) == "5Mbit"
    greedy = policy("p", {**DOCUMENT, "classes": [{**DOCUMENT["classes"][0], "rate": "9Mbit"}]})  # type: ignore[index]
    refused = LanesOfPolicies().of_workload(found, greedy)
    assert refused.lanes is None
    assert refused.refusal.startswith("The control plane's policy p cannot be honoured.")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "cannot be honoured"),
        ("[]", "no mapping"),
        (json.dumps({"total": "1Mbit", "requests": "follow"}), "requests"),
        (json.dumps({"total": "1Mbit", "classes": [{"name": "a", "rate": "2Mbit", "match": {"port": 1}}]}), "total"),
    ],
)
def test_what_cannot_be_honoured_fails_there_and_others_go_on(document: str, words: str) -> None:
    bad = FleetPolicy("bad", 1, document, {"x": "1"})
    wanted = {
        name: NodeWorkload(name, None, None, claim=claim)
        for name, claim in {
            "entry": EntryClaim({"x": "1"}),
            "pod": PodClaim({"x": "1"}),
            "good": PodClaim({}),
        }.items()
    }
    state = DesiredState(1, {"bad": bad, "good": policy("good")})
    found = place(wanted, state, LanesOfPolicies()).workloads
    for name in ("entry", "pod"):
        assert found[name].lanes is None
        assert words in found[name].refusal
        assert found[name].fleet_policy == "bad"
    assert found["good"].lanes is not None


def test_as_long_as_nothing_was_said_nothing_is_decided() -> None:
    own = NodeWorkload("own", None, None, "refused")
    claims = {name: NodeWorkload(name, None, None, claim=EntryClaim({}, optional=name == "a")) for name in ("a", "b")}
    unknown = place({"own": own, **claims}, None, LanesOfPolicies())
    assert unknown == Placement({"own": own}, claims)
    none = place({"own": own, **claims}, DesiredState(4), LanesOfPolicies())
    assert none == Placement({"own": own, "b": claims["b"]}, {})


@pytest.mark.trio
async def test_a_state_counts_as_known_only_once_its_workloads_were_put() -> None:
    put: list[Placement] = []

    async def take(placement: Placement) -> None:
        assert policies.state is None or policies.state.revision < 2 or len(put) > 1
        await trio.lowlevel.checkpoint()
        put.append(placement)

    policies = FleetPolicies(take, None)
    one = NodeWorkload("a", None, None, claim=EntryClaim({"x": "1"}))
    await policies.want({"a": one})
    await policies.desire(DesiredState(2, {"p": policy("p", x="1")}))
    assert [each.workloads.keys() for each in put] == [set(), {"a"}]
    assert policies.workloads["a"].fleet_policy == "p"
    placed = policies.placed(one)
    assert placed is not None
    assert placed.fleet_policy == "p"
    await policies.desire(DesiredState(2, {"p": policy("p", x="1")}))
    assert len(put) == 2, "the same again changes nothing"


def test_entries_of_a_file_may_leave_their_policy_out(tmp_path: Path) -> None:
    path = tmp_path / "workloads.yaml"
    path.write_text("workloads: [{name: a, interface: eth1, labels: {tier: front}}]")
    with pytest.raises(WorkloadsError, match="give the agent a --control-plane"):
        read_workloads(path)
    found = read_workloads(path, fleet=True).workloads["a"]
    assert found.claim == EntryClaim({"tier": "front"}, "eth1")
    made = LanesOfPolicies().of_workload(found, policy("p"))
    assert made.lanes is not None
    assert made.lanes.interface == "eth1"
    path.write_text("workloads: [{name: a, labels: {tier: 3}}]")
    with pytest.raises(WorkloadsError, match=r"labels: .* is not a mapping of texts"):
        read_workloads(path, fleet=True)
