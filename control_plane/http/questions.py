"""What agents are asked when somebody wants to know: it is in no database."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from control_plane.domain.access import Operation
from control_plane.domain.errors import StateConflictError, UnknownSubjectError
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.questions import SilentAgentError
from control_plane.http.agents import TheFleet
from control_plane.http.clusters import member_cluster
from control_plane.http.context import TheCaller, ThePlane, permit
from control_plane.http.problems import responses
from control_plane.service import Caller, ControlPlane
from fleet_api.agent_pb2 import ConnectionsQuestion, MinutesQuestion, Question

router = APIRouter(prefix="/v1/tenants/{tenant}/clusters/{cluster}/agents/{node}", responses=responses(409))

_MOST_MINUTES: Final = 60
_MOST_CONNECTIONS: Final = 200
_MOST: Final = 2**53 - 1
"""The largest integer that JSON's readers can take."""

Minutes = Annotated[list[Annotated[int, Field(ge=0, le=_MOST)]], Field(max_length=_MOST_MINUTES)]
Name = Annotated[str, Field(max_length=400)]
Address = Annotated[str, Field(max_length=64)]
Workload = Annotated[str, Query(max_length=320, description="NAMESPACE/POD")]


class LaneMinutes(BaseModel):
    """``rate`` in bit/s, the mean of each minute; ``dropped`` and ``throttled`` (how often something had to wait) are
    counts of each."""

    lane: Name
    direction: Literal["egress", "ingress"]
    rate: Minutes
    dropped: Minutes
    throttled: Minutes


class WorkloadMinutes(BaseModel):
    """``policy`` empty: one of the workload's own, or none."""

    workload: Name
    policy: Name
    lanes: list[LaneMinutes]


class MinutesDocument(BaseModel):
    """The last ``minutes`` before ``until`` (Unix seconds), the oldest first. ``after``: ask again with it for more."""

    until: Annotated[int, Field(ge=0, le=_MOST)]
    minutes: Annotated[int, Field(ge=0, le=_MOST_MINUTES)]
    workloads: list[WorkloadMinutes]
    after: Name


class EndpointDocument(BaseModel):
    """One end of a connection."""

    address: Address
    port: Annotated[int, Field(ge=0, le=65535)]


class ConnectionDocument(BaseModel):
    """A connection as it is now. Null is what the datapath cannot tell. ``client`` has opened it, to ``destination``.

    ``class`` null: its first bytes are awaited. ``direction``: outbound, a program of the workload has opened it, or
    inbound. ``name``: TLS server name or HTTP host. Bytes are payload, ``bytes_up`` from the client.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    lane: Annotated[Name | None, Field(alias="class")]
    client: EndpointDocument
    destination: EndpointDocument
    direction: Name | None
    name: Name | None
    protocol: Name | None
    state: Name
    age_seconds: Annotated[float, Field(ge=0, le=_MOST, allow_inf_nan=False)] | None
    bytes_up: Annotated[int, Field(ge=0, le=_MOST)] | None
    bytes_down: Annotated[int, Field(ge=0, le=_MOST)] | None


class ConnectionsDocument(BaseModel):
    """``active``: how many are alive; ``connections``: the first ones in the ``order`` that was asked for."""

    active: Annotated[int, Field(ge=0, le=_MOST)]
    order: Literal["largest", "newest"]
    connections: Annotated[list[ConnectionDocument], Field(max_length=_MOST_CONNECTIONS)]


class AgentAnswer(BaseModel):
    """What an agent says of itself, or of a workload. Its fields are those of the agent's version."""

    answer: dict[str, Any]


@router.get("/minutes")
def get_minutes(
    plane: ThePlane,
    fleet: TheFleet,
    caller: TheCaller,
    tenant: str,
    cluster: str,
    node: str,
    workload: Annotated[list[str], Query(max_length=100, description="Only these (NAMESPACE/POD).")] = [],  # noqa: B006
    after: Annotated[str, Query(max_length=400, description="`after` of the answer before.")] = "",
) -> MinutesDocument:
    """What went through the lanes of each workload in each minute of the last hour, as its agent has it."""
    question = Question(minutes=MinutesQuestion(workloads=workload, after=after))
    answer = _ask(plane, fleet, caller, (tenant, cluster, node), question)
    try:
        return MinutesDocument.model_validate(answer)
    except ValidationError:
        raise SilentAgentError(f"The agent of {node} answers with what are no figures. Look into its log.") from None


@router.get("/connections")
def get_connections(
    plane: ThePlane,
    fleet: TheFleet,
    caller: TheCaller,
    tenant: str,
    cluster: str,
    node: str,
    workload: Workload,
    limit: Annotated[int, Query(ge=1, le=_MOST_CONNECTIONS)] = 50,
    order: Literal["largest", "newest"] = "largest",
) -> ConnectionsDocument:
    """Connections of a workload that are alive: those that have carried the most bytes, or the youngest, first."""
    asked = ConnectionsQuestion(workload=workload, limit=limit, largest=order == "largest")
    answer = _ask(plane, fleet, caller, (tenant, cluster, node), Question(connections=asked))
    try:
        return ConnectionsDocument.model_validate(answer)
    except ValidationError:
        raise SilentAgentError(f"The agent of {node} answers with what is no list. Look into its log.") from None


@router.get("/effective-policy")
def get_effective_policy(
    plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, cluster: str, node: str, workload: Workload = ""
) -> AgentAnswer:
    """What is in force for a workload, as its agent has it."""
    return AgentAnswer(answer=_ask(plane, fleet, caller, (tenant, cluster, node), Question(effective_policy=workload)))


@router.get("/diagnosis")
def get_diagnosis(
    plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, cluster: str, node: str
) -> AgentAnswer:
    """What the agent knows of itself."""
    return AgentAnswer(answer=_ask(plane, fleet, caller, (tenant, cluster, node), Question(diagnosis=True)))


def _ask(
    plane: ControlPlane, fleet: FleetStatus, caller: Caller, place: tuple[str, str, str], question: Question
) -> dict[str, Any]:
    tenant, cluster, node = place
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        agent = member_cluster(state, cluster).agents.get(node)
    if agent is None:
        raise UnknownSubjectError(f"No agent of {node[:260]} belongs to {cluster}.", "Look at the list of its agents.")
    if fleet.questions is None:
        raise StateConflictError("No agents are connected to this process.", "Ask another.")
    return fleet.questions.ask(tenant, cluster, node, question)
