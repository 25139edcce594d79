# ruff: noqa: F401, F811 - fixtures of another module are imported by their names
"""``podlane operator`` with a real API server: what is done to objects, their definitions and their namespaces meanwhile."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from policy_objects import API, lane, traffic_policy
from rest import Rest
from test_operator import Start, entry, home, kubectl, operator, report, running_pod, status, until_condition
from waiting import until

from traffic_policy.cluster.definitions import definitions, definitions_text

POLICIES = f"/apis/{API}/trafficpolicies"


@contextmanager
def rest_of(cluster: Cluster) -> Iterator[Rest]:
    made = Rest(cluster)
    try:
        yield made
    finally:
        made.close()


def versions(cluster: Cluster, since: str, kubectl: Kubectl, last: str) -> list[dict[str, Any]]:
    """Each state of the namespace's policies since then, until one is deleted whose name is ``last``."""
    found: list[dict[str, Any]] = []
    with rest_of(cluster) as rest:
        path = f"/apis/{API}/namespaces/{kubectl.namespace}/trafficpolicies"
        for kind, each in rest.history(path, since, timeoutSeconds="60"):
            if kind == "DELETED" and each["metadata"]["name"] == last:
                return found
            found.append(each)
    raise AssertionError(f"{last} was never deleted")


def version(cluster: Cluster) -> str:
    with rest_of(cluster) as rest:
        return rest.version(POLICIES)


def mark_the_end(kubectl: Kubectl) -> None:
    """A policy of which the operator has written a status after all that was to be written before, and which is gone."""
    kubectl.create(traffic_policy("end", podSelector={"matchLabels": {"app": "end"}}))
    until_condition(kubectl, "end", "Programmed", "True", "NoPods")
    kubectl("delete", "tpol", "end")


def test_a_status_edited_by_hand_is_written_once(cluster: Cluster, kubectl: Kubectl, operator: Start) -> None:
    operator()
    made = kubectl.create(traffic_policy("web"))
    uid = running_pod(kubectl, "one")
    report(kubectl, "node-hand", entry(uid, made))
    until_condition(kubectl, "web", "Programmed", "True", "Programmed")
    mark_the_end(kubectl)
    right, since = status(kubectl, "web"), version(cluster)
    edits = [
        {"pods": {"programmed": 9}},
        {"conditions": [], "classes": "x"},
        {"reasons": [{"reason": "Because.", "pods": 3}]},
        {"observedGeneration": 7},
    ]
    for edit in edits:
        kubectl("patch", "tpol", "web", "--subresource=status", "--type=merge", "-p", json.dumps({"status": edit}))
        until("the right status", lambda: stripped(status(kubectl, "web")) == stripped(right))
    mark_the_end(kubectl)
    seen = [each for each in versions(cluster, since, kubectl, "end") if each["metadata"]["name"] == "web"]
    assert len(seen) == 2 * len(edits), "each edit, and one writing after it"
    assert all(stripped(each["status"]) == stripped(right) for each in seen[1::2])
    kubectl("delete", "treport", "node-hand")


def stripped(found: dict[str, Any]) -> dict[str, Any]:
    """Without the times since when conditions are so: who removes one has it anew."""
    conditions = [{key: of for key, of in each.items() if key != "lastTransitionTime"} for each in found["conditions"]]
    return {**found, "conditions": sorted(conditions, key=lambda each: each["type"])}


def test_what_others_add_to_a_status_is_left(cluster: Cluster, kubectl: Kubectl, operator: Start) -> None:
    operator()
    kubectl.create(traffic_policy("web"))
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    mark_the_end(kubectl)
    since = version(cluster)
    conditions = [*status(kubectl, "web")["conditions"], {"type": "example.com/Audited", "status": "True"}]
    change = json.dumps({"status": {"conditions": conditions}})
    kubectl("patch", "tpol", "web", "--subresource=status", "--type=merge", "-p", change)
    mark_the_end(kubectl)
    seen = [each for each in versions(cluster, since, kubectl, "end") if each["metadata"]["name"] == "web"]
    assert [each["status"]["conditions"][-1]["type"] for each in seen] == ["example.com/Audited"]


def test_the_status_is_right_again_after_the_api_server_was_away(
    cluster: Cluster, kubectl: Kubectl, operator: Start
) -> None:  # fmt: skip
    running = operator()
    made = kubectl.create(traffic_policy("web"))
    uid = running_pod(kubectl, "one")
    report(kubectl, "node-away", entry(uid, made))
    until_condition(kubectl, "web", "Programmed", "True", "Programmed")
    cluster.stop_apiserver()
    cluster.restart_apiserver()
    report(kubectl, "node-away", entry(uid, made, "failed", reason="It has no interface."))
    change = {"status": {"pods": {"matched": 9}}}
    kubectl("patch", "tpol", "web", "--subresource=status", "--type=merge", "-p", json.dumps(change))

    def right() -> bool:
        found = status(kubectl, "web")
        return bool(found["pods"] == {"matched": 1, "programmed": 0, "failed": 1, "overruled": 0})

    until("the status", right, patience=90)
    assert running.running()
    kubectl("delete", "treport", "node-away")


def test_nothing_keeps_a_namespace_with_policies(cluster: Cluster, kubectl: Kubectl, operator: Start) -> None:
    running = operator()
    doomed = cluster.namespace()
    entries = []
    for i in range(10):
        made = doomed.create(traffic_policy(f"p{i}", podSelector={"matchLabels": {"app": f"a{i}"}}))
        assert not made["metadata"].get("finalizers")
        entries.append(entry(running_pod(doomed, f"pod{i}", app=f"a{i}"), made))
    report(kubectl, "node-doomed", *entries)
    until_condition(doomed, "p9", "Programmed", "True", "Programmed")
    cluster.kubectl("delete", "namespace", doomed.namespace, "--wait=true", "--timeout=60s", timeout=90)
    with pytest.raises(RefusedError, match="not found"):
        cluster.kubectl("get", "namespace", doomed.namespace)
    assert not [each for each in cluster.kubectl.list("tpol") if each["metadata"]["namespace"] == doomed.namespace]
    kubectl.create(traffic_policy("after"))
    until_condition(kubectl, "after", "Programmed", "True", "NoPods")
    assert running.running()
    assert "cannot be written" not in running.output
    kubectl("delete", "treport", "node-doomed")


def older() -> str:
    """The definitions as an earlier version might have had them: without a field, a column and a rule."""
    documents = copy.deepcopy(definitions())
    for each in documents[:2]:
        (only,) = each["spec"]["versions"]
        schema = only["schema"]["openAPIV3Schema"]["properties"]
        del schema["spec"]["properties"]["classes"]["items"]["properties"]["ingress"]
        validations = schema["spec"]["x-kubernetes-validations"]
        validations[:] = [rule for rule in validations if "ingress" not in rule["rule"]]
        only["additionalPrinterColumns"] = [each for each in only["additionalPrinterColumns"] if each["name"] != "Pods"]
    return yaml.safe_dump_all(documents)


def test_objects_and_their_status_outlast_a_new_definition(
    cluster: Cluster, kubectl: Kubectl, operator: Start
) -> None:  # fmt: skip
    operator()
    # As Helm has installed them.
    cluster.kubectl("replace", "--field-manager=helm", "-f", "-", stdin=older())
    try:
        until("the older definition", lambda: "PODS" not in kubectl("get", "tpol", "--ignore-not-found") or None)
        made = kubectl.create(traffic_policy("web", classes=[lane("a")]))
        report(kubectl, "node-crd", entry(running_pod(kubectl, "one"), made))
        until_condition(kubectl, "web", "Programmed", "True", "Programmed")
        newer = traffic_policy("newer", ingress={"total": "9Mbit"}, classes=[lane("a", ingress={"rate": "1Mbit"})])
        with pytest.raises(RefusedError, match="unknown field"):
            kubectl.create(newer)
        before = kubectl.get("tpol", "web")
        printed = subprocess.run(
            [sys.executable, "-m", "podlane", "crds"], check=True, capture_output=True, text=True
        ).stdout  # fmt: skip
        with pytest.raises(RefusedError, match='conflict with "helm"'):
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=printed)
        # As the how-to says.
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=printed)
    finally:
        cluster.kubectl.apply(definitions_text(), "--force-conflicts")
    until("the new definition", lambda: "PODS" in kubectl("get", "tpol"))

    def taken() -> bool:
        try:
            return bool(kubectl.create(newer))
        except RefusedError:
            return False

    until("what only the new definition knows", taken)
    until_condition(kubectl, "newer", "Accepted", "True", "Accepted")
    after = kubectl.get("tpol", "web")
    for key in ("uid", "generation", "creationTimestamp", "resourceVersion"):
        assert after["metadata"][key] == before["metadata"][key]
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    kubectl("delete", "treport", "node-crd")
