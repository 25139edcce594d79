"""Fixtures of the tests on a real Kubernetes API server: one cluster for all of them, its logs when a test fails."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Tools, ToolsMissingError
from daemons import Daemon
from release import Release
from service_address import ServiceAddress

_DAEMONS = pytest.StashKey[list[Daemon]]()
_SEEN = pytest.StashKey[dict[Daemon, int]]()
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
    with ServiceAddress() as address:
        made = Release(cluster, "podlane-system", address, cluster.daemons)
        made.install({})
        made.serve([made.start(), made.start()])
        yield made
        made.remove()
