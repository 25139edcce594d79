"""Names that connections had, and how many each match has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from control_plane.domain.access import Operation
from control_plane.fleet.names.seen import SeenName
from control_plane.http.agents import TheFleet
from control_plane.http.context import TheCaller, ThePaging, ThePlane, permit
from control_plane.http.documents import Page
from control_plane.http.policies import existing_policy
from control_plane.http.problems import responses
from control_plane.http.tenants import existing
from traffic_policy.match_key import document_key

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())

_MOST: Final = 10**18
Decided = Literal["name", "port", "default"]
NameSort = Annotated[
    Literal["-connections", "-last_seen", "name"], Query(description="The order: those with most connections first.")
]


class SeenNameDocument(BaseModel):
    """A name of the last hour, as clients said it: in ``protocol`` tls and quic an SNI, in http1 and http2 a host.

    ``connections``: at least so many had it. ``last_seen`` in Unix seconds, to a minute. ``workload``: one of those
    that had them. ``lane`` is that of its last connections; ``decided`` says by what: a match by ``name``, one that
    asks for no name (``port``), or none (``default``).
    """

    name: str
    kind: Literal["sni", "host"]
    protocol: str
    port: int
    direction: Literal["outbound", "inbound"]
    cluster: str
    namespace: str
    policy: str
    lane: str
    decided: Decided
    connections: int
    last_seen: int
    workload: str

    @classmethod
    def describe(cls, seen: SeenName) -> SeenNameDocument:
        place = seen.place
        return cls(
            name=place.name,
            kind="sni" if place.protocol in ("tls", "quic") else "host",
            protocol=place.protocol,
            port=place.port,
            direction="inbound" if place.direction == "inbound" else "outbound",
            cluster=place.cluster,
            namespace=place.namespace,
            policy=place.policy,
            lane=seen.lane,
            decided=_decided(seen.decided),
            connections=seen.connections,
            last_seen=seen.last,
            workload=seen.workload,
        )


class MatchHitsDocument(BaseModel):
    """A match of a lane, as the policy has it; null: what no match takes."""

    lane: str
    match: dict[str, object] | None
    connections: int


class HitsDocument(BaseModel):
    """How many connections each match of the revision in force has taken in the last hour."""

    policy: str
    revision: int
    matches: list[MatchHitsDocument]


_ORDERS: Final[dict[str, Callable[[SeenName], str]]] = {
    "-connections": lambda each: f"{_MOST - each.connections:019}",
    "-last_seen": lambda each: f"{_MOST - each.last:019}",
    "name": lambda each: each.place.name,
}


@router.get("/names")
def list_names(
    plane: ThePlane,
    fleet: TheFleet,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: NameSort = "-connections",
    name: Annotated[str, Query(max_length=253, description="Only those with this in them.")] = "",
    cluster: Annotated[str | None, Query(max_length=63, description="Only of this one.")] = None,
    namespace: Annotated[str | None, Query(max_length=63, description="Only of this one.")] = None,
    policy: Annotated[
        str | None, Query(max_length=63, description="Only of workloads with this one; empty: with their own.")
    ] = None,
    decided: Annotated[list[Decided], Query(max_length=3, description="Only those that were decided so.")] = [],  # noqa: B006
) -> Page[SeenNameDocument]:
    """Names that connections had in the last hour, as the agents of this process say it. Who asks has agents say it
    more often for a minute."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    names = fleet.agents(tenant).names
    names.look(plane.now)
    wanted = name.lower()
    found = [
        each
        for each in names.seen(plane.now)
        if wanted in each.place.name
        and cluster in (None, each.place.cluster)
        and namespace in (None, each.place.namespace)
        and policy in (None, each.place.policy)
        and (not decided or each.decided in decided)
    ]
    order = _ORDERS[sort]
    items, following = paging.cut((f"{order(each)} {' '.join(map(str, each.place))}", each) for each in found)
    return Page(items=[SeenNameDocument.describe(each) for each in items], next=following)


@router.get("/policies/{policy}/hits")
def get_hits(plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, policy: str) -> HitsDocument:
    """Connections of TCP and of QUIC, and of stepping aside only those whose first bytes were read."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        found = existing_policy(state, policy)
        content, revision = found.in_force, found.revision
    names = fleet.agents(tenant).names
    names.look(plane.now)
    hits = names.hits(plane.now, policy)
    classes = [] if content is None else content.document.get("classes", [])
    matches = [
        MatchHitsDocument(lane=each["name"], match=match, connections=hits.get((each["name"], document_key(match)), 0))
        for each in classes
        for match in each["match"]
    ]
    if content is not None:
        matches.append(MatchHitsDocument(lane="default", match=None, connections=hits.get(("default", b""), 0)))
    return HitsDocument(policy=policy, revision=revision, matches=matches)


def _decided(text: str) -> Decided:
    return "name" if text == "name" else "port" if text == "port" else "default"
