"""Fixtures of the tests on a real Kubernetes API server: one cluster for all of them, its logs when a test fails."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernel"))  # lab.py and others: Pods that run here
sys.path.append(str(Path(__file__).parent.parent / "chart"))  # schemas.py: definitions that others publish

from agents import RunningAgent, agents_to_end, launch_agent
from cluster import Cluster, Tools, ToolsMissingError
from daemons import Daemon
from node_pods import Node, cgroup_root, node_of
from pod_world import World
from release import Injector, Release
from runtime import RuntimeMissingError
from service_address import ServiceAddress

from podlane.netns import Lab
from traffic_policy.cluster.definitions import definitions, definitions_text

_DAEMONS = pytest.StashKey[list[Daemon]]()
_SEEN = pytest.StashKey[dict[Daemon, int]]()
_WORLD = pytest.StashKey[World]()
_AGENTS_RIGHTS: Final = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["namespaces", "configmaps"], "verbs": ["get"]},
    {
        "apiGroups": ["podlane.io"],
        "resources": ["trafficpolicies", "clustertrafficpolicies"],
        "verbs": ["list", "watch"],
    },
    {"apiGroups": ["podlane.io"], "resources": ["trafficreports"], "verbs": ["get", "create", "patch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"]},
]
"""All that an agent may do."""
_TAIL = 4000
"""Characters of a server's output that go into the report of a failed test."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_SEEN] = {daemon: daemon.log.stat().st_size for daemon in item.config.stash.get(_DAEMONS, [])}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the servers wrote during the test."""
    report = yield
    if report.failed:
        for daemon in item.config.stash.get(_DAEMONS, []):
            said = daemon.output[item.stash[_SEEN].get(daemon, 0) :]
            report.sections.append((f"log of {daemon.name}", said[-_TAIL:]))
        if report.when == "call" and (world := item.stash.get(_WORLD, None)) is not None:
            report.sections.extend(world.describe())
    return report


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """etcd, kube-apiserver and kube-controller-manager; skipped with the reason where they cannot be had."""
    try:
        tools = Tools.find()
    except ToolsMissingError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="podlane-kube-") as folder:
        made = Cluster.start(Path(folder), tools)
        pytestconfig.stash[_DAEMONS] = made.daemons
        try:
            yield made
        finally:
            del pytestconfig.stash[_DAEMONS]
            made.end()


@pytest.fixture(scope="session")
def release(cluster: Cluster) -> Iterator[Release]:
    """The chart with its default values, and two injectors that serve it."""
    if os.geteuid():
        pytest.skip("run as root: the injectors' Service has a port below 1024")
    with ServiceAddress() as address:
        made = Release(cluster, "podlane-system", address, cluster.daemons)
        made.install({})
        made.serve(made.start_together(2))
        yield made
        made.remove()


@pytest.fixture(scope="session")
def policies(cluster: Cluster) -> None:
    """The definitions of TrafficPolicy and ClusterTrafficPolicy, as who upgrades the chart puts them in force."""
    cluster.kubectl.apply(definitions_text(), "--force-conflicts")
    for each in definitions():
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{each['metadata']['name']}", "--timeout=30s")


@pytest.fixture
def alone(release: Release) -> Iterator[Release]:
    """The chart without injectors, for a test that brings its own."""
    with release.alone():
        yield release


@pytest.fixture(scope="module")
def vacant(release: Release) -> Iterator[Release]:
    """The same for all tests of a module: whoever starts injectors ends them."""
    with release.alone():
        yield release


@pytest.fixture(scope="module")
def both(vacant: Release) -> Iterator[list[Injector]]:
    """Two injectors that serve for all tests of a module."""
    injectors = vacant.start_together(2)
    vacant.serve(injectors)
    yield injectors
    vacant.stop()


@pytest.fixture
def world(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    """Where Pods run; described in the report if the test fails."""
    try:
        with World.made(cluster, tmp_path) as made:
            request.node.stash[_WORLD] = made
            yield made
    except RuntimeMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    """Of a ServiceAccount with the rights of a node's agent alone."""
    kubectl = cluster.namespace()
    kubectl("create", "serviceaccount", "agent")
    meta = {"name": "podlane-agent-test"}
    api = "rbac.authorization.k8s.io"
    kubectl.create({"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": meta, "rules": _AGENTS_RIGHTS})
    kubectl.create(
        {
            "apiVersion": f"{api}/v1", "kind": "ClusterRoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": meta["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": kubectl.namespace}],
        }
    )  # fmt: skip
    return cluster.service_account_kubeconfig(kubectl.namespace, "agent")


@pytest.fixture
def node() -> Iterator[Node]:
    root = cgroup_root()
    if os.geteuid() or root is None:
        pytest.skip("run as root where cgroups can be made")
    with Lab("test") as lab, node_of(lab, root) as made:
        yield made


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[RunningAgent]]:
    with agents_to_end(tmp_path) as started:
        yield started


@pytest.fixture
def start(tmp_path: Path, kubeconfig: Path, node: Node, agents: list[RunningAgent]) -> Any:
    """Starts an agent of the node, with further options."""

    def started(*options: str) -> RunningAgent:
        agents.append(launch_agent(tmp_path, "--node", node.name, "--kubeconfig", str(kubeconfig), *options))
        return agents[-1]

    return started
