"""``kubectl podlane``: who holds a Pod, what agents are there, and what kubectl's errors mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from podlane.kubectl.agents import agents_of, sidecar_port
from podlane.kubectl.cluster import Cluster, error_of
from podlane.kubectl.command import main
from podlane.kubectl.errors import ClusterError, ForbiddenError, NotThereError
from podlane.kubectl.holder import HeldBy, holder_of
from podlane.kubectl.status import ClusterStatus, NodeStatus, status_lines
from traffic_policy.pod.mode import Mode

LIMITS = {"podlane.io/egress-bandwidth": "50M"}
MODE = "podlane.io/mode"


def pod(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = LIMITS, **spec: Any) -> Any:
    about = {"name": "web", "namespace": "shop", "uid": "1", "labels": labels or {}, "annotations": annotations or {}}
    return {"metadata": about, "spec": spec, "status": {"phase": "Running"}}


def above(**labels: str) -> Any:
    return {"metadata": {"name": "shop", "labels": {f"podlane.io/{name}": value for name, value in labels.items()}}}


@pytest.mark.parametrize(
    ("found", "namespace", "default", "who", "because"),
    [
        (pod({MODE: "agent"}), above(), Mode.NONE, HeldBy.AGENT, "It has the label podlane.io/mode=agent."),
        (pod(), above(mode="agent"), Mode.NONE, HeldBy.AGENT, "Its namespace has the label podlane.io/mode=agent."),
        (pod(), above(), Mode.AGENT, HeldBy.AGENT, "Nothing says a mode, and agents of this node hold such Pods"),
        (pod({MODE: "none"}), above(mode="agent", enforce="true"), Mode.NONE, HeldBy.AGENT, "and podlane.io/enforce=true."),
        (pod({MODE: "none"}), above(mode="agent"), Mode.AGENT, HeldBy.NOBODY, "It has the label podlane.io/mode=none."),
        (pod(), above(), Mode.NONE, HeldBy.NOBODY, "agents of this node leave such Pods alone. Set podlane.io/mode=agent."),
        (pod({}, {}), above(mode="agent"), Mode.NONE, HeldBy.NOBODY, "But there are no limits"),
        (pod(), above(mode="sidecar"), Mode.AGENT, HeldBy.NOBODY, "It is to have a sidecar and has none"),
        (pod(), above(inject="enabled"), Mode.NONE, HeldBy.NOBODY, "It is to have a sidecar and has none"),
        (
            pod({MODE: "agent"}, initContainers=[{"name": "podlane"}]), above(), Mode.AGENT,
            HeldBy.SIDECAR, "It has a container podlane.",
        ),
        (
            pod({MODE: "agent"}) | {"status": {"phase": "Succeeded"}}, above(), Mode.AGENT,
            HeldBy.NOBODY, "Its processes have ended (phase Succeeded).",
        ),
    ],
)  # fmt: skip
def test_who_holds_a_pod(found: Any, namespace: Any, default: Mode, who: HeldBy, because: str) -> None:
    holder = holder_of(found, namespace, default)
    assert holder.who is who
    assert because in holder.reason
    assert (holder.asks is not None) == (who is HeldBy.AGENT)


def agent(name: str, ready: bool, **environment: str) -> Any:
    variables = [{"name": f"PODLANE_AGENT_{key}", "value": value} for key, value in environment.items()]
    return {
        "metadata": {"name": name, "namespace": "lanes", "labels": {"app.kubernetes.io/version": "0.9"}},
        "spec": {"nodeName": "worker", "containers": [{"name": "agent", "env": variables}]},
        "status": {"phase": "Running", "containerStatuses": [{"ready": ready}]},
    }


def test_the_agents_of_nodes() -> None:
    """During an upgrade a node has two; one that waits for a node is none."""
    waiting = agent("waiting", False)
    del waiting["spec"]["nodeName"]
    found = agents_of([agent("old", True, MODE="agent", ADMIN_PORT="1234"), agent("new", False), waiting])
    [(node, first)] = found.items()
    assert (node, first.name, first.port, first.mode, first.version, first.trouble) == (
        "worker", "old", 1234, Mode.AGENT, "0.9", "",
    )  # fmt: skip
    assert agents_of([agent("new", False)])["worker"].trouble == "not ready"
    assert agents_of([agent("new", True)])["worker"].port == 15110


def test_the_admin_port_of_a_sidecar() -> None:
    env = [{"name": "PODLANE_ADMIN_PORT", "value": "15555"}]
    assert sidecar_port(pod(initContainers=[{"name": "podlane", "env": env}])) == 15555
    assert sidecar_port(pod(initContainers=[{"name": "podlane"}])) == 15109


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            'Error from server (Forbidden): User "u" cannot list resource "pods" in API group "" at the cluster scope',
            ForbiddenError,
            "You may not list pods in all namespaces. Have your cluster's administrator allow it (RBAC); `kubectl auth",
        ),
        (
            'error: pods "a" is forbidden: cannot create resource "pods/portforward" in API group "" in the namespace "l"',
            ForbiddenError,
            "You may not create pods/portforward in the namespace l.",
        ),
        ('Error from server (NotFound): pods "a" not found\n', NotThereError, 'pods "a" not found'),
        (
            "E1128 14:00:00.1 1 memcache.go:265] couldn't get it\nThe connection to the server x was refused\n",
            ClusterError,
            "The connection to the server x was refused",
        ),
        ("", ClusterError, "kubectl failed without a word."),
    ],
)
def test_what_kubectl_says(said: str, kind: type[ClusterError], words: str) -> None:
    error = error_of(said)
    assert type(error) is kind
    assert str(error).startswith(words)


def test_without_kubectl_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 1
    assert "There is no kubectl in PATH" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["top", "web", "-A"], ["top", "-A", "-n", "x"], ["top", "--connections"], ["top", "--once", "--count", "2"]],
    ids=" ".join,
)
def test_what_does_not_go_together(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_nodes_without_an_agent_and_those_that_cannot_be_asked() -> None:
    made = agents_of([agent("podlane-agent-1", False)])["worker"]
    lines = list(
        status_lines(
            ClusterStatus((NodeStatus("other", trouble="no agent"), NodeStatus("worker", made, None, "Gone.")))
        )
    )
    assert [line.split() for line in lines[1:3]] == [
        ["other", "no", "agent", *"–––––"], ["worker", "podlane-agent-1", "0.9", "–", "none", "–", "–"],
    ]  # fmt: skip
    assert lines[-1] == "- worker: Gone."


def test_a_pod_that_goes_before_its_port_is_forwarded_is_not_what_was_asked_for(tmp_path: Path) -> None:
    """Its place may be taken by another agent, so a source that lasts must not take it for the end."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'Error from server (NotFound): pods \"old\" not found' >&2\nexit 1\n")
    kubectl.chmod(0o755)
    with (
        pytest.raises(ClusterError, match="lanes/old has just ended") as raised,
        Cluster(program=str(kubectl)).forwarded("lanes", "old", 1),
    ):
        pass
    assert not isinstance(raised.value, NotThereError)


def test_the_cluster_is_found_by_kubectls_own_flags() -> None:
    assert Cluster(("--context=c",))._command("get", "pods", namespace="n") == [
        "kubectl", "--context=c", "--namespace=n", "get", "pods",
    ]  # fmt: skip
