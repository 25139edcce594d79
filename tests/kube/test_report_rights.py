"""Who may write reports and status: what the chart's roles and admission policies allow at a real API server, to tokens as
kubelets mount them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import pod
from policy_objects import API, traffic_policy
from release import Release
from service_address import ServiceAddress
from waiting import until

from daemon.kubernetes.access import find_access
from daemon.kubernetes.api import ApiServer, policy_status
from daemon.kubernetes.errors import ApiError

AGENT, OPERATOR = "podlane-rights-agent", "podlane-rights-operator"


@pytest.fixture(scope="module")
def chart(cluster: Cluster, policies: None) -> Iterator[Release]:  # noqa: ARG001
    """The chart with agents, and no injector: a Pod of an agent on each of two nodes, and one of the operator."""
    if os.geteuid():
        pytest.skip("run as root: the injectors' Service has a port below 1024")
    with ServiceAddress() as address:
        made = Release(cluster, "report-rights", address, cluster.daemons, name="podlane-rights")
        made.install({"agent": {"enabled": True}, "webhook": {"failurePolicy": "Ignore"}})
        for name, account, node in (("a", AGENT, "node-a"), ("b", AGENT, "node-b"), ("c", OPERATOR, "node-a")):
            document = pod({}, serviceAccountName=account, nodeName=node)
            document["metadata"]["name"] = name
            made.kubectl.create(document)
        # Admission policies are in force when the API server has seen them.
        until("that others may not write reports", lambda: _refuses(made.kubectl))
        yield made
        made.kubectl("delete", "pod", "a", "b", "c", "--force", "--grace-period=0")
        made.kubectl("delete", "treport", "--all")
        made.helm("uninstall", made.name, "--no-hooks")  # agents are removed by a Job, which no node is there to run


def report(node: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "TrafficReport", "metadata": {"name": node}, "pods": []}


def _refuses(kubectl: Kubectl) -> bool:
    try:
        kubectl.create(report("probe"), "--dry-run=server")
    except RefusedError as refused:
        return "ValidatingAdmissionPolicy" in str(refused)
    return False


@pytest.fixture
def of_pod(cluster: Cluster, chart: Release) -> Any:
    """kubectl with the token of a Pod; without a name: with one of no Pod."""

    def made(account: str, name: str = "") -> Kubectl:
        path = cluster.service_account_kubeconfig(chart.namespace, account, name)
        return replace(chart.kubectl, kubeconfig=path)

    return made


def test_an_agent_writes_the_report_of_its_own_node_alone(of_pod: Any) -> None:
    a, b = of_pod(AGENT, "a"), of_pod(AGENT, "b")
    a.apply(json.dumps(report("node-a")))
    a.apply(
        json.dumps({**report("node-a"), "pods": [{"uid": "1", "policy": "2", "generation": 1, "state": "waiting"}]})
    )
    words = r"The agent of the node node-b writes the report of its own node alone, not that of node-a\."
    with pytest.raises(RefusedError, match=words):
        b.apply(json.dumps(report("node-a")), "--force-conflicts")
    with pytest.raises(RefusedError, match=r"node-a writes the report of its own node alone, not that of node-c\."):
        a.apply(json.dumps(report("node-c")))
    b.apply(json.dumps(report("node-b")))


def test_a_token_of_no_pod_writes_no_report(of_pod: Any) -> None:
    with pytest.raises(RefusedError, match="This token does not say on which node its Pod is"):
        of_pod(AGENT).apply(json.dumps(report("node-a")), "--force-conflicts")


def test_nobody_else_writes_reports_but_administrators_may_delete_them(chart: Release, of_pod: Any) -> None:
    of_pod(AGENT, "a").apply(json.dumps(report("node-a")))
    with pytest.raises(RefusedError, match="Reports are written by the agents of the nodes alone"):
        chart.kubectl.apply_document(report("node-a"))
    with pytest.raises(RefusedError, match="cannot patch"):
        of_pod(OPERATOR, "c").apply(json.dumps(report("node-a")))
    chart.kubectl("delete", "treport", "node-a")


def test_the_operator_alone_writes_status(cluster: Cluster, chart: Release, of_pod: Any) -> None:  # noqa: ARG001
    kubectl = cluster.namespace()
    kubectl.create(traffic_policy("web"))
    patch = ("patch", "tpol", "web", "--subresource=status", "--type=merge", "-p", '{"status": {"classes": "none"}}')
    with pytest.raises(RefusedError, match="status of policies is written by Podlane's operator alone"):
        kubectl(*patch)
    trio.run(_write_status, of_pod(OPERATOR, "c").kubeconfig, kubectl.namespace)
    assert kubectl.get("tpol", "web")["status"]["classes"] == "some"
    with pytest.raises(ApiError, match="may not apply trafficpolicies web"):
        trio.run(_write_status, of_pod(AGENT, "a").kubeconfig, kubectl.namespace)
    kubectl("label", "tpol", "web", "team=a")
    kubectl("delete", "tpol", "web", "--timeout=20s")


async def _write_status(kubeconfig: Path, namespace: str) -> None:
    """As the operator does it."""
    access = find_access(kubeconfig, None, {})
    assert access is not None
    api = ApiServer(access, program="podlane-operator")
    document = {"apiVersion": API, "kind": "TrafficPolicy", "metadata": {"name": "web", "namespace": namespace}}
    try:
        place = policy_status("TrafficPolicy", namespace, "web")
        await api.apply(place, {**document, "status": {"classes": "some"}}, force=True)
    finally:
        await api.aclose()


def test_what_the_agent_s_daemon_writes_is_let_in(chart: Release, of_pod: Any) -> None:
    """With an owner, which goes with the Node: the API server checks such references, too."""
    chart.kubectl.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
    try:
        uid = chart.kubectl.get("node", "node-a")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": uid}
        document = report("node-a")
        document["metadata"]["ownerReferences"] = [owner]
        of_pod(AGENT, "a").apply(json.dumps(document), "--force-conflicts", "--field-manager=podlane-agent")
    finally:
        chart.kubectl("delete", "node", "node-a")
