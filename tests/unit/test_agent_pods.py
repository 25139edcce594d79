"""Which Pods are the agent's, and what they are to have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from fleet_api.desired import DesiredState, FleetPolicy
from node_agent.fleet.outcome import concerned
from node_agent.fleet.policies import LanesOfPolicies, place
from node_agent.happenings import happening
from node_agent.lanes import State
from node_agent.sources.pods import AskedPod, asked, needed
from traffic_policy.pod.mode import Mode
from traffic_policy.settings import Mesh

UID = "9f8e7d6c-0000-4000-8000-000000000001"
LIMITS = {"podlane.io/egress-bandwidth": "10M"}
AGENT = {"podlane.io/mode": "agent"}


def pod(
    annotations: Mapping[str, str] = LIMITS, labels: Mapping[str, str] = AGENT, phase: str = "Running", **spec: Any
) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": UID, "annotations": annotations, "labels": labels}
    return {
        "metadata": {key: value for key, value in metadata.items() if value},
        "spec": {"containers": [{"name": "web"}], **spec},
        "status": {"phase": phase},
    }


def shop(labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": "shop", "labels": labels or {}, "annotations": annotations or {}}}


def wanted(given: dict[str, Any], namespace: dict[str, Any] | None = None, default: Mode = Mode.NONE) -> AskedPod:
    found = asked(given, namespace or shop(), default)
    assert found is not None
    assert asked(needed(given), namespace or shop(), default) == found, "what is kept of a Pod is enough"
    return found


def test_a_pod_that_asks_has_its_lanes() -> None:
    found = wanted(pod({**LIMITS, "podlane.io/status": "{}", "team": "a"}))
    assert (found.annotations, found.kubelet_uid, found.shared_policy) == (LIMITS, UID, None)
    workload = found.workload(None)
    assert workload.lanes is not None
    assert str(workload.lanes.policy.total) == "10Mbit"
    assert (workload.name, workload.uid) == ("shop/web", UID)
    assert workload.labels == {"namespace": "shop", "pod": "web"}


@pytest.mark.parametrize(
    ("given", "namespace", "default"),
    [
        (pod(labels={}), shop(), Mode.NONE),
        (pod(labels={"podlane.io/mode": "none"}), shop(AGENT), Mode.AGENT),
        (pod(labels={"podlane.io/mode": "sidecar"}), shop(AGENT), Mode.AGENT),
        (pod(labels={}), shop({"podlane.io/mode": "none"}), Mode.AGENT),
        (pod({}, {}), shop(AGENT), Mode.AGENT),
        (pod(phase="Succeeded"), shop(), Mode.AGENT),
        (pod(phase="Failed"), shop(), Mode.AGENT),
        (pod(initContainers=[{"name": "podlane"}]), shop(), Mode.AGENT),
        (pod(containers=[{"name": "web"}, {"name": "podlane"}]), shop(), Mode.AGENT),
        ({}, {}, Mode.AGENT),
    ],
    ids=[
        "default",
        "none",
        "sidecar",
        "namespace",
        "no limits",
        "succeeded",
        "failed",
        "sidecar in it",
        "old",
        "empty",
    ],
)
def test_others_are_not_the_agents(given: dict[str, Any], namespace: dict[str, Any], default: Mode) -> None:
    assert asked(given, namespace, default) is None
    assert asked(needed(given), namespace, default) is None


@pytest.mark.parametrize(
    ("given", "namespace", "default"),
    [
        (pod(labels={}), shop(), Mode.AGENT),
        (pod(labels={}), shop(AGENT), Mode.NONE),
        (pod(), shop({"podlane.io/mode": "none"}), Mode.NONE),
        (pod(phase="Pending"), shop(), Mode.NONE),
        (pod({"podlane.io/egress-bandwidth": "10M", "podlane.io/status": "{}"}), shop(), Mode.NONE),
        (pod(labels={"podlane.io/mode": "none"}), shop({**AGENT, "podlane.io/enforce": "true"}), Mode.NONE),
        ({**pod(), "metadata": {**pod()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, shop(), Mode.NONE),
    ],
    ids=["default", "namespace", "its own", "pending", "a copied status", "enforced", "being deleted"],
)
def test_these_are(given: dict[str, Any], namespace: dict[str, Any], default: Mode) -> None:
    assert wanted(given, namespace, default).workload(None).lanes is not None


def test_a_namespace_has_defaults_and_maxima() -> None:
    defaults = {"podlane.io/egress-bandwidth": "20M", "podlane.io/max-egress-bandwidth": "1G"}
    lanes = wanted(pod({}, {}), shop(AGENT, defaults)).workload(None).lanes
    assert lanes is not None
    assert str(lanes.policy.total) == "20Mbit"
    beyond = wanted(pod({"podlane.io/egress-bandwidth": "2G"}), shop(annotations=defaults)).workload(None)
    assert beyond.lanes is None
    assert "2G is more than the namespace allows" in beyond.refusal
    shared = wanted(pod({"podlane.io/policy": "lanes"}), shop(annotations={"podlane.io/max-egress-bandwidth": "1G"}))
    lanes = shared.workload("total: 5Gbit").lanes
    assert lanes is not None
    assert str(lanes.policy.total) == "1Gbit", "a maximum holds whatever the shared policy says"


@pytest.mark.parametrize(
    ("given", "namespace", "words"),
    [
        (pod({"podlane.io/clases": "[]", **LIMITS}), shop(), "Did you mean podlane.io/classes?"),
        (pod({}), shop(), "no limit is set"),
        (pod(hostNetwork=True), shop(), "hostNetwork: true"),
        (pod(labels={"podlane.io/mode": "Agent"}), shop(), "'Agent' is not a value of this label"),
        (pod(labels={}), shop({"podlane.io/mode": "on"}), "Ask your cluster's administrator"),
        (pod(), shop(annotations={"podlane.io/max-egres": "1M"}), "podlane.io/max-egres, which there is not"),
        (pod({"podlane.io/policy": "lanes"}), shop(), "no ConfigMap lanes"),
    ],
    ids=["misspelt", "no limits", "host network", "label", "label of namespace", "namespace", "ConfigMap"],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], namespace: dict[str, Any], words: str) -> None:
    found = wanted(given, namespace)
    workload = found.workload(None)
    assert workload.lanes is None
    assert words in workload.refusal
    assert found.own_network is ("hostNetwork" not in given["spec"])


@pytest.mark.parametrize(
    ("given", "policy", "counts"),
    [
        (pod({}), "total: 5Mbit", True),
        (pod({}), "total: 5Mbit\nrequests: follow", True),
        (pod({}, hostNetwork=True), "total: 5Mbit", False),
        (pod({"podlane.io/egress-bandwidth": "fast"}), "total: 5Mbit", False),
    ],
    ids=["a Pod", "a policy that no agent can honour", "host network", "wrong limits of its own"],
)
def test_what_a_control_plane_is_told_is_about_its_own_policies(
    given: dict[str, Any], policy: str, *, counts: bool
) -> None:
    """A Pod that is refused for what it says itself does not count: no change of a policy would mend it."""
    found = asked(given, shop(), Mode.NONE, fleet=True)
    assert found is not None
    state = DesiredState(7, {"web": FleetPolicy("web", 1, json.dumps(yaml.safe_load(policy)))})
    workload = found.workload(None)
    placed = place({workload.name: workload}, state, LanesOfPolicies()).workloads
    assert placed.keys() == {"shop/web"}
    assert [each.fleet_policy for each in concerned(placed)] == (["web"] if counts else [])


def test_a_policy_that_cannot_be_read_is_no_missing_one() -> None:
    workload = wanted(pod({"podlane.io/policy": "lanes"})).workload(None, "It cannot be read.")
    assert (workload.lanes, workload.refusal) == (None, "It cannot be read.")


def test_a_static_pod_is_known_to_its_kubelet_by_another_uid() -> None:
    static = "0123456789abcdef0123456789abcdef"
    found = wanted(pod({**LIMITS, "kubernetes.io/config.mirror": static}))
    assert (found.kubelet_uid, found.uid) == (static, UID)


@pytest.mark.parametrize(
    ("labels", "owner", "controller"),
    [
        ({"pod-template-hash": "7d9f8c6b5"}, ("ReplicaSet", "web-7d9f8c6b5"), "Deployment/web"),
        ({"rollouts-pod-template-hash": "abc"}, ("ReplicaSet", "my-web-abc"), "Rollout/my-web"),
        ({"pod-template-hash": "other"}, ("ReplicaSet", "web-7d9f8c6b5"), "ReplicaSet/web-7d9f8c6b5"),
        ({}, ("StatefulSet", "db"), "StatefulSet/db"),
        ({}, None, ""),
    ],
)
def test_what_runs_a_pod_is_known(labels: dict[str, str], owner: tuple[str, str] | None, controller: str) -> None:
    given = pod(labels={**AGENT, **labels})
    others = [{"kind": "Node", "name": "n1"}]
    if owner is not None:
        others.append({"kind": owner[0], "name": owner[1], "controller": True, "uid": "x" * 36})
    given["metadata"]["ownerReferences"] = others
    assert wanted(given).workload(None).controller == controller


def test_little_is_kept_of_a_pod() -> None:
    whole = pod({**LIMITS, "kubectl.kubernetes.io/last-applied-configuration": "x" * 10000}, phase="Running")
    whole["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web-1", "controller": True}]
    whole["metadata"]["managedFields"] = [{"manager": "x" * 10000}]
    whole["spec"]["containers"][0]["env"] = [{"name": "x" * 10000}]
    assert len(str(needed(whole))) < 500
    ready = {**whole, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    assert needed(ready) == needed(whole), "a probe's result changes nothing"


def test_events_tell_what_became_of_a_pod() -> None:
    workload = wanted(pod({**LIMITS, "podlane.io/datapath": "relay"})).workload(None)
    told = happening(workload, State.PROGRAMMED, "")
    assert told is not None
    assert (told.namespace, told.owner.uid, told.reason, told.is_warning) == ("shop", UID, "LanesProgrammed", True)
    assert told.message.startswith("Lanes are in force: 10Mbit shared by default. podlane.io/datapath: relay has no")
    placed = happening(workload, State.PROGRAMMED, "", "They are at the node's end of its link, veth1.")
    assert placed is not None
    assert "shared by default. They are at the node's end of its link, veth1. podlane.io/datapath" in placed.message
    failed = happening(workload, State.FAILED, "no such device")
    assert failed is not None
    assert (failed.reason, failed.message) == ("LanesFailed", "no such device")
    refused = happening(wanted(pod({})).workload(None), State.REFUSED, "a\n" + "b" * 2000)
    assert refused is not None
    assert refused.reason == "LanesRefused"
    assert len(refused.message) <= 1000
    assert "\n" not in refused.message
    assert happening(workload, State.WAITING, "It has none yet.") is None


@pytest.mark.parametrize(
    ("given", "mesh"),
    [
        (pod(), Mesh.NONE),
        (pod(initContainers=[{"name": "istio-init"}, {"name": "istio-proxy"}]), Mesh.ISTIO),
        (pod(initContainers=[{"name": "istio-validation"}]), Mesh.ISTIO),
        (pod(containers=[{"name": "istio-proxy"}]), Mesh.NONE),
        (pod(initContainers=[{"name": "linkerd-init"}]), Mesh.LINKERD),
        (pod({**LIMITS, "ambient.istio.io/redirection": "enabled"}), Mesh.AUTO),
        (pod({**LIMITS, "podlane.io/mesh": "linkerd"}), Mesh.LINKERD),
        (pod({**LIMITS, "podlane.io/mesh": "none"}, initContainers=[{"name": "istio-init"}]), Mesh.NONE),
        (pod({**LIMITS, "podlane.io/mesh": "auto"}, initContainers=[{"name": "istio-init"}]), Mesh.ISTIO),
    ],
)
def test_a_mesh_is_known_by_who_writes_its_rules_or_by_the_annotation(given: dict[str, Any], mesh: Mesh) -> None:
    lanes = wanted(given).workload(None).lanes
    assert lanes is not None
    assert lanes.mesh is mesh
