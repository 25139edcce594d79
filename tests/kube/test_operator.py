"""``podlane operator`` with a real API server: the status of policies, the Lease, and what survives what."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from cluster import Cluster
from daemons import Daemon, end_all, launch
from kubectl import Kubectl, RefusedError
from manifests import AGENT
from node_pods import Node
from policy_objects import API, cluster_traffic_policy, lane, traffic_policy
from waiting import until

RIGHTS: Final = [
    {"apiGroups": ["podlane.io"], "resources": ["trafficpolicies", "clustertrafficpolicies", "trafficreports"], "verbs": ["list", "watch"]},
    {"apiGroups": ["podlane.io"], "resources": ["trafficpolicies/status", "clustertrafficpolicies/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]},
    {"apiGroups": ["networking.istio.io"], "resources": ["envoyfilters"], "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
]  # fmt: skip
"""All that an operator may do; leases in one namespace."""
Start = Callable[[], Daemon]


@pytest.fixture(scope="module")
def home(cluster: Cluster, policies: None) -> Kubectl:  # noqa: ARG001
    """The operator's namespace."""
    kubectl = cluster.namespace()
    kubectl("create", "serviceaccount", "operator")
    api, name = "rbac.authorization.k8s.io", f"operator-{kubectl.namespace}"
    subjects = [{"kind": "ServiceAccount", "name": "operator", "namespace": kubectl.namespace}]
    for scope, rules in (("Cluster", RIGHTS[:-1]), ("", RIGHTS[-1:])):
        role = {"apiVersion": f"{api}/v1", "kind": f"{scope}Role", "metadata": {"name": name}, "rules": rules}
        kubectl.create(role)
        kubectl.create(
            {
                "apiVersion": role["apiVersion"], "metadata": role["metadata"], "kind": f"{scope}RoleBinding", "subjects": subjects,
                "roleRef": {"apiGroup": api, "kind": f"{scope}Role", "name": name},
            }
        )  # fmt: skip
    return kubectl


@pytest.fixture
def operator(cluster: Cluster, home: Kubectl, tmp_path: Path) -> Iterator[Start]:
    """Starts operators."""
    kubeconfig = cluster.service_account_kubeconfig(home.namespace, "operator")
    started: list[Daemon] = []

    def start() -> Daemon:
        argv = [
            sys.executable, "-m", "podlane", "operator", f"--kubeconfig={kubeconfig}",
            f"--namespace={home.namespace}", "--admin-port=0",
        ]  # fmt: skip
        started.append(launch(f"operator-{len(started)}", argv, tmp_path))
        cluster.daemons.append(started[-1])
        return started[-1]

    yield start
    end_all(started)
    for each in started:
        cluster.daemons.remove(each)


@pytest.fixture
def kubectl(cluster: Cluster, home: Kubectl) -> Iterator[Kubectl]:  # noqa: ARG001
    made = cluster.namespace(AGENT)
    yield made
    with contextlib.suppress(RefusedError):
        made("delete", "ctpol", "--all")


def running_pod(kubectl: Kubectl, name: str, **labels: str) -> str:
    """A Pod that runs, as its kubelet says; gives its UID."""
    spec = {"containers": [{"name": "app", "image": "registry.example.com/app:1"}]}
    made = kubectl.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    )
    kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Running"}}')
    return str(made["metadata"]["uid"])


def report(kubectl: Kubectl, node: str, *pods: Mapping[str, Any]) -> None:
    """What the agent of a node writes."""
    document = {"apiVersion": API, "kind": "TrafficReport", "metadata": {"name": node}, "pods": list(pods)}
    kubectl.apply(json.dumps(document), "--force-conflicts", "--field-manager=podlane-agent")


def entry(uid: str, policy: Mapping[str, Any], state: str = "programmed", **more: str) -> dict[str, Any]:
    about = policy["metadata"]
    return {"uid": uid, "policy": about["uid"], "generation": about["generation"], "state": state, **more}


def status(kubectl: Kubectl, name: str, kind: str = "tpol") -> dict[str, Any]:
    found: dict[str, Any] = kubectl.get(kind, name).get("status", {})
    return found


def until_condition(kubectl: Kubectl, name: str, kind: str, so: str, reason: str, of: str = "tpol") -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        conditions = status(kubectl, name, of).get("conditions", ())
        return next((c for c in conditions if (c["type"], c["status"], c["reason"]) == (kind, so, reason)), None)

    return until(f"{name} to be {kind}={so} ({reason})", found)


def test_a_policy_is_told_by_its_status_and_by_events(kubectl: Kubectl, operator: Start) -> None:
    operator()
    made = kubectl.create(traffic_policy("web", classes=[lane("mail"), lane("web", port=80)]))
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    one, two = running_pod(kubectl, "one"), running_pod(kubectl, "two")
    report(kubectl, "node-a", entry(one, made))
    report(kubectl, "node-b", entry(two, made, "failed", reason="It has no interface."))
    told = until_condition(kubectl, "web", "Programmed", "False", "Failed")
    assert told["message"] == "In force in 1 of 2 Pods. 1 Pod: It has no interface."
    assert status(kubectl, "web")["reasons"] == [{"reason": "It has no interface.", "pods": 1}]
    report(kubectl, "node-b", entry(two, made))
    assert until_condition(kubectl, "web", "Programmed", "True", "Programmed")["message"] == "In force in 2 of 2 Pods."
    head, line = kubectl("get", "tpol").splitlines()
    assert head.split() == ["NAME", "TOTAL", "CLASSES", "PODS", "PROGRAMMED", "AGE"]
    assert line.split()[:-1] == ["web", "100Mbit", "mail,", "web", "2", "2"]
    kubectl("wait", "--for=condition=Programmed", "tpol/web", "--timeout=10s")

    def told_by_events() -> bool:
        events = [e for e in kubectl.list("events") if e["involvedObject"].get("uid") == made["metadata"]["uid"]]
        return {e["reason"] for e in events} >= {"Programmed", "NotProgrammed"}

    until("the Events", told_by_events)
    kubectl("delete", "tpol", "web", "--wait=true", "--timeout=10s")
    kubectl("delete", "treport", "node-a", "node-b")


def test_who_loses_and_who_is_clamped(kubectl: Kubectl, operator: Start) -> None:
    operator()
    uid = running_pod(kubectl, "one")
    first = kubectl.create(traffic_policy("first", priority=1))
    kubectl.create(traffic_policy("second"))
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}}
    kubectl.create(cluster_traffic_policy("guard", caps={"total": "1Mbit"}, **here))
    report(kubectl, "node-a", entry(uid, first, clamped="total is 1Mbit instead of 100Mbit."))
    told = until_condition(kubectl, "second", "Conflicted", "True", "Overruled")
    assert told["message"] == "In 1 Pod: TrafficPolicy first has the greater priority (1 against 0)."
    assert until_condition(kubectl, "first", "Clamped", "True", "Capped")["message"].endswith("instead of 100Mbit.")
    until_condition(kubectl, "guard", "Programmed", "True", "Caps", of="ctpol")
    kubectl("delete", "treport", "node-a")


def test_what_the_api_server_cannot_see_is_not_accepted(kubectl: Kubectl, operator: Start) -> None:
    operator()
    kubectl.create(traffic_policy("web", classes=[lane("a"), lane("b")]))
    told = until_condition(kubectl, "web", "Accepted", "False", "Invalid")
    assert "classes[1].match[0]: This match (port 25) can never decide" in told["message"]


def test_a_status_edited_by_hand_is_put_right(kubectl: Kubectl, operator: Start) -> None:
    operator()
    kubectl.create(traffic_policy("web"))
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    before = status(kubectl, "web")
    change = {"status": {"pods": {"programmed": 9}, "conditions": [], "classes": "x"}}
    kubectl("patch", "tpol", "web", "--subresource=status", "--type=merge", "-p", json.dumps(change))
    until("the status", lambda: status(kubectl, "web")["pods"] == before["pods"])
    assert {each["type"] for each in status(kubectl, "web")["conditions"]} == {
        each["type"] for each in before["conditions"]
    }


def test_nothing_is_written_without_a_change(kubectl: Kubectl, operator: Start) -> None:
    operator()
    kubectl.create(traffic_policy("web"))
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    version = kubectl.get("tpol", "web")["metadata"]["resourceVersion"]
    kubectl.create(traffic_policy("other", podSelector={"matchLabels": {"app": "other"}}))
    until_condition(kubectl, "other", "Programmed", "True", "NoPods")
    kubectl("label", "tpol", "other", "touched=yes")
    running_pod(kubectl, "one", app="db")
    until("the Pod to count", lambda: status(kubectl, "web")["pods"]["matched"] == 1)
    assert kubectl.get("tpol", "web")["metadata"]["resourceVersion"] != version, "this one has changed"
    assert status(kubectl, "other")["pods"]["matched"] == 0


def holder(home: Kubectl) -> str:
    with contextlib.suppress(RefusedError):
        return str(home.get("lease", "podlane-operator")["spec"].get("holderIdentity") or "")
    return ""


def test_one_works_and_another_takes_over(kubectl: Kubectl, home: Kubectl, operator: Start) -> None:
    first = operator()
    until("a leader", lambda: "this operator leads" in first.output)
    second = operator()
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    kubectl.create(traffic_policy("web"))
    until("another leader", lambda: "this operator leads" in second.output, patience=60)
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    third = operator()
    leader = holder(home)
    assert second.end() == 0
    until("the next leader at once, since the Lease was given back", lambda: "this operator leads" in third.output)
    assert holder(home) not in ("", leader)


def test_an_api_server_that_was_away_is_asked_again(cluster: Cluster, kubectl: Kubectl, operator: Start) -> None:
    operator()
    kubectl.create(traffic_policy("web"))
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    cluster.stop_apiserver()
    cluster.restart_apiserver()
    kubectl.create(traffic_policy("later"))
    until("the status", lambda: status(kubectl, "later").get("conditions"), patience=90)


@pytest.mark.root
def test_a_newcomer_sees_programmed(node: Node, kubectl: Kubectl, operator: Start, start: Any) -> None:
    """With a real agent: ten lines, a mistake that is told, and the number of Pods."""
    operator()
    start()
    pods = [node.pod(kubectl, name, {}, {"app": "web"}) for name in ("web-0", "web-1")]
    for pod in pods:
        kubectl(
            "patch", "pod", pod.name, "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Running"}}'
        )
    page = (Path(__file__).parents[2] / "docs/how-to/traffic-policies.md").read_text()
    written = page.split("```yaml\n")[1].split("```")[0].replace("namespace: shop", f"namespace: {kubectl.namespace}")
    assert len(written.splitlines()) == 10
    with pytest.raises(RefusedError, match=r"The rates of the classes are more than total, 20Mbit, together\."):
        kubectl.apply(written)
    kubectl.apply(written.replace("20Mbit", "100Mbit"))
    kubectl("wait", "--for=jsonpath={.status.pods.programmed}=2", "tpol/web", "--timeout=30s")
    told = until_condition(kubectl, "web", "Programmed", "True", "Programmed")
    assert told["message"] == "In force in 2 of 2 Pods."
    kubectl("patch", "tpol", "web", "--type=merge", "-p", '{"spec": {"total": "50Mbit"}}')
    until("the change", lambda: status(kubectl, "web")["observedGeneration"] == 2)
    kubectl("wait", "--for=jsonpath={.status.pods.programmed}=2", "tpol/web", "--timeout=30s")
    assert pods[0].host.run(["tc", "class", "show", "dev", "eth0"]).stdout.count("50Mbit") >= 1
