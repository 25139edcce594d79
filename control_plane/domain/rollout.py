"""A revision that reaches agents in steps: its plan, how far it is, and which agents have it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from control_plane.domain.errors import InvalidError

_MOST_STAGES = 20
_MOST_AGENTS = 1000
"""Named one by one: a larger part is written as a percentage."""
_LONGEST_SOAK = 7 * 24 * 3600
_MOST_QUERIES = 5
_LONGEST_QUERY = 1000


class OnNewRevision(StrEnum):
    """What becomes of a rollout when another revision is published meanwhile."""

    SUPERSEDE = "supersede"
    """It ends, and the other begins; agents that only the first had reached go back to what was before both."""
    REFUSE = "refuse"
    """The other is refused until the rollout has ended."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Who is reached by a step, besides those of the steps before: exactly one of these is given.

    ``count`` agents; ``percent`` of all; those of nodes that have all ``labels``. Count and percent take agents in an
    order that is random, and the same for all steps of a rollout.
    """

    count: int | None = None
    percent: float | None = None
    labels: Mapping[str, str] | None = None

    def __str__(self) -> str:
        if self.count is not None:
            return f"{self.count} agent{'s' if self.count != 1 else ''}"
        if self.percent is not None:
            return f"{self.percent:g} %"
        return ",".join(f"{key}={value}" for key, value in (self.labels or {}).items())


@dataclass(frozen=True, slots=True)
class PrometheusGate:
    """A PromQL query whose every value has to be at most ``at_most``; no value is no failure."""

    query: str
    at_most: float


@dataclass(frozen=True, slots=True)
class Gates:
    """What takes a rollout back.

    ``failed``: so many agents of those reached may report workloads that failed. ``away``: this share of them may be
    without connection (0 to 1). ``dropped`` and ``throttled``: so many times the share of packets that was dropped, or
    had to wait, before it began; None: not looked at.
    """

    failed: int = 0
    away: float = 0.1
    dropped: float | None = None
    throttled: float | None = None
    prometheus: tuple[PrometheusGate, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Steps, the last of which is all agents. ``soak``: seconds that each step has to stay good before the next."""

    stages: tuple[Stage, ...]
    soak: int = 60
    gates: Gates = field(default_factory=Gates)
    on_new_revision: OnNewRevision = OnNewRevision.SUPERSEDE

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if not 1 <= len(self.stages) <= _MOST_STAGES:
            raise InvalidError(f"A rollout has 1 to {_MOST_STAGES} stages.", "Write another number of them.")
        for number, stage in enumerate(self.stages, 1):
            _check_stage(stage, f"Stage {number}")
        percents = [stage.percent for stage in self.stages if stage.percent is not None]
        if percents != sorted(percents):
            raise InvalidError("A later stage reaches fewer agents than one before.", "Write percentages that rise.")
        if not 0 <= self.soak <= _LONGEST_SOAK:
            raise InvalidError(f"A soak takes 0 to {_LONGEST_SOAK} seconds.", "Write another time.")
        gates = self.gates
        if gates.failed < 0 or not 0 <= gates.away <= 1:
            raise InvalidError("A gate's limit is out of range.", "Write failed as a number, away as a share of 1.")
        if any(factor is not None and factor < 1 for factor in (gates.dropped, gates.throttled)):
            raise InvalidError("dropped and throttled are factors against before.", "Write 1 or more, as in 1.5.")
        if len(gates.prometheus) > _MOST_QUERIES or any(len(g.query) > _LONGEST_QUERY for g in gates.prometheus):
            raise InvalidError("There are too many queries, or one is too long.", f"Write {_MOST_QUERIES} at most.")
        if self.stages[-1].percent != 100:
            object.__setattr__(self, "stages", (*self.stages, Stage(percent=100)))

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        stages = [{key: value for key, value in asdict(each).items() if value is not None} for each in self.stages]
        return {
            "stages": stages,
            "soak": self.soak,
            "gates": {**asdict(self.gates), "prometheus": [asdict(each) for each in self.gates.prometheus]},
            "on_new_revision": self.on_new_revision.value,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RolloutPlan:
        """The plan that was stored."""
        gates = dict(document["gates"])
        return cls(
            tuple(Stage(**each) for each in document["stages"]),
            document["soak"],
            Gates(**{**gates, "prometheus": tuple(PrometheusGate(**each) for each in gates["prometheus"])}),
            OnNewRevision(document["on_new_revision"]),
        )


def _check_stage(stage: Stage, name: str) -> None:
    if sum(each is not None for each in (stage.count, stage.percent, stage.labels)) != 1:
        raise InvalidError(f"{name} has to say exactly one of count, percent and labels.", "Leave out the others.")
    if stage.count is not None and not 1 <= stage.count <= _MOST_AGENTS:
        raise InvalidError(f"{name} has a count beyond 1 to {_MOST_AGENTS}.", "Write a percentage for more.")
    if stage.percent is not None and not 0 < stage.percent <= 100:
        raise InvalidError(f"{name} has a percentage beyond 0 to 100.", "Write one between them.")
    if stage.labels is not None and not stage.labels:
        raise InvalidError(f"{name} has no labels.", "Write some, or percent: 100 for all agents.")


class RolloutState(StrEnum):
    """How a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    TAKEN_BACK = "taken back"
    SUPERSEDED = "superseded"


@dataclass(slots=True)
class Rollout:
    """``before`` is the revision that agents have which it has not reached; 0: none.

    ``stage`` is the index of the step that it is at, since ``since`` (Unix seconds). ``members`` are the agents that
    were chosen by count. ``reason`` is why it stands as it does.
    """

    revision: int
    before: int
    plan: RolloutPlan
    since: int
    stage: int = 0
    members: frozenset[str] = frozenset()
    state: RolloutState = RolloutState.RUNNING
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state in (RolloutState.RUNNING, RolloutState.PAUSED)

    def reaches(self, policy: str, agent: str, labels: Mapping[str, str]) -> bool:
        """Whether an agent (CLUSTER/NODE, with its node's labels) has the revision."""
        if agent in self.members:
            return True
        place = None
        for stage in self.plan.stages[: self.stage + 1]:
            if stage.percent is not None:
                place = place_of(policy, self.revision, agent) if place is None else place
                if place < stage.percent / 100:
                    return True
            elif stage.labels is not None and stage.labels.items() <= labels.items():
                return True
        return False


def place_of(policy: str, revision: int, agent: str) -> float:
    """Where an agent stands in the order of a rollout: from 0 to 1, random, and always the same."""
    digest = hashlib.sha256(f"{policy}/{revision}/{agent}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def chosen(policy: str, revision: int, count: int, agents: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """The first ``count`` agents in the order of a rollout, without those of ``but``; sorted by name."""
    left = sorted((agent for agent in agents if agent not in but), key=lambda each: place_of(policy, revision, each))
    return sorted(left[:count])
