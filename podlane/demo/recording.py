"""The measurements of a part, and their verdict. Pure.

The kernel's byte counters are read every :data:`SAMPLE_SECONDS`; every rate here is the difference of two readings over
the time between them, headers included, as HTB counts. Verdicts use only the settled part of each phase.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from podlane.demo.scenario import PhaseSpan, Scenario, TransferDirection
from traffic_policy.policy import ResolvedClass
from traffic_policy.units import Rate

SAMPLE_SECONDS: Final = 0.25
WINDOW_SECONDS: Final = 1.0
"""Rates shown are means over this: at 5 Mbit/s some ten full packets of segmentation offload, so a steady line."""
CEIL_TOLERANCE: Final = 1.05
GUARANTEE_TOLERANCE: Final = 0.95
USE_TOLERANCE: Final = 0.95
"""Required share of the usable total: below it, bandwidth in demand was left unused."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The byte counter of every lane at a time (seconds from the start)."""

    time: float
    sent: Mapping[str, int]


@dataclass
class Recording:
    """Samples in order of time. ``changed_at``: when the new limits were in force, once they were."""

    scenario: Scenario
    samples: list[Sample] = field(default_factory=list)
    changed_at: float | None = None

    def add(self, time: float, sent: Mapping[str, int]) -> None:
        """Take in one reading of the counters."""
        self.samples.append(Sample(time, dict(sent)))

    @property
    def now(self) -> float:
        """The time of the latest sample."""
        return self.samples[-1].time if self.samples else 0.0

    def rate(self, lane: str, start: float, end: float) -> float | None:
        """Mean rate in bit/s between the samples nearest to ``start`` and ``end``; None when they are the same."""
        first, last = self._nearest(start), self._nearest(end)
        if first is None or last is None or last.time <= first.time:
            return None
        return (last.sent[lane] - first.sent[lane]) * 8 / (last.time - first.time)

    def current(self, lane: str) -> float:
        """Rate in bit/s over the last :data:`WINDOW_SECONDS`."""
        return self.rate(lane, self.now - WINDOW_SECONDS, self.now) or 0.0

    def curve(self, lane: str, window: float) -> Iterator[tuple[float, float]]:
        """(time, bit/s) for plotting: means over ``window`` seconds, each at the middle of its window."""
        for sample in self.samples:
            rate = self.rate(lane, sample.time - window / 2, sample.time + window / 2)
            if rate is not None:
                yield sample.time, rate

    def limits(self, lane: str, time: float) -> ResolvedClass:
        """The limits of the class at a time."""
        changed = self.changed_at is not None and time >= self.changed_at
        return (self.scenario.after if changed else self.scenario.before)[lane]

    def _nearest(self, time: float) -> Sample | None:
        if not self.samples:
            return None
        index = bisect_left(self.samples, time, key=lambda s: s.time)
        around = self.samples[max(0, index - 1) : index + 1]
        return min(around, key=lambda s: abs(s.time - time))


@dataclass(frozen=True, slots=True)
class Measured:
    """A lane in the settled part of a phase."""

    span: PhaseSpan
    lane: str
    rate: Rate
    limits: ResolvedClass

    @property
    def within_ceil(self) -> bool:
        return self.rate.bits_per_second <= self.limits.ceil.bits_per_second * CEIL_TOLERANCE

    @property
    def guarantee_kept(self) -> bool:
        return self.rate.bits_per_second >= self.limits.rate.bits_per_second * GUARANTEE_TOLERANCE

    @property
    def good(self) -> bool:
        return self.within_ceil and self.guarantee_kept


@dataclass(frozen=True, slots=True)
class DemoVerdict:
    """Everything that was measured, by phase and lane, and what is wrong with it (nothing: ``problems`` is empty).

    ``used``: in a phase, how much of what was possible on a way the lanes together had, from 0 to 1. What was not
    active in a phase is in neither.
    """

    measured: Mapping[tuple[PhaseSpan, str], Measured]
    used: Mapping[tuple[PhaseSpan, TransferDirection], float]
    problems: tuple[str, ...]


def assess(recording: Recording) -> DemoVerdict:
    """Measure every phase and compare it with the limits."""
    scenario = recording.scenario
    measured: dict[tuple[PhaseSpan, str], Measured] = {}
    used: dict[tuple[PhaseSpan, TransferDirection], float] = {}
    problems: list[str] = []
    for span in scenario.spans:
        limits = span.limits(scenario)
        for way in scenario.totals:
            active = [lane for lane in scenario.on(way) if lane.name in span.active]
            if not active:
                continue
            together = 0
            for lane in (each.name for each in active):
                rate = recording.rate(lane, span.steady, span.end)
                if rate is None:
                    problems.append(f"{lane}: nothing was measured in the phase “{span.phase.name}”.")
                    continue
                found = measured[span, lane] = Measured(span, lane, Rate(round(rate)), limits[lane])
                problems += _problems(found)
                together += found.rate.bits_per_second
            possible = scenario.possible(active, limits)
            share = used[span, way] = together / possible
            if share < USE_TOLERANCE:
                problems.append(
                    f"Only {share:.0%} of {Rate(possible).human} was used in the phase “{span.phase.name}”, "
                    "although the lanes wanted more. Something else may be taking this machine's time; try again."
                )
    if scenario.change_at is not None and recording.changed_at is None:
        problems.append("The change of limits never came into force.")
    return DemoVerdict(measured, used, tuple(problems))


def _problems(found: Measured) -> Iterator[str]:
    where = f"in the phase “{found.span.phase.name}”"
    if not found.within_ceil:
        yield f"{found.lane}: {found.rate.human} is over its ceil of {found.limits.ceil.human} {where}."
    if not found.guarantee_kept:
        yield f"{found.lane}: {found.rate.human} is below its guarantee of {found.limits.rate.human} {where}."
