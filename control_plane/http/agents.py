"""Agents as they are now, and who may join by a ServiceAccount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from control_plane.domain.access import Operation
from control_plane.domain.commands import TrustCluster
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.names import is_name
from control_plane.domain.tenant import EnrolledAgent
from control_plane.fleet.agent_status import AgentState, AgentStatus, FleetStatus, TenantAgents, WorkloadFailure
from control_plane.fleet.invitation import Invitation
from control_plane.http.clusters import member_cluster
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit
from control_plane.http.documents import Asked, Happened, Page
from control_plane.http.lists import AgentSort, Prefix, prefixed, read_page
from control_plane.http.problems import responses
from control_plane.http.tenants import CHANGES, existing
from control_plane.read_models.listing import equal, one_of
from control_plane.read_models.lists import AGENTS

_FEW: Final = 200
"""Agents that a database is asked about by their names."""

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


def _fleet(request: Request) -> FleetStatus:
    fleet: FleetStatus = request.app.state.fleet
    return fleet


TheFleet = Annotated[FleetStatus, Depends(_fleet)]


class AgentStateDocument(BaseModel):
    """An agent that has joined, as it is now. Times are Unix seconds; null: not known since we were started.

    ``revision``: what it has in force. ``programmed``, ``failed`` and ``waiting`` are numbers of workloads.
    """

    cluster: str
    node: str
    state: AgentState
    since: float | None
    revision: int
    programmed: int
    failed: int
    waiting: int
    version: str
    address: str
    joined: int
    serial: str

    @classmethod
    def describe(cls, cluster: str, agent: EnrolledAgent, agents: TenantAgents) -> AgentStateDocument:
        status = agents.agents.get((cluster, agent.node))
        return cls(**_common(cluster, agent, agents.state(status), status or AgentStatus()))


class FailureDocument(BaseModel):
    """A workload (NAMESPACE/POD) without what is desired."""

    workload: str
    state: str
    reason: str
    policy: str

    @classmethod
    def describe(cls, failure: WorkloadFailure) -> FailureDocument:
        return cls(workload=failure.workload, state=failure.state, reason=failure.reason, policy=failure.policy)


class AgentDetails(AgentStateDocument):
    """All that is known of an agent. ``desired``: the revision that it is to have. ``expires``: its certificate."""

    desired: int
    refusal: str
    failures: list[FailureDocument]
    troubles: list[str]
    ended: str
    kernel: str
    abilities: list[str]
    labels: dict[str, str]
    instance: str
    heard: float | None
    expires: float | None
    cpu_ms: int
    memory: int

    @classmethod
    def details(cls, cluster: str, agent: EnrolledAgent, agents: TenantAgents) -> AgentDetails:
        known = agents.agents.get((cluster, agent.node))
        status = known or AgentStatus()
        return cls(
            **_common(cluster, agent, agents.state(known), status),
            desired=agents.revision,
            refusal=status.refusal,
            failures=[FailureDocument.describe(each) for each in status.failures],
            troubles=list(status.troubles),
            ended=status.ended,
            kernel=status.kernel,
            abilities=list(status.abilities),
            labels=dict(status.labels),
            instance=status.instance,
            heard=status.heard or None,
            expires=status.expires or None,
            cpu_ms=status.cpu_ms,
            memory=status.memory,
        )


def _common(cluster: str, agent: EnrolledAgent, state: AgentState, status: AgentStatus) -> dict[str, object]:
    return {
        "cluster": cluster,
        "node": agent.node,
        "state": state,
        "since": status.since or None,
        "revision": status.revision,
        "programmed": status.programmed,
        "failed": status.failed,
        "waiting": status.waiting,
        "version": status.version,
        "address": status.address,
        "joined": agent.at,
        "serial": agent.serial,
    }


class TrustWish(Asked):
    """``service_account`` is NAMESPACE/NAME, ``ca`` is PEM. All empty: nobody joins by a ServiceAccount any more."""

    url: Annotated[str, Field(max_length=300)] = ""
    ca: Annotated[str, Field(max_length=65_536)] = ""
    service_account: Annotated[str, Field(max_length=320)] = ""


class RootsDocument(BaseModel):
    """``roots`` are the CAs of the agents' port and of agents, PEM."""

    roots: str


@router.get("/roots")
def get_roots(plane: ThePlane, request: Request, caller: TheCaller, tenant: str) -> RootsDocument:
    """What an agent has to trust that has no join token, which has a digest of it."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    invitation: Invitation | None = request.app.state.invitation
    return RootsDocument(roots=invitation.roots if invitation is not None else "")


@router.get("/agents")
def list_all_agents(
    plane: ThePlane,
    fleet: TheFleet,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: AgentSort = "node",
    state: Annotated[AgentState | None, Query(description="Only those in this state.")] = None,
    cluster: Annotated[str | None, Query(description="Only those of this cluster.", max_length=63)] = None,
    node: Prefix = "",
) -> Page[AgentStateDocument]:
    """Agents of all clusters, by cluster and node.

    `node`: only those whose names begin so.
    """
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as found:
        existing(found)
    # What is no name could be one that a database refuses; an empty one is nobody's.
    filters = [] if cluster is None else [equal("cluster", cluster if is_name(cluster) else "")]
    filters += prefixed("node", node)
    agents = fleet.agents(tenant)

    if state is not None and state is not AgentState.AWAY:
        # Who is away may never have been here. Of the others few are in most states: no need to look at all. Keys alone
        # are copied: ten thousand pairs would bring about a full collection of garbage every dozen requests.
        found_now = [key[1] for key in list(agents.agents) if agents.state(agents.agents.get(key)) is state]
        if len(found_now) <= _FEW:
            filters.append(one_of("node", found_now))

    def wanted(row: Mapping[str, Any]) -> bool:
        return state is None or agents.state(agents.agents.get((row["cluster"], row["node"]))) is state

    rows, following = read_page(plane, AGENTS, tenant, paging, sort, filters, wanted)
    items = [
        AgentStateDocument.describe(row["cluster"], EnrolledAgent(row["node"], row["serial"], row["joined"]), agents)
        for row in rows
    ]
    return Page(items=items, next=following)


class ClusterStates(BaseModel):
    """How many agents of a cluster are in which state."""

    cluster: str
    agents: int
    states: dict[AgentState, int]


class AgentsSummary(BaseModel):
    """All agents of a tenant, counted. ``versions`` are of those that have said one."""

    agents: int
    states: dict[AgentState, int]
    clusters: list[ClusterStates]
    versions: dict[str, int]


@router.get("/agents/summary")
def summarize_agents(plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str) -> AgentsSummary:
    """How many there are, by state, cluster and version."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as found:
        joined = {name: list(cluster.agents) for name, cluster in existing(found).clusters.items()}
    agents = fleet.agents(tenant)
    known = agents.agents
    versions = Counter[str]()
    clusters = []
    for name, nodes in sorted(joined.items()):
        counts = Counter[AgentState](dict.fromkeys(AgentState, 0))
        for node in nodes:
            status = known.get((name, node))
            counts[agents.state(status)] += 1
            if status is not None and status.version:
                versions[status.version] += 1
        clusters.append(ClusterStates(cluster=name, agents=len(nodes), states=counts))
    total = {state: sum(each.states[state] for each in clusters) for state in AgentState}
    return AgentsSummary(
        agents=sum(total.values()), states=total, clusters=clusters, versions=dict(versions.most_common(20))
    )


@router.get("/clusters/{cluster}/agents/{node}")
def get_agent(
    plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, cluster: str, node: str
) -> AgentDetails:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        agent = member_cluster(state, cluster).agents.get(node)
    if agent is None:
        raise UnknownSubjectError(f"No agent of {node[:260]} belongs to {cluster}.", "Look at the list of its agents.")
    return AgentDetails.details(cluster, agent, fleet.agents(tenant))


@router.put("/clusters/{cluster}/trust", responses=CHANGES)
def trust_cluster(writing: TheWriting, tenant: str, cluster: str, wish: TrustWish, response: Response) -> Happened:
    """Have agents join by a token of their ServiceAccount, about which the cluster's API server is asked."""
    command = TrustCluster(cluster, wish.url, wish.ca, wish.service_account)
    return writing.carry_out(Operation.ADMINISTER, tenant, command, response)
