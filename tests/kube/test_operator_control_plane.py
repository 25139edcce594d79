# ruff: noqa: F401, F811 - fixtures of another module are imported by their names
"""Policies of a real API server that become revisions of a real control plane."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "control_plane"))  # test_command.py

from kubectl import Kubectl
from policy_objects import cluster_traffic_policy, traffic_policy
from test_command import Client, control_plane
from test_operator import Start, home, kubectl, operator, status, until_condition
from waiting import until


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A control plane in which an operator that is started records the cluster `east`."""
    client, token = Client(tmp_path), tmp_path / "token"
    with control_plane(tmp_path) as running:
        client.run("login", running.url, given=running.token)
        token.write_text(client.run("tokens", "create", "--role", "operator", "--title", "cluster east").stdout)
        for key, value in (("CONTROL_PLANE", running.url), ("TOKEN_FILE", str(token)), ("CLUSTER", "east")):
            monkeypatch.setenv(f"PODLANE_OPERATOR_{key}", value)
        yield client


def records(fleet: Client, namespace: str) -> list[dict[str, Any]]:
    """Those in force of a namespace's policies."""
    found = json.loads(fleet.run("policy", "list", "-o", "json").stdout)
    in_force = [each for each in found if each["in_force"]]
    return [each for each in in_force if each["in_force"]["selector"].get("podlane.io/namespace") == namespace]


def test_an_object_becomes_a_revision_and_goes_with_it(fleet: Client, kubectl: Kubectl, operator: Start) -> None:
    running = operator()
    kubectl.create(traffic_policy("web", podSelector={"matchLabels": {"app": "web"}}))
    told = until_condition(kubectl, "web", "Recorded", "True", "Recorded")
    assert told["message"].startswith("It is revision 1 of k8s-")
    until_condition(kubectl, "web", "Programmed", "True", "NoPods")
    assert status(kubectl, "web")["revision"] == 1
    kubectl("patch", "tpol", "web", "--field-manager=somebody", "--type=merge", "-p", '{"spec": {"total": "50Mbit"}}')
    until("the next revision", lambda: status(kubectl, "web").get("revision") == 2)
    assert records(fleet, kubectl.namespace)[0]["in_force"]["document"]["total"] == "50Mbit"
    log = fleet.run("audit", "export").stdout
    assert f"cluster east: TrafficPolicy {kubectl.namespace}/web, generation 2, by somebody" in log

    kubectl.create(cluster_traffic_policy("guard", "1Gbit", namespaceSelector={"matchLabels": {"team": "a"}}))
    told = until_condition(kubectl, "guard", "Recorded", "False", "NotExpressible", of="ctpol")
    assert "kubernetes.io/metadata.name" in told["message"]
    until_condition(kubectl, "guard", "Accepted", "True", "Accepted", of="ctpol")

    kubectl("delete", "tpol", "web", "--wait=true", "--timeout=10s")
    until("the end of its record", lambda: not records(fleet, kubectl.namespace), patience=60)
    assert running.running()


def test_an_operator_without_a_control_plane_says_nothing_of_one(
    fleet: Client, kubectl: Kubectl, operator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = operator()
    kubectl.create(traffic_policy("web"))
    until_condition(kubectl, "web", "Recorded", "True", "Recorded")
    assert first.end() == 0
    for key in ("CONTROL_PLANE", "TOKEN_FILE", "CLUSTER"):
        monkeypatch.delenv(f"PODLANE_OPERATOR_{key}")
    operator()

    def silent() -> bool:
        found = status(kubectl, "web")
        return "revision" not in found and all(each["type"] != "Recorded" for each in found["conditions"])

    until("a status without it", silent)
    assert len(records(fleet, kubectl.namespace)) == 1, "what is recorded stays"
