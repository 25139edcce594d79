"""``kubectl podlane`` against a real API server: what objects tell, and what is said of what may not be asked.

There are no kubelets, so no agent is reached here: what it says comes by its Events.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from kubectl import Kubectl
from manifests import AGENT, limits, pod
from node_pods import Node, nodes

pytestmark = pytest.mark.root

SHARED = "total: 90Mbit\nclasses: [{name: mail, rate: 1Mbit, match: {port: 25}}]"
IN_CLUSTER = "app.kubernetes.io/part-of", "app.kubernetes.io/component"


@dataclass(frozen=True)
class Plugin:
    """kubectl, with the plugin that is installed next to this Python."""

    program: str
    kubeconfig: Path
    namespace: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(Path(self.program).parent), str(Path(sys.executable).parent), os.environ["PATH"]))
        command = [self.program, "podlane", *words, f"--kubeconfig={self.kubeconfig}"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path}
        )

    def explained(self, name: str) -> dict[str, Any]:
        done = self.run("explain", name, f"--namespace={self.namespace}", "--json")
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told


@pytest.fixture
def kubectl(cluster: Cluster) -> Kubectl:
    return cluster.namespace({"podlane.io/mode": "agent"})


@pytest.fixture
def plugin(kubectl: Kubectl) -> Plugin:
    return Plugin(kubectl.program, kubectl.kubeconfig, kubectl.namespace)


def values(told: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["what"]: (each["value"], each["from"]) for each in told["values"]}


def create(kubectl: Kubectl, name: str, annotations: Mapping[str, str], **more: Any) -> dict[str, Any]:
    document = pod(annotations, more.pop("labels", None), **more)
    document["metadata"]["name"] = name
    return kubectl.create(document)


def agent_pod(kubectl: Kubectl, on: str) -> None:
    """As the chart's DaemonSet makes one; no kubelet starts it."""
    labels = {IN_CLUSTER[0]: "podlane", IN_CLUSTER[1]: "agent", "app.kubernetes.io/version": "7.0"}
    container = {"name": "agent", "image": "a", "env": [{"name": "PODLANE_AGENT_MODE", "value": "agent"}]}
    create(kubectl, "podlane-agent-x", {}, labels=labels, nodeName=on, containers=[container])


def test_each_value_is_told_with_where_it_comes_from(kubectl: Kubectl, plugin: Plugin) -> None:
    kubectl("annotate", "namespace", kubectl.namespace, "podlane.io/max-egress-bandwidth=40M", "podlane.io/policy=lanes",
            "podlane.io/ingress-bandwidth=70M")  # fmt: skip
    kubectl("create", "configmap", "lanes", f"--from-literal=policy.yaml={SHARED}")
    create(kubectl, "web", {"podlane.io/classes": "[{name: api, rate: 2Mbit, match: {port: 443}}]"})
    told = plugin.explained("web")
    assert (told["held_by"], told["agent"], told["in_force"]) == ("agent", None, None)
    assert told["because"] == "Its namespace has the label podlane.io/mode=agent."
    limit = "at most podlane.io/max-egress-bandwidth of the namespace (40Mbit)"
    assert values(told) == {
        "total": ("40Mbit", f"total of ConfigMap lanes, which the namespace names, {limit}"),
        "ingress total": ("70Mbit", "annotation podlane.io/ingress-bandwidth of the namespace, for Pods without it"),
        "class api": ("2Mbit to 40Mbit, priority 4", "annotation podlane.io/classes of the Pod"),
        "class mail": ("1Mbit to 40Mbit, priority 4", "classes of ConfigMap lanes, which the namespace names"),
        "class default": ("400kbit to 40Mbit, priority 7", "left by the others"),
    }
    assert told["notes"] == [f"{plugin.namespace}/web has no node yet. `kubectl describe pod` says why."]
    text = plugin.run("explain", "pod/web", "-n", plugin.namespace).stdout
    assert text.startswith(f"{plugin.namespace}/web: held by the agent of its node")
    assert "  class api      2Mbit to 40Mbit, priority 4" in text


def test_a_pod_whose_limits_are_refused_and_pods_that_nobody_holds(kubectl: Kubectl, plugin: Plugin) -> None:
    create(kubectl, "wrong", {"podlane.io/egress-bandwidth": "10Mbit"})
    create(kubectl, "none", limits("a"), labels={"podlane.io/mode": "none"})
    create(
        kubectl, "injected", limits("a"), initContainers=[{"name": "podlane", "image": "p", "restartPolicy": "Always"}]
    )
    assert "'10Mbit' is not a Kubernetes quantity." in plugin.explained("wrong")["refusal"]
    assert plugin.explained("none")["held_by"] is None
    injected = plugin.explained("injected")
    assert injected["held_by"] == "sidecar"
    assert values(injected)["class a"][1] == "annotation podlane.io/classes of the Pod"
    assert injected["notes"][0].startswith("Its sidecar cannot be asked.")
    done = plugin.run("top", "none", "-n", plugin.namespace, "--once")
    assert done.returncode == 1
    assert f"Nobody holds {plugin.namespace}/none. It has the label podlane.io/mode=none." in done.stderr
    gone = plugin.run("explain", "gone", "-n", plugin.namespace)
    assert (gone.returncode, gone.stderr.strip()) == (
        1,
        f"podlane: There is no Pod gone in the namespace {plugin.namespace}. Name another by -n NAMESPACE.",
    )


def test_without_reaching_the_agent_its_event_tells_the_state(
    node: Node, kubectl: Kubectl, plugin: Plugin, start: Any
) -> None:
    start()
    held = node.pod(kubectl, "web", limits("a"), AGENT)
    held.until_event("LanesProgrammed", "shared by a, default.")
    told = plugin.explained("web")
    assert (told["state"], told["held_by"], told["node"]) == ("programmed", "agent", node.name)
    assert told["reason"].startswith("Lanes are in force: 50Mbit shared by a, default. (its Event of 20")
    assert told["notes"][0].startswith(f"There is no agent on {node.name}, the node of {plugin.namespace}/web.")
    held.annotate(egress_bandwidth="1Mbit")
    held.until_event("LanesRefused", "'1Mbit' is not a Kubernetes quantity.")
    assert plugin.explained("web")["state"] == "refused"


@pytest.mark.usefixtures("policies")
def test_who_may_not_ask_is_told_the_missing_right_and_shown_the_rest(
    cluster: Cluster, kubectl: Kubectl, plugin: Plugin
) -> None:
    kubectl("create", "serviceaccount", "developer")
    kubectl("create", "role", "developer", "--verb=get,list", "--resource=pods,configmaps,events")
    kubectl("create", "rolebinding", "developer", "--role=developer", f"--serviceaccount={kubectl.namespace}:developer")
    create(kubectl, "web", limits("a"), labels=AGENT, nodeName="worker-1")
    theirs = Plugin(
        plugin.program, cluster.service_account_kubeconfig(kubectl.namespace, "developer"), plugin.namespace
    )
    told = theirs.explained("web")
    assert values(told)["class a"][0] == "1Mbit to 50Mbit, priority 4"
    notes = [note.partition(" Have your")[0] for note in told["notes"]]
    here = f"in the namespace {plugin.namespace}"
    about_policies = [
        f"Which TrafficPolicy objects there are is not known. You may not list trafficpolicies {here}.",
        "Which ClusterTrafficPolicy objects there are is not known. You may not list clustertrafficpolicies.",
    ]
    assert [note for note in notes if note in about_policies] == about_policies
    others = [note for note in notes if note not in about_policies]
    assert others[:2] == [
        f"What its namespace says is not known. You may not get namespaces {here}.",
        "Which agents there are is not known. You may not list pods in all namespaces.",
    ]
    assert len(others) == 3, notes
    status = theirs.run("status")
    assert status.returncode == 1
    assert "You may not list pods in all namespaces." in status.stderr
    assert "kubectl auth can-i list pods -A" in status.stderr


def test_who_may_see_the_agent_but_not_reach_it_is_told_the_missing_right(
    cluster: Cluster, kubectl: Kubectl, plugin: Plugin
) -> None:
    name = f"viewer-{kubectl.namespace}"
    kubectl("create", "serviceaccount", "viewer")
    kubectl("create", "clusterrole", name, "--verb=get,list", "--resource=pods,namespaces,configmaps,events,nodes")
    kubectl(
        "create", "clusterrolebinding", name, f"--clusterrole={name}", f"--serviceaccount={kubectl.namespace}:viewer"
    )
    agent_pod(kubectl, "seen-1")
    running = '{"status": {"phase": "Running"}}'
    kubectl("patch", "pod", "podlane-agent-x", "--subresource=status", "--type=merge", f"--patch={running}")
    create(kubectl, "web", limits("a"), nodeName="seen-1")
    theirs = Plugin(plugin.program, cluster.service_account_kubeconfig(kubectl.namespace, "viewer"), plugin.namespace)
    missing = f"You may not create pods/portforward in the namespace {kubectl.namespace}."
    assert missing in theirs.explained("web")["notes"][-1]
    assert missing in theirs.run("top", "web", "-n", plugin.namespace, "--once").stderr
    [seen] = [each for each in json.loads(theirs.run("status", "--json").stdout)["nodes"] if each["node"] == "seen-1"]
    assert missing in seen["trouble"]


def test_the_nodes_of_a_cluster_and_agents_that_cannot_be_reached(kubectl: Kubectl, plugin: Plugin) -> None:
    agent_pod(kubectl, "lanes-1")
    with nodes(kubectl, {"lanes-1": "v1.37.2", "lanes-2": "v1.37.2"}):
        done = plugin.run("status", "--json")
    assert done.returncode == 0, done.stderr
    found = {each["node"]: each for each in json.loads(done.stdout)["nodes"]}
    assert (found["lanes-2"]["agent"], found["lanes-2"]["trouble"]) == (None, "no agent")
    first = found["lanes-1"]
    assert (first["agent"], first["version"], first["mode"]) == (f"{plugin.namespace}/podlane-agent-x", "7.0", "agent")
    assert first["trouble"].startswith("Pending. ")
    create(kubectl, "web", limits("a"), nodeName="lanes-1")
    told = plugin.explained("web")
    assert told["agent"] == f"{plugin.namespace}/podlane-agent-x"
    assert told["notes"][-1].startswith("The agent of lanes-1 cannot be asked.")
    top = plugin.run("top", "-n", plugin.namespace, "--node", "lanes-9", "--once")
    assert (top.returncode, "There is no agent on lanes-9." in top.stderr) == (1, True)
