"""Carries out a plan: starts each candidate in its turn, measures it, and keeps what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.candidates import Candidate
from benchmarks.errors import CandidateError, MeasurementError
from benchmarks.metrics import Bench, Metric
from benchmarks.plan import Turn, applicable, turns
from benchmarks.progress import Progress
from benchmarks.results import CandidateInfo, Results, Sample
from benchmarks.stage import Placement, Stage
from podlane.errors import LabError
from traffic_policy.errors import PodlaneError


class Runner:
    """One run. ``path`` is where the JSON document is kept up to date after every turn.

    Every turn gets new namespaces and servers: chains that iptables leaves empty, connections that conntrack and
    TIME_WAIT remember, and memory that servers have grown to would be a handicap for whoever comes next.
    """

    def __init__(self, placement: Placement, results: Results, progress: Progress, path: Path, *, seconds: int) -> None:
        self._placement = placement
        self._results = results
        self._progress = progress
        self._path = path
        self._seconds = seconds

    def compare(self, candidates: Sequence[Candidate], metrics: Sequence[Metric], rounds: int) -> None:
        """Measure every candidate that is there with every metric that it can do. Failures are samples too."""
        present = []
        for candidate in candidates:
            missing = candidate.missing()
            version = "" if missing else candidate.version()
            self._results.candidates[candidate.name] = CandidateInfo(candidate.title, version, missing)
            if missing:
                self._progress.say(f"{candidate.name}: not available. {missing}")
            else:
                present.append(candidate)
        for metric in metrics:
            names = [c.name for c in present if not applicable(c, metric)]
            if names:
                self._results.not_applicable[metric.name] = names
        self.carry_out(list(turns(present, metrics, rounds)))

    def carry_out(self, plan: Sequence[Turn]) -> None:
        """Take every turn in order. Failures are samples too."""
        self._progress.begin(sum(len(turn.metrics) for turn in plan))
        for turn in plan:
            self._take(turn)
            self._results.write(self._path)

    def _take(self, turn: Turn) -> None:
        left = list(turn.metrics)
        self._progress.show(turn.round, turn.name, "starting")
        with Stage(self._placement, inbound=turn.policy.inbound) as stage:
            stage.name_hosts(turn.policy)
            try:
                with turn.candidate.running(stage, turn.policy) as running:
                    bench = Bench(stage, turn.policy, running, self._seconds)
                    while left:
                        self._progress.show(turn.round, turn.name, left[0].name)
                        self._measure(turn, left[0], bench)
                        del left[0]
            except (CandidateError, LabError, PodlaneError) as error:
                for metric in left:
                    self._keep(turn, metric, Sample(turn.round, turn.name, metric.name, {}, 1, str(error)))

    def _measure(self, turn: Turn, metric: Metric, bench: Bench) -> None:
        name = turn.name
        try:
            outcome = metric.measure(bench)
        except MeasurementError as error:
            sample = Sample(turn.round, name, metric.name, {}, 1, str(error))
        else:
            sample = Sample(turn.round, name, metric.name, outcome.values, outcome.errors)
        self._keep(turn, metric, sample)

    def _keep(self, turn: Turn, metric: Metric, sample: Sample) -> None:
        self._results.samples.append(sample)
        self._progress.done(turn.round, turn.name, metric, sample)
