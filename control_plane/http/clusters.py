"""Clusters, the tokens with which agents join them, and those that have."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.bootstrap import new_token
from control_plane.domain.access import Operation
from control_plane.domain.commands import (
    AddCluster,
    IssueJoinToken,
    LabelCluster,
    RemoveCluster,
    RevokeAgent,
    RevokeJoinToken,
)
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.events import JoinTokenIssued
from control_plane.domain.tenant import MemberCluster, Tenant
from control_plane.fleet.invitation import Invitation
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit, tag
from control_plane.http.documents import (
    AgentDocument,
    ClusterDocument,
    ClusterLabels,
    Happened,
    JoinTokenDocument,
    JoinTokenWish,
    Page,
)
from control_plane.http.lists import AgentSort, ClusterSort, JoinTokenSort, Prefix, prefixed, read_page
from control_plane.http.problems import responses
from control_plane.http.tenants import CHANGES, existing
from control_plane.read_models.listing import equal
from control_plane.read_models.lists import AGENTS, CLUSTERS, JOIN_TOKENS

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


def member_cluster(state: Tenant, name: str) -> MemberCluster:
    """Raises :class:`UnknownSubjectError`."""
    found = existing(state).clusters.get(name)
    if found is None:
        raise UnknownSubjectError(f"There is no cluster {name[:70]}.", "Look at the list of clusters.")
    return found


def _describe(state: Tenant, cluster: MemberCluster) -> ClusterDocument:
    return ClusterDocument.describe(cluster, state.version(f"cluster/{cluster.name}"))


@router.get("/clusters")
def list_clusters(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: ClusterSort = "name",
    name: Prefix = "",
) -> Page[ClusterDocument]:
    """`name`: only those whose names begin so."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    rows, following = read_page(plane, CLUSTERS, tenant, paging, sort, prefixed("name", name))
    return Page(items=[ClusterDocument.from_row(row) for row in rows], next=following)


@router.get("/clusters/{cluster}")
def get_cluster(plane: ThePlane, caller: TheCaller, tenant: str, cluster: str, response: Response) -> ClusterDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _describe(state, member_cluster(state, cluster))
    tag(response, document.version)
    return document


@router.put("/clusters/{cluster}", responses=CHANGES)
def add_cluster(writing: TheWriting, tenant: str, cluster: str, response: Response) -> Happened:
    """Nothing happens if it is there already."""
    return writing.carry_out(Operation.ADMINISTER, tenant, AddCluster(cluster), response)


@router.delete("/clusters/{cluster}", responses=CHANGES)
def remove_cluster(writing: TheWriting, tenant: str, cluster: str, response: Response) -> Happened:
    return writing.carry_out(Operation.ADMINISTER, tenant, RemoveCluster(cluster), response)


@router.put("/clusters/{cluster}/labels", responses=CHANGES)
def label_cluster(
    writing: TheWriting, tenant: str, cluster: str, wish: ClusterLabels, response: Response
) -> ClusterDocument | Happened:
    """Labels of all nodes of the cluster, instead of those that were given before. Policies are selected by them, and
    steps of rollouts. They count more than what agents say of their nodes."""
    command = LabelCluster(cluster, wish.labels)
    happened = writing.carry_out(Operation.ADMINISTER, tenant, command, response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _describe(state, member_cluster(state, cluster))


@router.get("/clusters/{cluster}/join-tokens")
def list_join_tokens(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    cluster: str,
    paging: ThePaging,
    sort: JoinTokenSort = "id",
) -> Page[JoinTokenDocument]:
    """Those that were neither used nor revoked."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        member_cluster(state, cluster)
    rows, following = read_page(plane, JOIN_TOKENS, tenant, paging, sort, [equal("cluster", cluster)])
    return Page(items=[JoinTokenDocument(**row) for row in rows], next=following)


@router.post("/clusters/{cluster}/join-tokens", status_code=201, responses=CHANGES)
def issue_join_token(
    writing: TheWriting, tenant: str, cluster: str, wish: JoinTokenWish, request: Request, response: Response
) -> JoinTokenDocument | Happened:
    """For one agent, once. Its text is in the answer, and nowhere else."""
    text = new_token(tenant)
    command = IssueJoinToken(cluster, text.id, text.digest, writing.plane.now + wish.expires_in, wish.node)
    happened = writing.carry_out(Operation.ADMINISTER, tenant, command, response)
    if happened.dry_run:
        return happened
    issued = JoinTokenIssued(**happened.events[0].data)
    invitation: Invitation | None = request.app.state.invitation
    document = JoinTokenDocument(id=issued.id, expires_at=issued.expires_at, node=issued.node)
    if issued.id == text.id and invitation is not None:
        document.token, document.control_plane = invitation.join_token(str(text)), invitation.place
    return document


@router.delete("/clusters/{cluster}/join-tokens/{token}", responses=CHANGES)
def revoke_join_token(writing: TheWriting, tenant: str, cluster: str, token: str, response: Response) -> Happened:
    return writing.carry_out(Operation.ADMINISTER, tenant, RevokeJoinToken(cluster, token), response)


@router.get("/clusters/{cluster}/agents")
def list_agents(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    cluster: str,
    paging: ThePaging,
    sort: AgentSort = "node",
    node: Prefix = "",
) -> Page[AgentDocument]:
    """`node`: only those whose names begin so."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        member_cluster(state, cluster)
    filters = [equal("cluster", cluster), *prefixed("node", node)]
    rows, following = read_page(plane, AGENTS, tenant, paging, sort, filters)
    return Page(items=[AgentDocument.from_row(row) for row in rows], next=following)


@router.delete("/clusters/{cluster}/agents/{node}", responses=CHANGES)
def revoke_agent(writing: TheWriting, tenant: str, cluster: str, node: str, response: Response) -> Happened:
    """The agent is told nothing more; what it has in force stays."""
    return writing.carry_out(Operation.ADMINISTER, tenant, RevokeAgent(cluster, node), response)
