"""Fixtures of the tests in a kind cluster: the cluster that `make kind-up` made, the chart in it, and all that may explain a failure.

A test whose time is over is ended by a signal: it alone fails, with its report. A thread would end the whole run, without any.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kube"))  # kubectl.py

from kind_agents import AGENTS
from kind_cluster import ANNOTATIONS, LANES_NAMESPACE, OPEN, SHOP, SYSTEM, Client, KindCluster, Server, rolled_out
from kubectl import Kubectl
from manifests import INJECTED
from node_report import report_on
from waiting import until

_CLUSTER = pytest.StashKey[KindCluster]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the cluster knows: Pods, events, logs, rules and classes."""
    report = yield
    if report.failed and (cluster := item.config.stash.get(_CLUSTER, None)) is not None:
        report.sections.extend(report_on(cluster))
    return report


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> KindCluster:
    """The cluster that exists, free of what an earlier run may have left in it."""
    found = KindCluster.find()
    pytestconfig.stash[_CLUSTER] = found
    found.clear()
    return found


@pytest.fixture(scope="session")
def refused_for(cluster: KindCluster) -> float:
    """Seconds from when `helm install --wait` has returned until a Pod that is created gets a sidecar."""
    cluster.install()
    began = time.monotonic()
    until("the API server to reach the injectors", cluster.injects, patience=60)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def installed(cluster: KindCluster, refused_for: float) -> Iterator[KindCluster]:  # noqa: ARG001  # it installs
    """The chart, installed as docs/how-to/install.md says, with both its injectors ready."""
    yield cluster
    cluster.clear(wait=False)


@pytest.fixture(scope="session")
def elsewhere(cluster: KindCluster) -> Kubectl:
    """kubectl in a namespace that has not opted in."""
    cluster.make_namespace(OPEN)
    return cluster.kubectl.within(OPEN)


@pytest.fixture(scope="session")
def server(elsewhere: Kubectl) -> Server:
    """nginx in a Pod that has no limits."""
    return Server.start(elsewhere)


@pytest.fixture(scope="session")
def shop(installed: KindCluster) -> Kubectl:
    """kubectl in a namespace that opted in."""
    installed.make_namespace(SHOP, INJECTED)
    return installed.kubectl.within(SHOP)


@pytest.fixture(scope="module")
def agents(installed: KindCluster) -> Iterator[KindCluster]:
    """The chart with agents; what they have left is removed in the end by the chart's value for it."""
    installed.allow_agents()
    installed.upgrade("agent.enabled=true")
    rolled_out(installed.kubectl.within(SYSTEM), AGENTS)
    yield installed
    installed.upgrade("agent.enabled=true", "agent.cleanup=true")
    rolled_out(installed.kubectl.within(SYSTEM), AGENTS)
    assert installed.in_node("ls", "/run/podlane/agent") == ""
    installed.upgrade()


@pytest.fixture(scope="module")
def lanes(agents: KindCluster) -> Kubectl:
    """kubectl in a namespace whose Pods are the agent's."""
    agents.need_namespace(LANES_NAMESPACE, {"podlane.io/mode": "agent"})
    return agents.kubectl.within(LANES_NAMESPACE)


@pytest.fixture(scope="session")
def client(shop: Kubectl) -> Client:
    """A Deployment of one Pod in it, with lanes by Host, SNI and port."""
    return Client.start(shop, "client")


@pytest.fixture(scope="session")
def aside(shop: Kubectl) -> Client:
    """The same with the other datapath."""
    return Client.start(shop, "aside", ANNOTATIONS | {"podlane.io/datapath": "step-aside"})
