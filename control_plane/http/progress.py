"""How far what is desired has come, and what went through lanes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from control_plane.domain.access import Operation
from control_plane.domain.tenant import Policy, Tenant
from control_plane.fleet.agent_status import AgentStatus
from control_plane.fleet.figures import SECONDS, LaneSeries
from control_plane.fleet.past import LanePast, PastRange
from control_plane.fleet.standing import FleetStanding
from control_plane.http.agents import TheFleet
from control_plane.http.context import TheCaller, ThePlane, permit
from control_plane.http.policies import existing_policy
from control_plane.http.problems import responses
from control_plane.http.tenants import existing

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())
_LATEST: Final = 2**40


class PolicyProgress(BaseModel):
    """On how many agents a policy is in force as it was published, or removed, last.

    ``agents`` have joined and are on nodes that it is for (what nodes have for labels is known of those that have been
    here since we were started): on ``in_force`` of them it is in force, ``failed`` could not take it or have workloads
    without it, ``behind`` have not said yet, ``away`` are not connected. One that is away may also be in ``in_force``.
    """

    policy: str
    revision: int
    position: int
    agents: int
    in_force: int
    failed: int
    behind: int
    away: int


class LaneFigures(BaseModel):
    """One lane, over all agents. Lists have a value for each second, the oldest first; others are means over those in
    which agents have said something.

    ``policy`` empty: workloads' own policies. ``bytes``, ``packets``, ``dropped`` and ``overlimits`` (how often
    something had to wait) are of each second; ``backlog`` in bytes; ``rate`` and ``ceil`` in bit/s.
    """

    policy: str
    lane: str
    direction: str
    bytes: list[int]
    packets: list[int]
    dropped: list[int]
    overlimits: list[int]
    backlog: list[int]
    workloads: int
    rate: int
    ceil: int

    @classmethod
    def describe(cls, series: LaneSeries) -> LaneFigures:
        values = series.values
        # Agents say these once a second, whether or not something passed. Seconds before the first do not count.
        said = sum(1 for workloads in values["workloads"] if workloads) or 1
        means = {name: sum(values[name]) // said for name in ("workloads", "rate", "ceil")}
        lists = {name: values[name] for name in ("bytes", "packets", "dropped", "overlimits", "backlog")}
        return cls(policy=series.policy, lane=series.lane, direction=series.direction, **lists, **means)


class FiguresDocument(BaseModel):
    """``until`` is the second (Unix time) at which the lists end. Lanes of which nobody said anything are left out."""

    until: int
    seconds: int
    lanes: list[LaneFigures]


class PastLaneFigures(BaseModel):
    """One lane: the counter a second at each time, a mean over ``step`` or four minutes; null: nobody knows."""

    policy: str
    lane: str
    direction: str
    values: list[float | None]


class PastDocument(BaseModel):
    """Values are of ``points`` times, from ``since`` (Unix seconds) on, ``step`` seconds apart."""

    since: int
    step: int
    points: int
    counter: str
    lanes: list[PastLaneFigures]


@router.get("/policies/{policy}/progress")
def get_progress(plane: ThePlane, fleet: TheFleet, caller: TheCaller, tenant: str, policy: str) -> PolicyProgress:
    """Has the change reached everyone?"""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        found = existing_policy(state, policy)
        since, revision = found.since, len(found.revisions)
        agents = fleet.agents(tenant)
        joined = [key for key in _joined(state) if _concerned(state, found, key, agents.agents.get(key))]
    known = [agents.agents.get(key) for key in joined]
    standing = FleetStanding((status, agents.state(status)) for status in known)
    return PolicyProgress(policy=policy, revision=revision, position=since, **asdict(standing.policy(policy, since)))


def _joined(state: Tenant) -> list[tuple[str, str]]:
    return [(name, node) for name, cluster in state.clusters.items() for node in cluster.agents]


def _concerned(state: Tenant, policy: Policy, key: tuple[str, str], status: AgentStatus | None) -> bool:
    """One that is not for any node any more, since it was removed, is for all."""
    if policy.in_force is None:
        return True
    return policy.concerns(state.labels_at("/".join(key), status.labels if status is not None else {}))


@router.get("/figures")
def get_figures(
    plane: ThePlane,
    fleet: TheFleet,
    caller: TheCaller,
    tenant: str,
    seconds: Annotated[int, Query(ge=1, le=SECONDS)] = 10,
    policy: Annotated[str | None, Query(max_length=63, description="Only of this one.")] = None,
    cluster: Annotated[str | None, Query(max_length=63, description="Only of its agents.")] = None,
) -> FiguresDocument:
    """Sums over all agents, of the last seconds: where several processes serve them, until two seconds ago."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    agents = fleet.agents(tenant)
    figures = agents.figures if cluster is None else agents.clusters.get(cluster)
    until = plane.now if figures is None else figures.settled(plane.now)
    found = figures.window(until, seconds, policy) if figures is not None else []
    return FiguresDocument(until=until, seconds=seconds, lanes=[LaneFigures.describe(each) for each in found])


def _past(request: Request) -> LanePast:
    past: LanePast = request.app.state.past
    return past


@router.get("/figures/past", responses=responses(409))
def get_past_figures(
    plane: ThePlane,
    past: Annotated[LanePast, Depends(_past)],
    caller: TheCaller,
    tenant: str,
    since: Annotated[int, Query(ge=0, le=_LATEST, description="Unix seconds.")],
    until: Annotated[int, Query(ge=0, le=_LATEST, description="Unix seconds.")],
    step: Annotated[int, Query(ge=1, le=86_400, description="Seconds between two values.")] = 60,
    counter: Annotated[Literal["bytes", "packets", "dropped", "overlimits"], Query()] = "bytes",
    policy: Annotated[str, Query(max_length=63, description="Only of this one.")] = "",
    lane: Annotated[str, Query(max_length=63, description="Only of this one.")] = "",
    direction: Annotated[Literal["", "egress", "ingress"], Query()] = "",
) -> PastDocument:
    """What went through lanes longer ago than 15 minutes, over all agents, as Prometheus has it (`--prometheus`)."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    over = PastRange(since, until, step)
    found = past.ask(tenant, counter, (policy, lane, direction), over)
    lanes = [PastLaneFigures(**asdict(each)) for each in found]
    return PastDocument(since=since, step=step, points=over.points, counter=counter, lanes=lanes)
