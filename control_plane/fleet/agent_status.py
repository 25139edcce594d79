"""What the control plane knows of each agent beyond its enrolment: in memory, from what the agent said last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from control_plane.domain.rollout_gates import Traffic
from control_plane.fleet.figures import TenantFigures


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
    failed: int = 0
    waiting: int = 0
    failures: tuple[WorkloadFailure, ...] = ()
    cpu_ms: int = 0
    memory: int = 0
    """Bytes."""
    workloads: int = 0
    troubles: tuple[str, ...] = ()
    ended: str = ""
    """Why the control plane ended its last connection, if it did."""


@dataclass(slots=True)
class RolloutTraffic:
    """What went through the lanes of a policy: over all agents in the minute before its rollout, and over those that it
    has reached since its step began."""

    before: Traffic
    now: Traffic = field(default_factory=Traffic)


@dataclass(slots=True)
class RolloutProgress:
    """How far a rollout is.

    Of ``agents`` that have joined it has ``reached`` some. Of these some say that they have it, some are ``away``
    (``lost`` since its step began), and some failed, with the reason. ``says``: what it waits for, or why it is taken
    back.
    """

    agents: int = 0
    reached: int = 0
    having: int = 0
    away: int = 0
    lost: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    says: str = ""


@dataclass(slots=True)
class TenantAgents:
    """Those of one tenant, by cluster and node, and what they are to have."""

    revision: int = 0
    agents: dict[tuple[str, str], AgentStatus] = field(default_factory=dict)
    figures: TenantFigures = field(default_factory=TenantFigures)
    traffic: dict[str, RolloutTraffic] = field(default_factory=dict)
    """Of policies whose rollouts are under way."""
    rollouts: dict[str, RolloutProgress] = field(default_factory=dict)
    """Of policies, as their rollouts were seen last."""

    def state(self, status: AgentStatus | None) -> AgentState:
        """Of one of them; None: it has never been here."""
        if status is None or not status.connected:
            return AgentState.AWAY
        if status.refusal or (status.failed and self.has(status)):
            return AgentState.FAILED
        return AgentState.IN_SYNC if self.has(status) else AgentState.BEHIND

    def has(self, status: AgentStatus) -> bool:
        """Whether it has said that it has what is desired."""
        revision, hash = status.desired
        return status.revision == revision == self.revision and (status.hash == hash or not revision)


class FleetStatus:
    """All tenants' agents. The gateway's thread writes; any thread reads."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantAgents] = {}

    def agents(self, tenant: str) -> TenantAgents:
        """Those of a tenant. To be asked for tenants that exist."""
        found = self._tenants.get(tenant)
        return found if found is not None else self._tenants.setdefault(tenant, TenantAgents())
