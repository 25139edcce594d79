"""``budget`` in a policy: what it may say, where it is kept, and what is said where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datapath.explain.policy import explain_policy
from node_agent.budgets.budget_share import BudgetShare
from node_agent.budgets.families import budget_families
from node_agent.sources.file import read_workloads
from node_agent.workload import NodeWorkload, PolicyReference, lanes_of_annotations
from tc_core.compile.packet_tree import lanes_of
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.cluster.objects import PolicyObject, PolicyVerdict
from traffic_policy.describe import describe
from traffic_policy.errors import PolicyError
from traffic_policy.pod.annotations import EFFECTIVE, EGRESS, POLICY
from traffic_policy.pod.effective import AnnotationsError, effective
from traffic_policy.pod.governed import governed
from traffic_policy.policy_file import load_sidecar_policy, parse_policy
from traffic_policy.units import Rate

TEXT = "total: 100Mbit\nbudget: {node: 500Mbit}\nclasses: [{name: one, rate: 20Mbit, match: {port: 80}}]"
DOCUMENT: dict[str, Any] = parse_policy(TEXT).to_document()


def test_it_is_read_and_written_back() -> None:
    policy = parse_policy(TEXT)
    assert policy.budget is not None
    assert policy.budget.node == Rate(500_000_000)
    assert policy.to_document()["budget"] == {"node": "500Mbit"}


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("{node: 10Mbit}", "inside 10 Mbit/s. Lower the rates of the classes or raise budget.node to 20Mbit."),
        ("{node: 1kbit}", "Raise it to 8kbit or more."),
        ("{node: 500}", "has no unit"),
        ("{}", "node"),
        ("{node: 1Gbit, fleet: 2Gbit}", "fleet"),
        ("500Mbit", "budget"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_the_remedy(budget: str, told: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(TEXT.replace("{node: 500Mbit}", budget))
    assert told in str(refused.value)


def test_what_knows_one_interface_alone_refuses_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TEXT)
    with pytest.raises(PolicyError, match=r"budget: A budget is shared by Pods.*Remove budget, or have the agents"):
        load_sidecar_policy(path)
    with pytest.raises(PolicyError, match="budget: A budget is shared by Pods"):
        lanes_of(parse_policy(TEXT), "eth0", ALL_FEATURES)


def test_a_config_map_that_annotations_name_has_none() -> None:
    with pytest.raises(AnnotationsError, match=r"ConfigMap shared.*Remove budget there, or write the policy as a"):
        effective({POLICY: "shared"}, shared=TEXT)


def test_a_sidecar_does_not_keep_it_and_says_so() -> None:
    won = {"name": "TrafficPolicy web", "uid": "u", "generation": 1, "spec": DOCUMENT}
    found = governed({EFFECTIVE: json.dumps({"policy": won})})
    assert found.policy.budget is None
    [warning] = found.warnings
    assert found.unkept == (warning,), "the operator puts it into the policy's status"
    assert "The budget of TrafficPolicy web, 500Mbit for the Pods of a node, is not kept here" in warning
    assert "podlane.io/mode: agent" in warning


def test_an_agent_keeps_that_of_the_policy_that_wins_also_where_annotations_go_over_it() -> None:
    winner = PolicyObject.from_object(
        "TrafficPolicy",
        {
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 2},
            "spec": DOCUMENT,
        },
    )
    lanes = lanes_of_annotations({EGRESS: "50M"}, verdict=PolicyVerdict(winner))
    assert lanes.policy.total == Rate(50_000_000)
    assert lanes.policy.budget == parse_policy(TEXT).budget


def test_whose_budget_it_is(tmp_path: Path) -> None:
    reference = PolicyReference("TrafficPolicy", "shop", "web", "u", 3)
    newer = PolicyReference("TrafficPolicy", "shop", "web", "u", 4)
    of = [NodeWorkload("shop/a", None, None, policy=each).governed_by for each in (reference, newer)]
    assert of == ["TrafficPolicy shop/web"] * 2, "also while its Pods do not all have its newest generation"
    cluster = PolicyReference("ClusterTrafficPolicy", "", "all", "u", 3)
    assert NodeWorkload("shop/a", None, None, policy=cluster).governed_by == "ClusterTrafficPolicy all"
    assert NodeWorkload("shop/a", None, None, fleet_policy="web").governed_by == "the control plane's policy web"
    (tmp_path / "shared.yaml").write_text(TEXT)
    workloads = tmp_path / "workloads.yaml"
    entries = [{"name": name, "netns": name, "policy": "shared.yaml"} for name in ("a", "b")]
    own = {"name": "c", "netns": "c", "policy": DOCUMENT}
    workloads.write_text(json.dumps({"workloads": [*entries, own]}))
    found = read_workloads(workloads).workloads
    assert [found[name].governed_by for name in "abc"] == ["file shared.yaml", "file shared.yaml", "workload c"]


def test_it_is_put_into_words() -> None:
    sentence = "All Pods of a node that have this policy send at most 500 Mbit/s together"
    policy = parse_policy(TEXT)
    assert sentence in " ".join(describe(policy).split())
    explained = explain_policy(policy)
    assert sentence in explained.sharing
    [use] = explained.use
    assert use.startswith("Only the agents of nodes can use this policy")


def test_guarantees_beyond_the_budget_are_told() -> None:
    share = BudgetShare("TrafficPolicy shop/web", Rate(60_000_000), Rate(20_000_000), 4, Rate(80_000_000))
    assert share.warning == (
        "The rates that TrafficPolicy shop/web guarantees to 4 Pods of this node, 80 Mbit/s, are more than its budget of "
        "60 Mbit/s. When all want them, each gets the same part of its own. Raise budget.node, or lower the rates."
    )
    assert not BudgetShare("x", Rate(60), Rate(20), 4, Rate(60)).warning


def test_metrics_have_each_share_and_each_budget_once() -> None:
    share = BudgetShare("file web.yaml", Rate(60_000_000), Rate(20_000_000), 2, Rate(0))
    whole, part = budget_families([(("", "a"), share), (("", "b"), share)], ("namespace", "pod"))
    assert whole.samples == ['podlane_budget_bits_per_second{policy="file web.yaml"} 60000000.0\n']
    assert [each.split("} ")[0] for each in part.samples] == [
        f'podlane_budget_share_bits_per_second{{namespace="",pod="{pod}",policy="file web.yaml"' for pod in "ab"
    ]
