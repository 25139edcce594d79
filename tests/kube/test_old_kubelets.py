"""Kubelets that are older than the API server: the injector asks for the nodes, and warns who creates Pods."""

from __future__ import annotations

import json
from functools import partial

from cluster import Cluster
from kubectl import Kubectl
from manifests import INJECTED, LIMITED, pod
from node_pods import nodes
from release import Injector, Release
from waiting import until


def old_kubelets(injector: Injector) -> str:
    """The metric; empty before the nodes have been looked at."""
    found = (line.split() for line in injector.answer("/metrics").splitlines())
    return next((line[1] for line in found if line and line[0] == "podlane_injector_old_kubelets"), "")


def said(kubectl: Kubectl, annotations: dict[str, str]) -> str:
    return kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod(annotations))).stderr


def test_who_creates_a_pod_is_warned_of_kubelets_without_native_sidecars(cluster: Cluster, alone: Release) -> None:
    kubectl = cluster.namespace(INJECTED)
    with (
        nodes(cluster.kubectl, {"old": "v1.28.15", "older": "v1.27.3-gke.100", "new": "v1.29.0"}),
        nodes(cluster.kubectl, {"windows": "v1.28.0"}, os="windows"),
    ):
        injector = alone.start()
        alone.serve([injector])
        assert until("a look at the nodes", partial(old_kubelets, injector)) == "2.0"
        warning = "2 of 3 nodes have kubelets before 1.29, on which no Pod with a sidecar starts: old, older."
        assert warning in said(kubectl, LIMITED)
        assert warning not in said(kubectl, {}), "that Pod has no sidecar"
        kubectl.create(pod(LIMITED))
        assert "kubelets without native sidecars" in injector.daemon.output


def test_without_the_right_to_list_nodes_it_works_and_says_which_is_missing(cluster: Cluster, alone: Release) -> None:
    roles = cluster.kubectl.list("clusterroles")
    role = next(r for r in roles if r["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == alone.name)
    about = {key: role["metadata"][key] for key in ("name", "labels", "annotations")}
    rules = [rule for rule in role["rules"] if rule["resources"] != ["nodes"]]
    assert len(rules) == len(role["rules"]) - 1
    # In helm's name, which puts the rule back when the test has ended.
    cluster.kubectl.apply(json.dumps({**role, "metadata": about, "rules": rules}), "--field-manager=helm")
    injector = alone.start()
    alone.serve([injector])
    until("the reason", lambda: "podlane-injector may not list nodes" in injector.daemon.output)
    assert "Give its service account the verb 'list' on nodes." in injector.daemon.output
    assert old_kubelets(injector) == ""
    assert cluster.namespace(INJECTED).create(pod(LIMITED))["spec"]["initContainers"]
