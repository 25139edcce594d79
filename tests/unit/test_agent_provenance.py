"""What an agent tells of a workload: where each value of its policy comes from, and what does not count."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from fleet_api.desired import DesiredState, FleetPolicy
from node_agent.fleet.policies import FleetPolicies, Placement
from node_agent.sources.pods import asked
from traffic_policy.pod.mode import Mode

POLICY = {"total": "50Mbit", "classes": [{"name": "web", "rate": "10Mbit", "match": [{"port": [443]}]}]}


def pod(annotations: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    about = {"name": "web-1", "namespace": "shop", "uid": "u", "annotations": annotations, "labels": labels}
    return {"metadata": about, "spec": {}, "status": {"phase": "Running"}}


def told(
    annotations: dict[str, str],
    policies: list[FleetPolicy],
    namespace: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What is told of a Pod, by what the agent's own sources and policies make of it."""
    above = {"metadata": {"name": "shop", "annotations": namespace or {}, "labels": {"podlane.io/mode": "agent"}}}
    found = asked(pod(annotations, labels or {"app": "web"}), above, Mode.NONE, fleet=True)
    assert found is not None
    workload = found.workload(None)

    async def take(_placement: Placement) -> None:
        pass

    known = FleetPolicies(take, DesiredState(1, {each.name: each for each in policies}))

    async def run() -> None:
        await known.want({workload.name: workload})

    trio.run(run)
    assert known.provenance("shop/nobody") == {}
    said = known.provenance(workload.name)
    json.dumps(said)
    return said


def of(name: str, **labels: str) -> FleetPolicy:
    return FleetPolicy(name, 1, json.dumps(POLICY), labels)


def test_values_of_a_control_planes_policy_and_of_what_lowers_it() -> None:
    said = told(
        {}, [of("wide"), of("near", app="web"), of("other", app="web")], {"podlane.io/max-egress-bandwidth": "20M"}
    )
    values = {each["what"]: (each["value"], each["from"]) for each in said["values"]}
    assert values["class web"] == ("10Mbit to 20Mbit, priority 4", "classes of the control plane's policy")
    assert values["total"][0] == "20Mbit"
    assert "max-egress" in values["total"][1]
    assert said["overruled"] == [
        "The control plane's policy other is for it, too, but near sorts first of those with as many labels.",
        "The control plane's policy wide is for it, too, but near names more labels.",
    ]


def test_annotations_go_over_all_policies_of_a_control_plane() -> None:
    said = told(
        {"podlane.io/egress-bandwidth": "9M", "podlane.io/classes": "[{name: web, rate: 1Mbit, match: {port: 443}}]"},
        [of("wide")],
    )
    assert {each["what"]: each["from"] for each in said["values"]} == {
        "total": "annotation podlane.io/egress-bandwidth of the Pod",
        "class web": "annotation podlane.io/classes of the Pod",
        "class default": "left by the others",
    }
    assert said["overruled"] == [
        "The control plane's policy wide is for it, too, but annotations and the cluster's own policies go first."
    ]


@pytest.mark.parametrize("annotations", [{"podlane.io/egress-bandwidth": "no rate"}, {"podlane.io/datapath": "what"}])
def test_a_policy_that_is_refused_has_no_values(annotations: dict[str, str]) -> None:
    assert told(annotations, [])["values"] == []
