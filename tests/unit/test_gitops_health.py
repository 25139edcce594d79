"""How GitOps tools judge policies by their status: Argo CD by the script in examples/, run by a real Lua with the libraries
that Argo CD gives it, and Flux by the rules of kstatus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51
from test_operator_status import NOW, pod, policy, said, status

from cluster_operator.readiness import readiness
from cluster_operator.status import PolicyTally, status_of
from traffic_policy.cluster.definitions import definitions

EXAMPLES = Path(__file__).parents[2] / "examples" / "gitops"
HEALTH = (EXAMPLES / "argocd" / "health.lua").read_text()
FRESH = {"observedGeneration": -1}
"""The status of an object that nobody has looked at: what the definitions have as default."""


def kstatus(found: Mapping[str, Any]) -> str:
    """Compute() of sigs.k8s.io/cli-utils, pkg/kstatus/status (generic.go, then the condition Ready of status.go)."""
    about, told = found["metadata"], found.get("status") or {}
    if about.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in told and told["observedGeneration"] != about["generation"]:
        return "InProgress"
    conditions = told.get("conditions") or ()
    for each in conditions:
        if each["status"] == "True" and each["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if each["type"] == "Reconciling" else "Failed"
    for each in conditions:
        if each["type"] == "Ready":
            return "Current" if each["status"] == "True" else "InProgress"
    return "Current"


def argo(found: Mapping[str, Any]) -> tuple[str, str]:
    """Status and message; ``executeLua`` of github.com/argoproj/argo-cd, util/lua/lua.go, opens base and table alone."""
    lua = lua51.LuaRuntime()
    for library in ("string", "math", "io", "os", "debug", "package", "require", "python"):
        lua.globals()[library] = None
    lua.globals()["obj"] = lua.table_from(found, recursive=True)
    health = lua.execute(HEALTH)
    return health["status"], health["message"]


def judged(told: Any, generation: int = 1, **about: Any) -> tuple[str, str]:
    document = {
        "metadata": {"generation": generation, **about},
        "spec": {},
        **({} if told is None else {"status": told}),
    }
    return kstatus(document), argo(document)[0]


def test_the_default_status_is_one_that_nobody_takes_for_in_force() -> None:
    for definition in definitions()[:2]:
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        assert schema["default"] == FRESH
    assert judged(FRESH) == ("InProgress", "Progressing")
    assert judged(None)[1] == "Progressing"


def test_one_that_all_pods_have_is_healthy() -> None:
    found = status(pod("a"), reports={"a": said()})
    assert judged(found) == ("Current", "Healthy")
    assert argo({"metadata": {"generation": 1}, "status": found})[1] == "In force in 1 of 1 Pod."
    assert judged(status()) == ("Current", "Healthy"), "without Pods"


def test_a_changed_one_is_waited_for() -> None:
    assert judged(status(pod("a"), reports={"a": said()}), generation=2) == ("InProgress", "Progressing")


def test_agents_at_work_are_waited_for() -> None:
    young = pod("a", created="2026-01-01T00:59:50Z")
    assert judged(status(young)) == ("InProgress", "Progressing")


def test_what_waiting_does_not_mend_has_failed() -> None:
    failed = status(pod("a"), pod("b"), reports={"a": said("failed", reason="No."), "b": said()})
    assert judged(failed) == ("Failed", "Degraded")
    refused = policy(classes=[{"name": "a", "rate": "200Mbit", "match": [{"port": [1]}]}])
    wrong = status_of(refused, PolicyTally(), "The rates are too much.", {}, NOW)
    assert judged(wrong) == ("Failed", "Degraded")
    assert argo({"metadata": {"generation": 1}, "status": wrong})[1] == "The rates are too much."


def test_pods_that_nobody_holds_are_told_at_once_by_argo_and_waited_for_by_flux() -> None:
    """An agent may come: kstatus gives up at the time-out that was set for it."""
    assert judged(status(pod("a"))) == ("InProgress", "Degraded")


def test_one_that_is_being_deleted() -> None:
    assert judged(status(), deletionTimestamp="2026-01-01T00:00:00Z")[0] == "Terminating"


@pytest.mark.parametrize("programmed", [("False", reason, "x") for reason in ("Pending", "Failed", "NotHeld")])
@pytest.mark.parametrize("accepted", [("True", "Accepted", "y"), ("False", "Invalid", "z")])
def test_it_never_waits_and_stalls_at_once(accepted: Any, programmed: Any) -> None:
    found = readiness(accepted, programmed)
    assert found["Ready"][0] == "False"
    assert [found["Reconciling"][0], found["Stalled"][0]].count("True") <= 1
    assert all(reason and message for _, reason, message in found.values())


def test_the_config_map_for_argo_has_the_script_for_both_kinds() -> None:
    patch = yaml.safe_load((EXAMPLES / "argocd" / "argocd-cm.yaml").read_text())["data"]
    kinds = ("TrafficPolicy", "ClusterTrafficPolicy")
    assert patch == {f"resource.customizations.health.podlane.io_{kind}": HEALTH for kind in kinds}
