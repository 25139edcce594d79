"""What requests and responses about rollouts have in their bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from control_plane.domain.rollout import (
    Gates,
    OnNewRevision,
    PrometheusGate,
    Rollout,
    RolloutPlan,
    RolloutState,
    Stage,
)
from control_plane.domain.rollout_gates import GateReading
from control_plane.fleet.agent_status import RolloutProgress
from control_plane.http.documents import Asked

_MOST_FAILURES: Final = 20


class StageWish(Asked):
    """Exactly one of them. ``percent`` is of all agents."""

    count: int | None = None
    percent: float | None = None
    labels: dict[str, str] | None = None


class PrometheusGateWish(Asked):
    """A PromQL query, and what its values may be at most."""

    query: str
    at_most: float


class GatesWish(Asked):
    """What takes the rollout back. ``away`` is a share of 1; ``dropped`` and ``throttled`` factors against before."""

    failed: int = 0
    away: float = 0.1
    dropped: float | None = None
    throttled: float | None = None
    prometheus: list[PrometheusGateWish] = Field(default_factory=list)


class RolloutWish(Asked):
    """Steps, each of which adds agents; all agents come last. ``soak`` in seconds."""

    stages: Annotated[list[StageWish], Field(min_length=1)]
    soak: int = 60
    gates: GatesWish = GatesWish()
    on_new_revision: OnNewRevision = OnNewRevision.SUPERSEDE

    def plan(self) -> RolloutPlan:
        """Raises :class:`~control_plane.domain.errors.InvalidError`."""
        gates = self.gates
        return RolloutPlan(
            tuple(Stage(each.count, each.percent, each.labels) for each in self.stages),
            self.soak,
            Gates(
                gates.failed,
                gates.away,
                gates.dropped,
                gates.throttled,
                tuple(PrometheusGate(each.query, each.at_most) for each in gates.prometheus),
            ),
            self.on_new_revision,
        )


class PublishWish(Asked):
    """``rollout`` null: the revision reaches all agents at once."""

    rollout: RolloutWish | None = None


class StageDocument(BaseModel):
    """A step, and in a few words whom it reaches."""

    says: str
    count: int | None
    percent: float | None
    labels: dict[str, str] | None


class GateDocument(BaseModel):
    """What a gate says. ``gate``: ``failed`` (agents), ``away``, ``dropped`` or ``throttled`` (shares of 1), or a
    PromQL query. ``limit``: what ``value`` may be at most; ``before``: the share of packets before it began.
    Null: not known, or too little was sent to tell. ``tripped``: it takes the rollout back, or has."""

    gate: str
    value: float | None
    limit: float | None
    before: float | None
    tripped: bool

    @classmethod
    def describe(cls, reading: GateReading) -> GateDocument:
        return cls(**asdict(reading), tripped=reading.tripped)


class ProgressDocument(BaseModel):
    """Of ``agents`` that have joined, ``reached`` have been told; of these ``having`` say that they have it, ``away``
    are not connected, and ``failures`` failed (the first ones, with the reason). ``says``: what it waits for.
    ``gates``: what each of them says, as it was seen last."""

    agents: int
    reached: int
    having: int
    away: int
    failed: int
    failures: list[str]
    says: str
    gates: list[GateDocument]

    @classmethod
    def describe(cls, seen: RolloutProgress) -> ProgressDocument:
        return cls(
            agents=seen.agents,
            reached=seen.reached,
            having=seen.having,
            away=seen.away,
            failed=len(seen.failures),
            failures=[f"{agent}: {why}" for agent, why in seen.failures[:_MOST_FAILURES]],
            says=seen.says,
            gates=[GateDocument.describe(each) for each in seen.gates],
        )


class RolloutDocument(BaseModel):
    """``stage`` is the index of the step that it is at, since ``since`` (Unix seconds).

    ``before`` is the revision of the agents that it has not reached, 0 for none. ``progress`` is what was seen of the
    agents last, null if it was not looked at since we were started.
    """

    policy: str
    revision: int
    before: int
    state: RolloutState
    reason: str
    stage: int
    since: int
    soak: int
    stages: list[StageDocument]
    gates: dict[str, Any]
    on_new_revision: OnNewRevision
    progress: ProgressDocument | None

    @classmethod
    def describe(cls, policy: str, rollout: Rollout, seen: RolloutProgress | None) -> RolloutDocument:
        plan = rollout.plan
        return cls(
            policy=policy,
            revision=rollout.revision,
            before=rollout.before,
            state=rollout.state,
            reason=rollout.reason,
            stage=rollout.stage,
            since=rollout.since,
            soak=plan.soak,
            stages=[
                StageDocument(says=str(s), count=s.count, percent=s.percent, labels=_plain(s.labels))
                for s in plan.stages
            ],
            gates=asdict(plan.gates),
            on_new_revision=plan.on_new_revision,
            progress=None if seen is None else ProgressDocument.describe(seen),
        )


def _plain(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if labels is None else dict(labels)
