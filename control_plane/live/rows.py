"""Rows and totals of windows, as /openapi.json has them."""

from __future__ import annotations

from pydantic import BaseModel

from control_plane.domain.alert_book import AlertState
from control_plane.domain.rollout import RolloutState
from control_plane.fleet.agent_status import AgentState


class LiveAgent(BaseModel):
    """An agent that has joined. ``since`` and ``joined`` are Unix seconds; ``since`` null: not known since our start.

    ``failures`` are workloads that failed. ``bytes``, ``packets``, ``dropped`` and ``throttled`` (how often something
    had to wait) are a second, over all its lanes; ``backlog`` and ``memory`` in bytes; ``cpu_ms`` since its start.
    """

    cluster: str
    node: str
    state: AgentState
    since: float | None
    joined: int
    version: str
    revision: int
    workloads: int
    programmed: int
    failures: int
    waiting: int
    refusal: str
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float
    memory: int
    cpu_ms: int


class LiveAgentTotals(BaseModel):
    """Sums over agents, by state their numbers."""

    agents: int
    in_sync: int
    behind: int
    failed: int
    away: int
    workloads: int
    programmed: int
    failures: int
    waiting: int
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float


class LiveCluster(LiveAgentTotals):
    """A cluster, and sums over its agents."""

    name: str


class LiveLane(BaseModel):
    """A lane over all agents of the scope: means of the last three seconds.

    ``policy`` empty: workloads' own policies. ``bytes``, ``packets``, ``dropped`` and ``throttled`` are a second;
    ``backlog`` in bytes; ``rate`` and ``ceil`` in bit/s, sums over ``workloads``.
    """

    policy: str
    lane: str
    direction: str
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float
    workloads: float
    rate: float
    ceil: float


class LiveLaneTotals(BaseModel):
    """Sums over lanes in each direction."""

    egress: float
    ingress: float
    packets: float
    dropped: float
    throttled: float
    backlog: float


class LiveWorkloadLane(BaseModel):
    """A lane of one workload. Numbers are as those of ``LiveLane``."""

    lane: str
    direction: str
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float
    rate: int
    ceil: int


class LiveWorkload(BaseModel):
    """A workload (NAMESPACE/POD) of an agent, sums over its lanes, and these. ``policy`` empty: one of its own.

    ``controller``: KIND/NAME of what runs the Pod, as Deployment/web; empty: nothing does, or its agent is older.
    """

    workload: str
    policy: str
    controller: str
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float
    lanes: list[LiveWorkloadLane]


class LiveWorkloadTotals(BaseModel):
    """Sums over workloads."""

    workloads: int
    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float


class LivePolicy(BaseModel):
    """A policy. ``version`` is that of its ETag, ``revision`` the newest, ``in_force`` the one that is; 0: none.

    ``rollout`` is the state of the last one. ``agents``, ``having``, ``failed``, ``behind`` and ``away`` are as in
    ``PolicyProgress``.
    """

    name: str
    version: int
    revision: int
    in_force: int
    draft: bool
    rollout: RolloutState | None
    agents: int
    having: int
    failed: int
    behind: int
    away: int


class LiveAlert(BaseModel):
    """An alert that fires, or has fired: ``since`` its value went beyond the threshold, ``at`` it fired, ``ended`` it
    was over, null if it is not (Unix seconds). ``value`` is that at which it fired, ``silenced_by`` ids of silences."""

    id: str
    rule: str
    state: AlertState
    severity: str
    labels: dict[str, str]
    annotations: dict[str, str]
    value: float
    since: int
    at: int
    ended: int | None
    reason: str
    silenced_by: list[str]


class LiveAlertTotals(BaseModel):
    """How many fire, those that are silenced as well, by severity; and how many are over."""

    firing: int
    silenced: int
    info: int
    warning: int
    critical: int
    resolved: int


class LiveRolloutTotals(BaseModel):
    """How many rollouts are in each state."""

    running: int
    paused: int
    done: int
    superseded: int
    taken_back: int


DOCUMENTED: tuple[type[BaseModel], ...] = (
    LiveAgent,
    LiveAgentTotals,
    LiveCluster,
    LiveLane,
    LiveLaneTotals,
    LiveWorkload,
    LiveWorkloadTotals,
    LivePolicy,
    LiveAlert,
    LiveAlertTotals,
    LiveRolloutTotals,
)
"""What /openapi.json is to have besides what operations answer."""
