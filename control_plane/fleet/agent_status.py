"""What the control plane knows of each agent beyond its enrolment: in memory, from what the agent said last."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from control_plane.domain.rollout_gates import GateReading, Traffic
from control_plane.fleet.figures import TenantFigures
from control_plane.fleet.names.seen import TenantNames
from control_plane.fleet.questions import Questions
from control_plane.tracing import ChangeTraces, NoTraces

_MOST_CLUSTERS: Final = 64
"""Of a tenant, whose figures are kept apart."""
_LANES_OF_CLUSTER: Final = 128


class AgentState(StrEnum):
    """In one word."""

    IN_SYNC = "in-sync"
    """It has what is desired in force."""
    BEHIND = "behind"
    """It is connected, and has not said yet that it has."""
    FAILED = "failed"
    """It could not put what is desired in force, as a whole or for some workloads."""
    AWAY = "away"
    """It is not connected. What it has in force stays so."""


@dataclass(frozen=True, slots=True)
class WorkloadFailure:
    """A workload (NAMESPACE/POD) without what is desired."""

    workload: str
    state: str
    reason: str
    policy: str


class AgentTraffic(NamedTuple):
    """What went through all lanes of an agent, a second; ``backlog`` in bytes. ``throttled``: how often it waited."""

    bytes: float = 0.0
    packets: float = 0.0
    dropped: float = 0.0
    throttled: float = 0.0
    backlog: float = 0.0


NO_TRAFFIC: Final = AgentTraffic()


class WatchedLane(NamedTuple):
    """A lane of a workload; the first four a second, ``backlog`` in bytes, ``rate`` and ``ceil`` in bit/s."""

    bytes: float
    packets: float
    dropped: float
    throttled: float
    backlog: float
    lane: str
    direction: str
    rate: int
    ceil: int


class WatchedWorkload(NamedTuple):
    """What went through the lanes of a workload (NAMESPACE/POD), whose policy is the tenant's; empty: its own.

    ``controller``: KIND/NAME of what runs it, as Deployment/web; empty: nothing, or its agent does not tell.
    """

    workload: str
    policy: str
    lanes: tuple[WatchedLane, ...]
    controller: str = ""


@dataclass(slots=True)
class AgentStatus:
    """Changed by the gateway's thread alone; values are replaced, never changed, so that others may read them.

    Times are Unix seconds. ``since``: when it came or went. ``revision`` and ``hash``: what it has in force.
    """

    connected: bool = False
    since: float = 0.0
    heard: float = 0.0
    address: str = ""
    instance: str = ""
    version: str = ""
    kernel: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    abilities: tuple[str, ...] = ()
    expires: float = 0.0
    """When its certificate does."""
    revision: int = 0
    hash: bytes = b""
    desired: tuple[int, bytes] = (0, b"")
    """Revision and hash of what it is to have."""
    refusal: str = ""
    """Why it did not take the revision that it was told last."""
    programmed: int = 0
    """As ``failed`` and ``waiting`` a number of workloads, of those that have a policy of the tenant."""
    failed: int = 0
    waiting: int = 0
    failures: tuple[WorkloadFailure, ...] = ()
    cpu_ms: int = 0
    memory: int = 0
    """Bytes."""
    workloads: int = 0
    """All of its node."""
    troubles: tuple[str, ...] = ()
    traffic: AgentTraffic = NO_TRAFFIC
    """As its last report has it, which was heard at ``reported``."""
    reported: float = 0.0
    details: tuple[WatchedWorkload, ...] | None = None
    """Of its workloads, while somebody looks at them; None: it has told of none."""
    ended: str = ""
    """Why the control plane ended its last connection, if it did."""
    epoch: int = 0
    """Of the connection: that which came later has a higher one, to whichever process."""
    process: str = ""
    """To which it is, or was, connected; empty: to this one."""


@dataclass(slots=True)
class RolloutTraffic:
    """What went through the lanes of a policy: over all agents in the minute before its rollout, and over those that it
    has reached since its step began. ``step``: revision, index of the step, since when."""

    before: Traffic
    now: Traffic = field(default_factory=Traffic)
    step: tuple[int, int, int] = (0, 0, 0)


@dataclass(slots=True)
class RolloutProgress:
    """How far a rollout is.

    Of ``agents`` that have joined, and that it is for, it has ``reached`` some. Of these some say that they have it,
    some are ``away`` (``lost`` since its step began), and some failed, with the reason. ``says``: what it waits for, or
    why it is taken back. ``gates``: what each of them says.
    """

    agents: int = 0
    reached: int = 0
    having: int = 0
    away: int = 0
    lost: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    says: str = ""
    gates: list[GateReading] = field(default_factory=list)


@dataclass(slots=True)
class TenantAgents:
    """Those of one tenant, by cluster and node, and what they are to have."""

    revision: int = 0
    agents: dict[tuple[str, str], AgentStatus] = field(default_factory=dict)
    figures: TenantFigures = field(default_factory=TenantFigures)
    clusters: dict[str, TenantFigures] = field(default_factory=dict)
    """Figures of each cluster's agents."""
    names: TenantNames = field(default_factory=TenantNames)
    """Names that connections had, as agents of this process say it."""
    watched: dict[tuple[str, str], float] = field(default_factory=dict)
    """Agents whose workloads somebody looks at, and until when at least (Unix seconds)."""
    looked_at: float = 0.0
    """Until when at least somebody looks at the traffic of single agents (Unix seconds)."""
    traffic: dict[str, RolloutTraffic] = field(default_factory=dict)
    """Of policies whose rollouts are under way, as far as the agents of this process go."""
    others: dict[str, Mapping[str, RolloutTraffic]] = field(default_factory=dict)
    """The same of other processes, by their names."""
    rollouts: dict[str, RolloutProgress] = field(default_factory=dict)
    """Of policies, as their rollouts were seen last."""

    def state(self, status: AgentStatus | None) -> AgentState:
        """Of one of them; None: it has never been here."""
        if status is None or not status.connected:
            return AgentState.AWAY
        if status.refusal or (status.failed and self.has(status)):
            return AgentState.FAILED
        return AgentState.IN_SYNC if self.has(status) else AgentState.BEHIND

    def cluster_figures(self, cluster: str) -> TenantFigures | None:
        """Where to add what its agents say; None: there are too many clusters to keep them apart."""
        found = self.clusters.get(cluster)
        if found is None and len(self.clusters) < _MOST_CLUSTERS:
            found = self.clusters[cluster] = TenantFigures(_LANES_OF_CLUSTER)
            found.know(self.figures.known)
        return found

    def has(self, status: AgentStatus) -> bool:
        """Whether it has said that it has what is desired."""
        revision, hash = status.desired
        return status.revision == revision == self.revision and (status.hash == hash or not revision)

    def traffic_of(self, policy: str) -> RolloutTraffic:
        """What a rollout is judged by, over the agents of all processes."""
        own = self.traffic.get(policy)
        if own is None:
            return RolloutTraffic(Traffic())
        before, now = own.before, own.now
        for others in list(self.others.values()):
            other = others.get(policy)
            if other is not None and other.step[0] == own.step[0]:
                before = before.plus(other.before)
                now = now.plus(other.now) if other.step == own.step else now
        return RolloutTraffic(before, now, own.step)


@dataclass(frozen=True, slots=True)
class AgentChange:
    """Something of an agent is not as it was; ``status`` None: it does not belong to its cluster any more."""

    tenant: str
    cluster: str
    node: str
    status: AgentStatus | None


class FleetStatus:
    """All tenants' agents. The gateway's thread writes; any thread reads."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantAgents] = {}
        self.changes: deque[AgentChange] | None = None
        """What has changed, for who tells other processes; None: nobody does. It may say the same several times."""
        self.clock: Callable[[], float] = time.time
        """Unix seconds, which all processes that share their agents agree on."""
        self.traces: ChangeTraces = NoTraces()
        self.questions: Questions | None = None
        """To the agents that are connected here; None: there is no agents' port."""
        self._epoch = 0

    def next_epoch(self) -> int:
        """For a connection that begins now: higher than all before."""
        self._epoch = max(self._epoch + 1, int(self.clock() * 1_000_000))
        return self._epoch

    def changed(self, tenant: str, cluster: str, node: str, status: AgentStatus | None) -> None:
        """Note it."""
        if self.changes is not None:
            self.changes.append(AgentChange(tenant, cluster, node, status))

    def names(self) -> list[str]:
        """Of tenants of which something is known."""
        return list(self._tenants)

    def agents(self, tenant: str) -> TenantAgents:
        """Those of a tenant. To be asked for tenants that exist."""
        found = self._tenants.get(tenant)
        return found if found is not None else self._tenants.setdefault(tenant, TenantAgents())
