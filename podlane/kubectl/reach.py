"""Documents of agents and sidecars, through forwarded ports."""

from __future__ import annotations

import http
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from daemon.documents.codec import DocumentError, from_json
from podlane.admin_client import NoAnswerError, ask
from podlane.kubectl.agents import SELECTOR, AgentPod, agents_of, sidecar_port
from podlane.kubectl.cluster import Cluster
from podlane.kubectl.errors import ClusterError, NotHeldError, NotThereError
from podlane.kubectl.holder import HeldBy, Holder, holder_of
from traffic_policy.cluster.kinds import GROUP, KINDS, plural
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject
from traffic_policy.pod.mode import Mode

_T = TypeVar("_T")
_ADMIN_S = 10.0
"""Seconds for an answer through the API server and a kubelet."""


@dataclass(frozen=True, slots=True)
class Found:
    """A Pod, and who holds it. ``agent`` is that of its node; None: there is none, or ``notes`` say why that is not
    known."""

    pod: Mapping[str, Any]
    above: Mapping[str, Any]
    holder: Holder
    agent: AgentPod | None
    notes: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.pod["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """NAMESPACE/POD."""
        return f"{self.namespace}/{self.pod['metadata']['name']}"

    @property
    def node(self) -> str:
        """Its node; empty until it has one."""
        return str(self.pod.get("spec", {}).get("nodeName", ""))


def all_agents(cluster: Cluster) -> dict[str, AgentPod]:
    """By node. Raises :class:`ClusterError`."""
    return agents_of(cluster.get("pods", "--all-namespaces", f"--selector={SELECTOR}")["items"])


def find(cluster: Cluster, name: str, namespace: str | None) -> Found:
    """Find a Pod and who holds it. What the user may not see is noted. Raises :class:`ClusterError` for the Pod."""
    try:
        pod = cluster.get("pod", name, namespace=namespace)
    except NotThereError:
        where = f"the namespace {namespace}" if namespace else "the namespace of this context"
        raise NotThereError(f"There is no Pod {name} in {where}. Name another by -n NAMESPACE.") from None
    notes = list[str]()
    above: Mapping[str, Any] = {}
    agents: dict[str, AgentPod] | None = None
    try:
        above = cluster.get("namespace", pod["metadata"]["namespace"])
    except ClusterError as error:
        notes.append(f"What its namespace says is not known. {error}")
    try:
        agents = all_agents(cluster)
    except ClusterError as error:
        notes.append(f"Which agents there are is not known. {error}")
    agent = (agents or {}).get(pod.get("spec", {}).get("nodeName", ""))
    policies = ClusterPolicies(_policies(cluster, pod["metadata"]["namespace"], notes))
    holder = holder_of(pod, above, Mode.NONE if agent is None else agent.mode, policies)
    return Found(pod, above, holder, agent, tuple(notes))


def _policies(cluster: Cluster, namespace: str, notes: list[str]) -> Iterator[PolicyObject]:
    """Those of the cluster that may be for a Pod; a cluster without their definitions has none."""
    for kind in KINDS:
        try:
            found = cluster.get(f"{plural(kind)}.{GROUP}", namespace=namespace)["items"]
        except NotThereError:
            continue
        except ClusterError as error:
            notes.append(f"Which {kind} objects there are is not known. {error}")
            continue
        yield from (PolicyObject.from_object(kind, each) for each in found)


@contextmanager
def admin_port(cluster: Cluster, found: Found) -> Iterator[int]:
    """A local port that leads to the admin server of whoever holds a Pod. Raises :class:`ClusterError`."""
    if found.holder.who is HeldBy.SIDECAR:
        place = found.namespace, str(found.pod["metadata"]["name"]), sidecar_port(found.pod)
        if not place[2]:
            raise NotHeldError(f"The sidecar of {found.name} has no admin port (PODLANE_ADMIN_PORT is 0).")
    elif found.holder.who is HeldBy.NOBODY:
        raise NotHeldError(" ".join((f"Nobody holds {found.name}. {found.holder.reason}", *found.notes)))
    elif found.agent is None:
        raise NotHeldError(no_agent(found))
    else:
        place = found.agent.namespace, found.agent.name, found.agent.port
    with cluster.forwarded(*place) as port:
        yield port


def no_agent(found: Found) -> str:
    """Why there is no agent to ask."""
    if not found.node:
        return f"{found.name} has no node yet. `kubectl describe pod` says why."
    if found.notes:
        return " ".join(found.notes)
    return (
        f"There is no agent on {found.node}, the node of {found.name}. Install one (agent.enabled of the chart), or "
        "see its DaemonSet's nodeSelector and tolerations."
    )


def document(port: int, path: str, kind: type[_T], workload: str | None = None) -> _T:
    """A document of the admin server behind a local port. Raises :class:`ClusterError`."""
    query = "" if workload is None else f"?workload={quote(workload, safe='')}"
    try:
        answer = ask("127.0.0.1", port, path + query, _ADMIN_S)
    except NoAnswerError as error:
        raise ClusterError(f"Its admin port does not answer: {error}. Does the Pod run?") from None
    if answer.status != http.HTTPStatus.OK:
        raise ClusterError(answer.begins)
    try:
        return from_json(kind, json.loads(answer.body))
    except (ValueError, DocumentError) as error:
        raise ClusterError(f"It is of another version than this command: {path} {error}.") from None
