"""Carries out a run: in each round fresh namespaces and fresh agents."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.admission.load import percentile
from benchmarks.agent.figures import ADOPTED, AGENT, ALL, IDLE, MEMORY, PACED, TOGETHER
from benchmarks.agent.ground import Agent, Ground
from benchmarks.measured import Measured
from benchmarks.processes import process_seconds, resident_mib
from benchmarks.progress import Progress
from benchmarks.results import Results, Sample
from benchmarks.stage import Placement
from traffic_policy.settings import AgentDatapath

_SETTLE_S = 5.0
"""Between the last lanes and what is measured at rest: interfaces that have just come up send a few packets."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``workloads`` are there at once and rest for ``seconds``; ``coming`` more are made, ``rate`` in each second.

    ``datapath`` is the agent's.
    """

    rounds: int
    workloads: int
    seconds: float
    coming: int
    rate: float
    datapath: str = AgentDatapath.AUTO


class Runner:
    """One run. ``path`` is where the JSON document is kept up to date after every round."""

    def __init__(self, placement: Placement, results: Results, progress: Progress, path: Path, plan: Plan) -> None:
        self._placement = placement
        self._results = results
        self._progress = progress
        self._path = path
        self._plan = plan

    def run(self) -> None:
        """Carry out the plan. Raises :class:`~benchmarks.errors.BenchmarkError` when an agent does not do its work."""
        self._progress.begin(self._plan.rounds * len(ALL))
        for number in range(1, self._plan.rounds + 1):
            self._progress.show(number, AGENT, "namespaces")
            with (
                tempfile.TemporaryDirectory(prefix="podlane-bench-") as folder,
                Ground() as ground,
                Agent(Path(folder), self._placement.proxy, self._plan.datapath) as agent,
            ):
                self._at_once(number, ground, agent)
                self._paced(number, ground, agent)
            self._results.write(self._path)

    def _at_once(self, number: int, ground: Ground, agent: Agent) -> None:
        names = ground.names(self._plan.workloads)
        for each in names:
            ground.make(each)
        agent.name(names[:1])
        agent.start()
        agent.wait(names[:1])
        start = agent.cpu_seconds()
        time.sleep(_SETTLE_S)
        one, cpu, began = resident_mib([agent.pid]), agent.cpu_seconds(), time.monotonic()
        agent.name(names)
        agent.wait(names)
        seconds, cpu, further = time.monotonic() - began, agent.cpu_seconds() - cpu, len(names) - 1
        self._keep(number, TOGETHER, {"seconds": seconds, "cpu_ms": cpu / further * 1e3})
        time.sleep(_SETTLE_S)
        full = resident_mib([agent.pid])
        self._keep(number, MEMORY, {"one_mib": one, "all_mib": full, "each_mib": (full - one) / further})
        cpu, began = process_seconds(agent.pid), time.monotonic()
        time.sleep(self._plan.seconds)
        share = (process_seconds(agent.pid) - cpu) / (time.monotonic() - began)
        self._keep(number, IDLE, {"cpu_percent": share * 100})
        agent.end(signal.SIGKILL)
        began = time.monotonic()
        agent.start()
        agent.wait(names)
        seconds, cpu = time.monotonic() - began, agent.cpu_seconds()
        agent.end(signal.SIGTERM)
        self._keep(number, ADOPTED, {"seconds": seconds, "cpu_s": cpu, "start_s": start})

    def _paced(self, number: int, ground: Ground, agent: Agent) -> None:
        """The names are known before, as those of Pods are; then the namespaces come."""
        names = ground.names(self._plan.coming)
        first = ground.names(1)[0]
        ground.make(first)
        agent.name([first, *names])
        agent.start()
        agent.wait([first])
        time.sleep(_SETTLE_S)
        began, made, late = time.monotonic(), {}, []
        for i, each in enumerate(names):
            due = began + i / self._plan.rate
            time.sleep(max(0.0, due - time.monotonic()))
            ground.make(each)
            made[each] = time.time()
            late.append(max(0.0, time.monotonic() - due))
        agent.wait(names)
        in_force = agent.in_force()
        took = [max(0.0, in_force[each] - at) for each, at in made.items()]
        agent.end(signal.SIGTERM)
        self._keep(
            number,
            PACED,
            {
                "p50_ms": percentile(took, 0.5) * 1e3,
                "p99_ms": percentile(took, 0.99) * 1e3,
                "late_p99_ms": percentile(late, 0.99) * 1e3,
            },
        )

    def _keep(self, number: int, measured: Measured, values: Mapping[str, float]) -> None:
        sample = Sample(number, AGENT, measured.name, values)
        self._results.samples.append(sample)
        self._progress.done(number, AGENT, measured, sample)
