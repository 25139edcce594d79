"""Whether a rollout goes on, waits, or is taken back, by what is seen of the agents that it has reached. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.domain.rollout import PrometheusGate, Rollout

_FEW: Final = 1000
"""Packets of which a share says nothing yet."""
_NEGLIGIBLE: Final = 0.001
"""A share that is never too much: twice of nothing is nothing."""
_MOST_NAMED: Final = 3
FAILED, AWAY, DROPPED, THROTTLED = "failed", "away", "dropped", "throttled"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through the lanes of a policy, and how much of it was dropped or had to wait, in packets."""

    packets: int = 0
    dropped: int = 0
    throttled: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Both together."""
        return Traffic(self.packets + other.packets, self.dropped + other.dropped, self.throttled + other.throttled)


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The largest value of a Prometheus gate; None: it has none. ``trouble``: why it could not be asked."""

    gate: PrometheusGate
    value: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class SeenOfRollout:
    """What is seen of a rollout's agents.

    ``reached``: so many it has reached; ``having``: so many of them have said that they have it; ``away``: so many are
    not connected to this process, ``lost`` of which were when the step began. ``failures``: who failed, and why.
    ``good_for``: seconds since all that are connected have it. ``before``: the traffic of all agents before it began;
    ``now``: of those reached, since the step.
    """

    reached: int = 0
    having: int = 0
    away: int = 0
    lost: int = 0
    failures: Sequence[tuple[str, str]] = ()
    good_for: float = 0.0
    before: Traffic = Traffic()
    now: Traffic = Traffic()
    answers: Sequence[QueryAnswer] = ()


@dataclass(frozen=True, slots=True)
class GateReading:
    """What a gate says: ``gate`` is ``failed`` (agents), ``away``, ``dropped`` or ``throttled`` (shares of 1), or a
    PromQL query. ``limit``: what ``value`` may be at most. ``before``: the share of packets against which it is held.
    None: not known, or too little was sent to tell.
    """

    gate: str
    value: float | None
    limit: float | None
    before: float | None = None

    @property
    def tripped(self) -> bool:
        """Whether it takes the rollout back."""
        return self.value is not None and self.limit is not None and not self.value <= self.limit


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A gate forbids it; ``reason`` says which, and what was seen."""

    reason: str


@dataclass(frozen=True, slots=True)
class GoOn:
    """The next step may begin."""


@dataclass(frozen=True, slots=True)
class StayAt:
    """The step is not over; ``reason`` says what it waits for."""

    reason: str


Verdict = TakeBack | GoOn | StayAt


def judge(rollout: Rollout, seen: SeenOfRollout) -> Verdict:
    """What becomes of a rollout that is running."""
    if reason := _forbidden(rollout, seen):
        return TakeBack(reason)
    troubles = [answer for answer in seen.answers if answer.trouble]
    if troubles:
        return StayAt(f"{troubles[0].gate.query!r} cannot be asked: {troubles[0].trouble}")
    if seen.away > rollout.plan.gates.away * seen.reached:
        return StayAt(f"{seen.away} of {seen.reached} agents are away, {rollout.plan.gates.away:.0%} may be")
    missing = seen.reached - seen.away - seen.having
    if missing > 0:
        return StayAt(f"{missing} of {seen.reached} agents have not said yet that they have it")
    left = rollout.plan.soak - seen.good_for
    if left > 0:
        return StayAt(f"it has been good for {int(seen.good_for)} of {rollout.plan.soak} s")
    return GoOn()


def read_gates(rollout: Rollout, seen: SeenOfRollout) -> list[GateReading]:
    """What each of its gates says now, in the order in which they count."""
    gates = rollout.plan.gates
    found = [
        GateReading(FAILED, len(seen.failures), gates.failed),
        GateReading(AWAY, seen.lost / seen.reached if seen.reached else 0.0, gates.away),
    ]
    for name, factor, now, before in (
        (DROPPED, gates.dropped, seen.now.dropped, seen.before.dropped),
        (THROTTLED, gates.throttled, seen.now.throttled, seen.before.throttled),
    ):
        if factor is None:
            continue
        if min(seen.now.packets, seen.before.packets) < _FEW:
            found.append(GateReading(name, None, None))
            continue
        was = before / seen.before.packets
        found.append(GateReading(name, now / seen.now.packets, max(was * factor, _NEGLIGIBLE), was))
    values = {answer.gate: answer.value for answer in seen.answers}
    found += [GateReading(each.query, values.get(each), each.at_most) for each in gates.prometheus]
    return found


def _forbidden(rollout: Rollout, seen: SeenOfRollout) -> str:
    tripped = next((each for each in read_gates(rollout, seen) if each.tripped), None)
    if tripped is None:
        return ""
    gates = rollout.plan.gates
    match tripped.gate:
        case "failed":
            named = "; ".join(f"{agent}: {why}" for agent, why in seen.failures[:_MOST_NAMED])
            return f"{len(seen.failures)} of {seen.reached} agents failed, {gates.failed} may. {named}"
        case "away":
            return f"{seen.lost} of {seen.reached} agents have gone away since, {gates.away:.0%} may"
        case "dropped" | "throttled":
            what = "were dropped" if tripped.gate == DROPPED else "had to wait"
            return f"{tripped.value:.1%} of packets {what}, {tripped.before:.1%} before"
        case query:
            return f"{query!r} is {tripped.value:g}, more than {tripped.limit:g}"
