# ruff: noqa: F401, F811 - fixtures of another module are imported by their names
"""What an operator takes where there is much: memory, time from a change to the status, requests for each change."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from daemons import Daemon
from policy_objects import API, lane, traffic_policy
from rest import MERGE, Rest
from test_operator import Start, home, kubectl, operator
from waiting import until

APPLY = "application/apply-patch+yaml"
CREATORS = 4
_STATUS_WRITTEN = re.compile(
    r'^apiserver_request_total\{[^}]*resource="(?:cluster)?trafficpolicies"[^}]*subresource="status"[^}]*verb="(?:APPLY|PATCH)"[^}]*\} (\d+)',
    re.MULTILINE,
)
_EVENTS_WRITTEN = re.compile(
    r'^apiserver_request_total\{[^}]*resource="events"[^}]*verb="(?:APPLY|PATCH)"[^}]*\} (\d+)', re.MULTILINE
)


@dataclass(frozen=True)
class Size:
    """How much there is: ``pods`` of a policy, ``nodes`` that report them, and how often something changes."""

    namespaces: int
    policies: int
    pods: int
    nodes: int
    changes: int


SMALL = Size(namespaces=2, policies=5, pods=3, nodes=3, changes=3)
LARGE = Size(namespaces=10, policies=100, pods=5, nodes=50, changes=50)
"""A thousand policies, and five thousand Pods."""


@dataclass
class Crowd:
    """Namespaces with policies and Pods, of which agents report."""

    cluster: Cluster
    rest: Rest
    size: Size
    spaces: list[str] = field(default_factory=list)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By their paths."""
    pods: dict[str, list[str]] = field(default_factory=dict)
    """UIDs by the path of their policy."""

    def fill(self) -> None:
        self.spaces = [
            self.cluster.namespace({"podlane.io/mode": "agent"}).namespace for _ in range(self.size.namespaces)
        ]
        with ThreadPoolExecutor(CREATORS) as pool, ExitStack() as stack:
            # Made here: each writes the same file of a certificate.
            connections = [stack.enter_context(connection(self.cluster)) for _ in self.spaces]
            list(pool.map(self._fill_space, self.spaces, connections))

    def _fill_space(self, space: str, rest: Rest) -> None:
        for i in range(self.size.policies):
            place = f"/apis/{API}/namespaces/{space}/trafficpolicies"
            spec = {
                "podSelector": {"matchLabels": {"app": f"app-{i}"}},
                "classes": [lane("mail"), lane("web", port=80)],
            }
            made = ask(rest, "POST", place, traffic_policy(f"p{i}", **spec))
            self.policies[f"{place}/p{i}"] = made
            self.pods[f"{place}/p{i}"] = [
                ask(rest, "POST", f"/api/v1/namespaces/{space}/pods", pod(f"app-{i}", n))["metadata"]["uid"]
                for n in range(self.size.pods)
            ]

    def report(self, *changed: str) -> None:
        """As the agents do: those of which a Pod's policy is one of these; without any, all."""
        nodes: dict[int, list[dict[str, Any]]] = {n: [] for n in range(self.size.nodes)}
        concerned = set()
        for number, (path, uids) in enumerate(sorted(self.pods.items())):
            about = self.policies[path]["metadata"]
            for n, uid in enumerate(uids):
                place = (number + n) % self.size.nodes
                nodes[place].append(
                    {"uid": uid, "policy": about["uid"], "generation": about["generation"], "state": "programmed"}
                )
                if not changed or path in changed:
                    concerned.add(place)
        for place in concerned:
            document = {
                "apiVersion": API,
                "kind": "TrafficReport",
                "metadata": {"name": f"crowd-{place}"},
                "pods": nodes[place],
            }
            path = f"/apis/{API}/trafficreports/crowd-{place}?fieldManager=podlane-agent&force=true"
            ask(self.rest, "PATCH", path, document, APPLY)

    def change(self, path: str, total: str) -> None:
        self.policies[path] = ask(self.rest, "PATCH", path, {"spec": {"total": total}}, MERGE)

    def written(self) -> tuple[int, int]:
        """How many statuses of policies and how many Events were written so far, by whoever."""
        text = self.cluster.kubectl("get", "--raw", "/metrics")
        return sum(map(int, _STATUS_WRITTEN.findall(text))), sum(map(int, _EVENTS_WRITTEN.findall(text)))

    def settled(self, path: str) -> bool:
        """Whether the status says that all Pods of the policy have what it says now."""
        found = self.rest.get(path)
        status, about = found.get("status", {}), found["metadata"]
        return (
            status.get("observedGeneration") == about["generation"] and status["pods"]["programmed"] == self.size.pods
        )

    def remove(self) -> None:
        for space in self.spaces:
            self.cluster.kubectl("delete", "namespace", space, "--wait=false")
        self.cluster.kubectl("delete", "treport", "--ignore-not-found", *(f"crowd-{n}" for n in range(self.size.nodes)))


def pod(app: str, number: int) -> dict[str, Any]:
    """Of some size, as Pods are."""
    env = [{"name": f"SETTING_{i}", "value": f"value {i}"} for i in range(20)]
    container = {"name": "app", "image": "registry.example.com/app:1", "env": env, "ports": [{"containerPort": 8080}]}
    labels = {
        "app": app,
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/part-of": "shop",
        "pod-template-hash": "6f7c9bb5d4",
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{app}-{number}", "labels": labels},
        "spec": {"containers": [container, {**container, "name": "helper"}]},
    }  # fmt: skip


def ask(rest: Rest, method: str, path: str, document: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    status, found = rest.ask(method, path, json.dumps(document), kind)
    assert status in (200, 201), found
    assert isinstance(found, dict)
    return found


@contextmanager
def connection(cluster: Cluster) -> Iterator[Rest]:
    made = Rest(cluster)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def crowd_of(cluster: Cluster, size: Size) -> Iterator[Crowd]:
    with connection(cluster) as rest:
        made = Crowd(cluster, rest, size)
        try:
            made.fill()
            yield made
        finally:
            made.remove()


def mib(daemon: Daemon, key: str) -> float:
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def cpu(daemon: Daemon) -> float:
    """Seconds."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=pytest.mark.nightly)], ids=["small", "large"])
def test_what_a_crowd_costs(size: Size, cluster: Cluster, operator: Start) -> None:
    """Times are printed: they depend on who else uses the machine. Requests and memory do not."""
    with crowd_of(cluster, size) as crowd:
        statuses, events = crowd.written()
        running = operator()
        began = time.monotonic()
        crowd.report()
        paths = sorted(crowd.policies)
        for path in paths:
            until(f"the status of {path}", lambda path=path: crowd.settled(path), patience=240)
        first, cost = time.monotonic() - began, cpu(running)
        print(
            f"\n{len(paths)} policies, {len(paths) * size.pods} Pods: all have a status after {first:.1f} s, {cost:.2f} s CPU"
        )
        some = paths[:: max(1, len(paths) // size.changes)][: size.changes]
        after = crowd.written()
        assert after[0] - statuses <= 3 * len(paths), "pending, partly and wholly programmed"
        began_cpu, took = cpu(running), []
        for path in some:
            crowd.change(path, "90Mbit")
            began = time.monotonic()
            until(
                "the new generation",
                lambda path=path: (
                    crowd.rest.get(path)["status"]["observedGeneration"]
                    == crowd.policies[path]["metadata"]["generation"]
                ),
            )
            took.append(time.monotonic() - began)
            crowd.report(path)
            began = time.monotonic()
            until("the report", lambda path=path: crowd.settled(path))
            took.append(time.monotonic() - began)
        spent = (cpu(running) - began_cpu) / len(took)
        end = crowd.written()
        # Events are written ten in a second at most, so that some are still those of the beginning.
        statuses, told, events = end[0] - after[0], end[1] - after[1], end[1] - events
        print(
            f"a change: p50 {percentile(took, 0.5):.2f} s, p99 {percentile(took, 0.99):.2f} s, {1000 * spent:.0f} ms CPU; "
            f"for {len(some)} changes and reports of them {statuses} statuses and {told} Events were written\n"
            f"memory: {mib(running, 'VmRSS'):.0f} MiB, at its peak {mib(running, 'VmHWM'):.0f} MiB"
        )
        # A report comes from several nodes, one after the other: it may be seen in parts.
        assert len(some) * 2 <= statuses <= len(some) * (1 + size.pods)
        assert events <= end[0], "one for each status at most"
        assert mib(running, "VmHWM") <= 150
        assert percentile(took, 0.99) < 20, "a loose guard: the goal is 2 s on a machine that is free"
