"""Fixtures of all tests that use the real kernel: privileges, a lab of namespaces, and its state when a test fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from agents import PodsOnNode, RunningAgent, agents_to_end, pods_on_node
from istio_rules import istio_program
from lab import describe
from runs import RunHost
from tclab import Pair, left_as_found, veth_pair

from podlane.netns import Lab, PodNodeServer, pod_node_server
from podlane.netns.tools import find_tool

_LABS = pytest.StashKey[list[Lab]]()


@cache
def _why_not() -> str | None:
    """Why no namespaces can be made here; None when they can."""
    missing = [name for name in ("ip", "tc", "iptables-restore", "nsenter") if find_tool(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages iproute2, iptables, util-linux)"
    if os.geteuid():
        return "needs root: run the tests by `make test`, or as root"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (reason := _why_not()):
        pytest.skip(reason)
    if item.get_closest_marker("istio_programs") and istio_program() is None:
        pytest.skip("Istio's programs that write its rules are not built: make istio-iptables")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the state of the test's namespaces to the report of its failure."""
    report = yield
    if report.failed and report.when == "call":
        for lab in item.stash.get(_LABS, []):
            for host in lab.hosts:
                report.sections.append((f"state of {host.namespace.name}", describe(host)))
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab; its namespaces vanish with the test, and are described in the report if the test fails."""
    with Lab("test") as made:
        request.node.stash.setdefault(_LABS, []).append(made)
        yield made


@pytest.fixture
def topology(lab: Lab) -> PodNodeServer:
    """A Pod, its node, and a server behind the node, with Reno: the measured rates are about HTB, not about BBR."""
    return pod_node_server(lab, sysctls={"net.ipv4.tcp_congestion_control": "reno"})


@pytest.fixture
def runs(lab: Lab, tmp_path: Path) -> Iterator[RunHost]:
    """A host in the lab on which ``podlane run`` can be called; see :mod:`runs`."""
    made = RunHost.make(lab, tmp_path)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    """One for all tests of a module: making one for each would take longer than they do."""
    with veth_pair() as made:
        yield made


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    """A pair whose client has an untouched interface, before the test and after it. For tests without traffic."""
    with left_as_found(shared_pair.kernel):
        yield shared_pair


@pytest.fixture
def two(lab: Lab) -> PodsOnNode:
    """A node with two Pods."""
    return pods_on_node(lab, 2)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[RunningAgent]]:
    """Agents of a test, which ends them."""
    with agents_to_end(tmp_path) as started:
        yield started
