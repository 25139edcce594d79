"""Carries out a run: rounds, in each of which every scenario has a sidecar of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.abuse.arena import Arena
from benchmarks.abuse.figures import Scenario, Size
from benchmarks.errors import BenchmarkError
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample
from benchmarks.stage import Placement


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; a scenario runs on those of its datapaths that are wanted."""

    scenarios: Sequence[Scenario]
    datapaths: Sequence[str]
    rounds: int
    size: Size

    @property
    def pairs(self) -> list[tuple[Scenario, str]]:
        """Each scenario with each datapath."""
        return [(s, datapath) for s in self.scenarios for datapath in s.datapaths if datapath in self.datapaths]


class Runner:
    """One run. ``path`` is where the JSON document is kept up to date after every scenario."""

    def __init__(self, placement: Placement, results: Results, progress: Progress, path: Path, plan: Plan) -> None:
        self._placement = placement
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan

    def run(self) -> None:
        """Carry out the plan. What fails is a sample, too. Raises :class:`BenchmarkError` without namespaces."""
        pairs = self._plan.pairs
        self._progress.begin(self._plan.rounds * len(pairs))
        for number in range(1, self._plan.rounds + 1):
            for scenario, datapath in pairs:
                self._progress.show(number, datapath, scenario.name)
                with Arena(self._placement) as arena:
                    sample = self._sample(arena, number, scenario, datapath)
                self._results.samples.append(sample)
                self._progress.done(number, datapath, scenario, sample)
                self._results.write(self._path)

    def _sample(self, arena: Arena, number: int, scenario: Scenario, datapath: str) -> Sample:
        try:
            values = scenario.run(arena, self._plan.size, datapath)
        except BenchmarkError as error:
            return Sample(number, datapath, scenario.name, {}, failure=str(error))
        return Sample(number, datapath, scenario.name, values)
