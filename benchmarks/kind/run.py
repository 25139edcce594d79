"""Carries out a run: rounds, in each of which every variant gets Pods and all loads; then starts; then a burst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.kind import burst, manifests, startup
from benchmarks.kind.agents import AGENTS_CONTAINER, agent_of
from benchmarks.kind.cluster import Api, Cluster
from benchmarks.kind.dump import dump
from benchmarks.kind.figures import ACCURACY, ADMISSION, CPU, END, PER_TURN, STARTUP, USAGE, Measured
from benchmarks.kind.kubelet import Container, Counter
from benchmarks.kind.loads import LOADS, Pair, pair
from benchmarks.kind.manifests import SIDECAR, Place
from benchmarks.kind.startup import Start, Watcher
from benchmarks.kind.variants import AGENT, PLAIN, RELAY, WEB, Variant
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample

STARTED: Final = (PLAIN, RELAY, AGENT)
"""Whose starts are timed."""
CREATED: Final = (PLAIN, RELAY)
"""Whose creations are timed: a Pod without a sidecar and one with it."""
_OF_A_START: Final = ("start_cpu_s", "fresh_mib")
"""Figures of a process that begins with its Pod."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. ``seconds``: of a load; ``pods``: whose start is timed; ``burst``: created at once."""

    variants: Sequence[Variant]
    measures: Sequence[Measured]
    rounds: int
    seconds: int
    pods: int
    burst: int

    @property
    def started(self) -> list[Variant]:
        """The variants whose starts are timed, as far as they are wanted."""
        return [variant for variant in STARTED if variant in self.variants]

    @property
    def created(self) -> list[Variant]:
        """The variants whose creations are timed, as far as they are wanted."""
        return [variant for variant in CREATED if variant in self.variants]

    def of(self, variant: Variant) -> list[Measured]:
        """What is measured with a pair of Pods of a variant."""
        return [
            measured
            for measured in self.measures
            if measured in PER_TURN
            and (measured is not ACCURACY or variant.limits)
            and (measured is not USAGE or variant.ours)
        ]

    def turns(self) -> Iterator[tuple[int, Variant]]:
        """Interleaved: A B C A B C, so that a machine that slows down or speeds up does it to everybody."""
        for number in range(1, self.rounds + 1):
            yield from ((number, variant) for variant in self.variants if self.of(variant))

    def starts(self) -> Iterator[tuple[int, Variant]]:
        """A B C C B A A B C C B A: none comes always behind the same one, which may still be ending."""
        for number in range(self.pods):
            yield from ((number, variant) for variant in (self.started if number % 2 == 0 else self.started[::-1]))

    @property
    def steps(self) -> int:
        """How many measurements there will be."""
        once = (STARTUP, self.started), (ADMISSION, self.created)
        turns = sum(len(self.of(variant)) for _, variant in self.turns())
        return turns + sum(len(variants) for measured, variants in once if measured in self.measures)


class Runner:
    """One run. ``path`` is the JSON document, which is kept up to date after every turn; dumps go beside it."""

    def __init__(
        self, cluster: Cluster, api: Api, place: Place, results: Results, progress: Progress, path: Path, plan: Plan
    ) -> None:
        self._cluster = cluster
        self._api = api
        self._place = place
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan

    def run(self) -> None:
        """Carry out the plan. Failures are samples too."""
        self._progress.begin(self._plan.steps)
        for number, variant in self._plan.turns():
            self._turn(number, variant)
            self._results.write(self._path)
        if STARTUP in self._plan.measures and self._plan.started:
            self._starts()
            self._results.write(self._path)
        if ADMISSION in self._plan.measures:
            for variant in self._plan.created:
                self._burst(variant)
            self._results.write(self._path)

    def _turn(self, number: int, variant: Variant) -> None:
        left = self._plan.of(variant)
        self._progress.show(number, variant.name, "starting Pods")
        seconds = self._plan.seconds
        try:
            with pair(
                self._cluster, self._api, self._place, variant, seconds, lambda: self._explain(number, variant)
            ) as pods:
                usage = Counter(self._held_by(variant, pods).next_look) if USAGE in left else None
                for measured in [each for each in left if each is not USAGE]:
                    self._progress.show(number, variant.name, measured.name)
                    self._load(number, variant, measured, pods, usage)
                    left.remove(measured)
                if usage:
                    figures = usage.figures()
                    if variant.agent:
                        figures = {key: value for key, value in figures.items() if key not in _OF_A_START}
                    self._keep(number, variant, USAGE, figures)
                    left.remove(USAGE)
        except BenchmarkError as error:
            # Where all is measured, and the Pods could not be removed: it may be seen in what comes next.
            self._fail(number, variant, left or [END], error)

    def _held_by(self, variant: Variant, pods: Pair) -> Container:
        """Whose CPU and memory are a variant's."""
        node = self._place.node
        if variant.agent:
            return Container(self._api, node, *agent_of(self._api, node), AGENTS_CONTAINER)
        return Container(self._api, node, self._place.namespace, pods.clients[WEB], SIDECAR)

    def _load(self, number: int, variant: Variant, measured: Measured, pods: Pair, usage: Counter | None) -> None:
        try:
            if usage:
                usage.begin()
            loaded = LOADS[measured.name](pods)
        except MeasurementError as error:
            self._explain(number, variant)
            self._fail(number, variant, [measured], error)
            return
        values = dict(loaded.outcome.values)
        if usage and measured.name in CPU:
            try:
                values[CPU[measured.name]] = usage.cpu() / loaded.amount
            except MeasurementError as error:
                self._fail(number, variant, [USAGE], error)
        self._keep(number, variant, measured, values, loaded.outcome.errors)

    def _starts(self) -> None:
        found: dict[str, list[Start]] = {variant.name: [] for variant in self._plan.started}
        watcher = Watcher(self._api, self._place.namespace)
        try:
            with watcher.watching():
                for number, variant in self._plan.starts():
                    self._progress.show(1, variant.name, f"start {number + 1} of {self._plan.pods}")
                    document = manifests.started(self._place, f"start-{variant.name}-{number}", variant)
                    found[variant.name].append(watcher.start(document))
        except BenchmarkError as error:
            for variant in self._plan.started:
                self._explain(1, variant)
                self._fail(1, variant, [STARTUP], error)
            return
        for variant in self._plan.started:
            self._keep(1, variant, STARTUP, startup.figures(found[variant.name]))

    def _burst(self, variant: Variant) -> None:
        self._progress.show(1, variant.name, f"{self._plan.burst} Pods at once")
        try:
            values = burst.create(self._api, self._place, self._plan.burst, variant)
        except BenchmarkError as error:
            self._explain(1, variant)
            self._fail(1, variant, [ADMISSION], error)
        else:
            self._keep(1, variant, ADMISSION, values)

    def _explain(self, number: int, variant: Variant) -> None:
        """Write what the cluster knows that may explain a failure."""
        path = self._path.parent / f"failure-{number}-{variant.name}.txt"
        path.write_text(dump(self._cluster, self._place.namespace))
        self._progress.say(f"   Pods, events and logs are in {path}")

    def _fail(self, number: int, variant: Variant, what: Sequence[Measured], error: BenchmarkError) -> None:
        """Keep the reason for every measurement that there is not."""
        for measured in what:
            self._keep(number, variant, measured, {}, 1, str(error))

    def _keep(
        self, number: int, variant: Variant, measured: Measured, values: Mapping[str, float], errors: int = 0,
        failure: str | None = None,
    ) -> None:  # fmt: skip
        sample = Sample(number, variant.name, measured.name, values, errors, failure)
        self._results.samples.append(sample)
        self._progress.done(number, variant.name, measured, sample)
