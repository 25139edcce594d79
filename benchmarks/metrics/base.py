"""What a metric is: a function that measures a running candidate, and what its figures mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from benchmarks.candidates.base import Ability, Running
from benchmarks.policies import BenchPolicy, wide
from benchmarks.processes import Meter
from benchmarks.stage import Stage

GIB: Final = 1 << 30
WIDE: Final = wide()


class Better(StrEnum):
    """Which way is better."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a metric: its title in tables, its unit, and which way is better.

    ``partial``: the title says something only behind the metric's.
    """

    title: str
    unit: str
    better: Better
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one measurement gave; ``errors`` are connections and requests that failed."""

    values: Mapping[str, float]
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """A candidate in force, to be measured for about ``seconds``."""

    stage: Stage
    policy: BenchPolicy
    running: Running
    seconds: int

    def meter(self) -> Meter:
        """Start counting what the candidate costs."""
        return Meter(self.running.pids)


@dataclass(frozen=True)
class Metric:
    """``measure`` raises :class:`MeasurementError` when it cannot give its figures."""

    name: str
    group: str
    title: str
    measure: Callable[[Bench], Outcome]
    figures: Mapping[str, Figure]
    needs: frozenset[Ability] = frozenset()
    policy: BenchPolicy = field(default=WIDE)


CPU_PER_1000_CONNECTIONS: Final = Figure("CPU per 1,000 connections", "s", Better.LESS, partial=True)
CPU_PER_GIB: Final = Figure("CPU per GiB", "s", Better.LESS, partial=True)
BUSY_PER_1000: Final = Figure("whole machine per 1,000", "s", Better.LESS, partial=True)
BUSY_PER_GIB: Final = Figure("whole machine per GiB", "s", Better.LESS, partial=True)
