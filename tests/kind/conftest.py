"""Fixtures of the tests in a kind cluster: the cluster that `make kind-up` made, the chart in it, and all that may explain a failure."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kube"))  # kubectl.py

from kind_cluster import SHOP, Client, KindCluster, Server
from kubectl import Kubectl
from manifests import INJECTED
from node_report import report_on

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
def installed(cluster: KindCluster) -> Iterator[KindCluster]:
    """The chart, installed as docs/install.md says, with both its injectors ready."""
    cluster.install()
    yield cluster
    cluster.clear()


@pytest.fixture(scope="session")
def server(cluster: KindCluster) -> Server:
    """nginx in a Pod of a namespace that has not opted in."""
    return Server.start(cluster)


@pytest.fixture(scope="session")
def shop(installed: KindCluster) -> Kubectl:
    """kubectl in a namespace that opted in."""
    installed.make_namespace(SHOP, INJECTED)
    return installed.kubectl.within(SHOP)


@pytest.fixture(scope="session")
def client(shop: Kubectl) -> Client:
    """A Deployment of one Pod in it, with lanes by Host, SNI and port."""
    return Client.start(shop, "client")
