"""``kubectl podlane top``: readings through forwarded ports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from podlane.kubectl.cluster import Cluster
from podlane.kubectl.errors import NotHeldError
from podlane.kubectl.holder import HeldBy
from podlane.kubectl.lasting import AGAIN, LastingSource
from podlane.kubectl.reach import admin_port, all_agents, find
from podlane.top.admin import AdminSource
from podlane.top.readings import AwayError, ClassReading, Reading, Source, SourceError
from traffic_policy.errors import PodlaneError

_LOCAL: Final = "127.0.0.1"
_TOGETHER: Final = 8
"""Agents that are asked at once."""


@contextmanager
def source_of_pod(cluster: Cluster, name: str, namespace: str | None) -> Iterator[Source]:
    """The classes of one Pod. Raises :class:`ClusterError`."""
    with LastingSource(partial(_pod, cluster, name, namespace)) as source:
        yield source


@contextmanager
def _pod(cluster: Cluster, name: str, namespace: str | None) -> Iterator[Source]:
    found = find(cluster, name, namespace)
    by_agent = found.holder.who is HeldBy.AGENT
    with admin_port(cluster, found) as port:
        held = "agent" if by_agent else "sidecar"
        yield AdminSource(_LOCAL, port, found.name if by_agent else None, label=f"{found.name} ({held})")


@contextmanager
def source_of_agents(
    cluster: Cluster, namespace: str | None, *, everywhere: bool, node: str | None
) -> Iterator[Source]:
    """The classes of all Pods that agents hold: those of a namespace, by default that of the context, or of all.

    Raises :class:`ClusterError`.
    """
    agents = all_agents(cluster)
    chosen = None
    if not everywhere:
        pods = cluster.get("pods", namespace=namespace)["items"]
        if not pods:
            raise NotHeldError("There are no Pods in this namespace. Name another by -n NAMESPACE, or all by -A.")
        nodes = {each.get("spec", {}).get("nodeName", "") for each in pods}
        chosen = str(pods[0]["metadata"]["namespace"])
        agents = {name: each for name, each in agents.items() if name in nodes}
    if node is not None:
        agents = {name: each for name, each in agents.items() if name == node}
    if not agents:
        where = f"on {node}" if node else "in this cluster" if everywhere else f"on the nodes of {chosen}"
        raise NotHeldError(
            f"There is no agent {where}. Install agents (agent.enabled of the chart); a Pod with a sidecar is seen by "
            "its name."
        )
    with ExitStack() as stack, ThreadPoolExecutor(_TOGETHER) as pool:
        sources = [stack.enter_context(LastingSource(partial(_agent, cluster, name))) for name in agents]
        yield ClusterSource(sources, chosen, pool)


@contextmanager
def _agent(cluster: Cluster, node: str) -> Iterator[Source]:
    found = all_agents(cluster).get(node)
    if found is None:
        raise NotHeldError(f"There is no agent on {node}.")
    with cluster.forwarded(found.namespace, found.name, found.port) as port:
        yield AdminSource(_LOCAL, port, node=True, label=f"{node} ({found.name})")


@dataclass(frozen=True, slots=True)
class ClusterSource:
    """Several agents as one source; one that does not answer is a note. ``namespace`` None: Pods of all."""

    agents: Sequence[Source]
    namespace: str | None
    pool: ThreadPoolExecutor

    @property
    def name(self) -> str:
        """For a title."""
        count = len(self.agents)
        return self.agents[0].name if count == 1 else f"{count} agents"

    def read(self) -> Reading:
        """Read all. Raises :class:`SourceError` if no agent answers; :class:`AwayError` if one may answer again."""
        answers = list(self.pool.map(_read, self.agents))
        read = [each for each in answers if isinstance(each, Reading)]
        failures = [each for each in answers if not isinstance(each, Reading)]
        if not read:
            raise next((each for each in failures if isinstance(each, AwayError)), failures[0])
        notes = [str(each) for each in failures]
        classes = [self._unique(each, found) for found in read for each in found.classes if self._shows(each.workload)]
        notes += [note for found in read for note in found.notes if self._shows(note) or note.startswith(AGAIN)]
        title = "all namespaces" if self.namespace is None else self.namespace
        pods = len({each.workload for each in classes})
        details = (f"{pods} Pod{'' if pods == 1 else 's'} in lanes",)
        return Reading(time.monotonic(), title, None, tuple(classes), details, tuple(notes))

    def _shows(self, workload: str) -> bool:
        return self.namespace is None or workload.startswith(f"{self.namespace}/")

    def _unique(self, each: ClassReading, found: Reading) -> ClassReading:
        return replace(each, key=f"{found.interface} {each.key}")

    def connections(self, limit: int, order: Order) -> Connections:  # noqa: ARG002 (the protocol's)
        """Not of many Pods."""
        raise SourceError("Connections are listed for one Pod. Name it: kubectl podlane top POD --connections")


def _read(source: Source) -> Reading | PodlaneError:
    try:
        return source.read()
    except PodlaneError as error:
        return error
